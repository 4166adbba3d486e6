"""Contracts of encode, decode and forward."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from lara_tokenizer.model import LatentActionConfig, LatentActionModel


def _frames(batch=6, size=32, seed=0):
    return torch.randn(2, batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def _scrambled(config, seed=0):
    """A model whose every tensor matters: the zero start of the residual head is gone, codes vary."""
    torch.manual_seed(seed)
    model = LatentActionModel(deepcopy(config)).eval()  # a model writes into its config when it folds
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
        now, future = _frames(24)
        model.bottleneck.start_codebook(model.encode(now, future).latents)
    return model


@pytest.fixture(scope="module")
def changed(tiny_config):
    """changed(**changes): the tiny config with other fields."""

    def make(**changes):
        return LatentActionConfig.from_dict({**tiny_config.to_dict(), **changes})

    return make


@pytest.fixture(scope="module")
def model(tiny_config):
    return _scrambled(tiny_config)


@torch.no_grad()
def test_encoding_twice_gives_the_same_bits(model):
    now, future = _frames()
    first, second = model.encode(now, future), model.encode(now, future)
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.codes, second.codes)
    assert first.codes.unique().numel() > 4


@torch.no_grad()
def test_a_shuffled_patch_order_changes_latents_from_call_to_call(changed):
    model = _scrambled(changed(patch_order="shuffled"))
    now, future = _frames()
    assert not torch.equal(model.encode(now, future).latents, model.encode(now, future).latents)


@torch.no_grad()
def test_neighbours_in_the_batch_change_nothing_on_one_thread(model):
    now, future = _frames()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the encoder runs; more threads cut a batch into pieces that may round differently
    try:
        here, there = model.encode(now, future).latents, model.encode(now[order], future[order]).latents
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(here[order], there)


@torch.no_grad()
def test_the_output_fields_have_their_documented_shapes(model):
    now, future = _frames()
    out = model.encode(now, future)
    assert out.latents.shape == out.quantized_latents.shape == (6, 4, 8)
    assert out.codes.shape == out.code_margin.shape == (6, 4)
    assert out.codes.dtype == torch.int64
    assert out.attentions is None
    assert model.get_frame_features(now).shape == (6, 17, 16)
    whole = model(now, future)
    assert whole.reconstruction.shape == now.shape
    assert whole.losses.keys() == {"reconstruction", "codebook", "commitment"}
    assert all(value is not None for value in whole.values())


@torch.no_grad()
def test_features_and_pixels_are_two_ways_to_the_same_latents(model):
    now, future = _frames()
    features, future_features = model.get_frame_features(now), model.get_frame_features(future)
    by_pixels = model.encode(now, future)
    by_features = model.encode(frame_features=features, future_frame_features=future_features)
    mixed = model.encode(now, future_frame_features=future_features)
    assert torch.equal(by_pixels.latents, by_features.latents)
    assert torch.equal(by_pixels.latents, mixed.latents)


@torch.no_grad()
def test_the_order_of_the_frames_matters(model):
    now, future = _frames()
    assert not torch.allclose(model.encode(now, future).latents, model.encode(future, now).latents, atol=1e-3)


@torch.no_grad()
def test_a_shared_segment_row_leaves_row_1_unread(changed, model):
    now, future = _frames()
    shared = _scrambled(changed(segment_embedding="shared"))
    for candidate, reads in ((shared, False), (model, True)):
        before = candidate.encode(now, future).latents
        row = candidate.inverse_dynamics.m_former.segments[1]
        saved = row.clone()
        row.add_(torch.randn_like(row))
        assert torch.equal(candidate.encode(now, future).latents, before) != reads
        row.copy_(saved)


@torch.no_grad()
def test_decoding_codes_equals_decoding_their_quantized_latents(model):
    now, future = _frames()
    out = model.encode(now, future)
    by_codes = model.decode(now, codes=out.codes)
    assert torch.equal(by_codes, model.decode(now, quantized_latents=out.quantized_latents))
    assert torch.equal(by_codes, model(now, future).reconstruction)
    assert not torch.equal(by_codes, model.decode(now, codes=(out.codes + 1) % 16))


@torch.no_grad()
def test_quantizing_latents_is_the_second_half_of_encoding(model):
    now, future = _frames()
    out = model.encode(now, future)
    again = model.quantize(out.latents)
    for field in ("latents", "codes", "quantized_latents", "code_margin"):
        assert torch.equal(out[field], again[field])


@torch.no_grad()
def test_a_residual_decoder_adds_frame_t(model, changed):
    plain = LatentActionModel(changed(decoder_residual=False)).eval()
    plain.load_state_dict(model.state_dict())
    now, _ = _frames()
    codes = torch.arange(24).reshape(6, 4) % 16
    torch.testing.assert_close(now + plain.decode(now, codes=codes), model.decode(now, codes=codes))


@torch.no_grad()
def test_the_loss_is_the_weighted_sum_of_its_named_terms(changed):
    model = _scrambled(
        changed(reconstruction_loss_weight=0.5, codebook_loss_weight=2.0, commitment_loss_weight=3.0, motion_weight=0.0)
    )
    now, future = _frames()
    out = model(now, future)
    terms = out.losses
    torch.testing.assert_close(
        out.loss, 0.5 * terms["reconstruction"] + 2 * terms["codebook"] + 3 * terms["commitment"]
    )
    torch.testing.assert_close(terms["reconstruction"], (out.reconstruction - future).square().mean())
    torch.testing.assert_close(terms["commitment"], (out.latents - out.quantized_latents).square().mean())


@torch.no_grad()
def test_motion_weights_raise_the_error_where_pixels_change_and_average_one(model, changed):
    now = torch.zeros(2, 3, 32, 32)
    future = now.clone()
    future[:, :, :16] = 1.0
    error = (model(now, future).reconstruction - future).square()
    weight = torch.where(future == 1, 1 + model.config.motion_weight, 1.0)
    expected = (error * weight).mean() / weight.mean()
    torch.testing.assert_close(model(now, future).losses["reconstruction"], expected)
    everywhere = model(now, now + 1).losses["reconstruction"]  # alike change: alike weights
    error = (model(now, now + 1).reconstruction - now - 1).square().mean()
    torch.testing.assert_close(everywhere, error)


@torch.no_grad()
def test_masked_pairs_do_not_enter_the_losses(model):
    now, future = _frames()
    mask = torch.tensor([True, False, True, True, False, False])
    expected = model(now[mask], future[mask])
    future[~mask] = 100.0
    masked = model(now, future, pair_mask=mask)
    for name, value in expected.losses.items():
        torch.testing.assert_close(masked.losses[name], value)
    torch.testing.assert_close(masked.loss, expected.loss)
    everything = model(now[mask], future[mask], pair_mask=torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(everything.loss, expected.loss)


def test_with_every_pair_masked_the_loss_is_zero(model):
    now, future = _frames()
    assert model(now, future, pair_mask=torch.zeros(6, dtype=torch.bool)).loss == 0


def test_gradients_reach_every_part_that_learns(tiny_config):
    model = _scrambled(tiny_config).train()
    now, future = _frames()
    model(now, future).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


def test_nothing_frozen_gets_a_gradient_or_a_graph(changed):
    model = _scrambled(changed(freeze_vision_encoder=True)).train()
    now, future = _frames()
    assert not model.get_frame_features(now).requires_grad
    model(now, future).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.vision_encoder.parameters())
    assert all(p.grad is not None for p in model.inverse_dynamics.parameters())


def test_outputs_are_plain_numbers_unless_a_gradient_is_asked_for(model):
    now, future = _frames()
    out = model.encode(now, future)
    outputs = (*out.values(), *model.quantize(out.latents).values(), model.decode(now, codes=out.codes))
    assert not any(each.requires_grad for each in outputs)
    assert model.decode(now, codes=out.codes, requires_grad=True).requires_grad
    asked = model.encode(now, future, requires_grad=True)
    assert torch.equal(asked.codes, out.codes)
    assert model.quantize(asked.latents, requires_grad=True).quantized_latents.requires_grad
    with torch.no_grad():  # the caller's word is the last
        assert not model.encode(now, future, requires_grad=True).latents.requires_grad


@torch.no_grad()
def test_inputs_follow_the_dtype_of_the_model(model):
    now, future = _frames()
    half = deepcopy(model).bfloat16()
    out, expected = half.encode(now, future), half.encode(now.bfloat16(), future.bfloat16())
    assert torch.equal(out.latents, expected.latents)
    assert torch.equal(half.quantize(out.latents.float()).codes, out.codes)
    assert half.decode(now, codes=out.codes.to(torch.int16)).dtype == torch.bfloat16
    assert torch.equal(model.encode(now.double(), future.double()).codes, model.encode(now, future).codes)


def test_the_alignment_gradient_reaches_z_but_not_the_codebook(model):
    now, future = _frames()
    model.encode(now, future, requires_grad=True).latents.square().sum().backward()
    assert model.inverse_dynamics.to_latents[0].weight.grad.any()
    assert model.bottleneck.codebook.weight.grad is None
    assert model.forward_dynamics.decoder.to_pixels.weight.grad is None
    model.zero_grad()


def test_training_steps_count_codes_and_standardize_latents(tiny_config):
    model = _scrambled(tiny_config).train()
    now, future = _frames(32)
    out = model(now, future)
    assert model.bottleneck.code_usage.sum() == 32 * 4
    torch.testing.assert_close(out.latents.flatten(0, 1).mean(0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.latents.flatten(0, 1).var(0, unbiased=False), torch.ones(8), atol=1e-2, rtol=0)


@torch.no_grad()
def test_folding_the_standardization_keeps_the_outputs(tiny_config):
    model = _scrambled(tiny_config).train()
    for seed in range(5):
        model(*_frames(16, seed=seed))
    model.eval()
    now, future = _frames(seed=9)
    before = model.encode(now, future)
    model.fold_standardization()
    after = model.encode(now, future)
    torch.testing.assert_close(after.latents, before.latents, rtol=1e-4, atol=1e-4)
    assert torch.equal(after.codes, before.codes)
    assert not model.config.standardize_latents
    assert not any("standardize" in name for name in model.state_dict())
    model.fold_standardization()
    assert torch.equal(model.encode(now, future).latents, after.latents)


@torch.no_grad()
def test_attention_maps_sum_to_one_and_eager_equals_the_kernel(changed):
    model = _scrambled(changed(num_m_former_layers=2))
    now, future = _frames()
    plain, with_maps = model.encode(now, future), model.encode(now, future, output_attentions=True)
    assert [tuple(map_.shape) for map_ in with_maps.attentions] == [(6, 2, 39, 39)] * 2  # 4 + 17 + 1 + 17 tokens
    for map_ in with_maps.attentions:
        torch.testing.assert_close(map_.sum(-1), torch.ones(6, 2, 39))
    torch.testing.assert_close(with_maps.latents, plain.latents, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m, x: m.encode(x), "either future_pixel_values or the matching frame features"),
        (lambda m, x: m.encode(x, x, frame_features=x), "either pixel_values or the matching frame features"),
        (lambda m, x: m.decode(x), "either codes or quantized_latents"),
        (
            lambda m, x: m.decode(x, codes=torch.zeros(6, 4).long(), quantized_latents=torch.zeros(6, 4, 8)),
            "either codes or quantized_latents",
        ),
        (lambda m, x: m.decode(x, codes=torch.full((6, 4), 16)), "run from 16 to 16, this codebook has 0 to 15"),
        (
            lambda m, x: m.decode(x[..., :16], codes=torch.zeros(6, 4).long()),
            r"pixel_values are \(6, 3, 32, 16\), expected \(batch, 3, 32, 32\)",
        ),
        (
            lambda m, x: m.encode(frame_features=torch.zeros(6, 17, 9), future_frame_features=torch.zeros(6, 17, 9)),
            r"frame features are \(6, 17, 9\), expected \(batch, 17, 16\)",
        ),
        (lambda m, x: m.encode(x.to(torch.uint8), x), r"pixel_values are torch.uint8: takes .* made by the processor"),
        (lambda m, x: m.encode(x, x.numpy()), "future_pixel_values are of type ndarray: takes a tensor of floats"),
        (lambda m, x: m.decode(x, codes=torch.zeros(6, 4)), "codes are torch.float32: takes integers, 0 to 15"),
        (lambda m, x: m.quantize(torch.zeros(6, 4, 7)), r"latent action is \(6, 4, 7\), expected \(batch, 4, 8\)"),
    ],
)
def test_wrong_inputs_are_named(model, call, match):
    with pytest.raises(ValueError, match=match):
        call(model, _frames()[0])


@torch.no_grad()
def test_compiled_encoding_has_no_graph_break_and_the_same_outputs(model):
    now, future = _frames()
    compiled = torch.compile(model.encode, backend="eager", fullgraph=True)
    out, expected = compiled(now, future), model.encode(now, future)
    assert torch.equal(out.codes, expected.codes)
    torch.testing.assert_close(out.latents, expected.latents, rtol=0, atol=1e-6)
    torch.testing.assert_close(out.code_margin, expected.code_margin, rtol=0, atol=1e-5)
