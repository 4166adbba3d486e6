"""The table in `_init_weights`, held against the tensors."""

from __future__ import annotations

import pytest
import torch

from lara_tokenizer.model import LatentActionConfig, LatentActionModel


def _fresh(**changes):
    torch.manual_seed(0)
    return LatentActionModel(LatentActionConfig(**{"initializer_range": 0.02, **changes}))


@pytest.fixture(scope="module")
def model():
    return _fresh()


def test_linear_weights_and_learned_tables_start_truncated_normal(model):
    m_former, decoder = model.inverse_dynamics.m_former, model.forward_dynamics.decoder
    layer = m_former.transformer.layers[0]
    tables = [m_former.queries, m_former.separator, m_former.positions, m_former.segments, decoder.positions]
    weights = [m_former.projection, layer.attention.qkv, layer.attention.output, layer.mlp_in, layer.mlp_out]
    weights += [decoder.patches, decoder.fuse_latents]
    for tensor in tables + [module.weight for module in weights]:
        assert abs(tensor.std().item() / 0.02 - 1) < 0.2
        assert abs(tensor.mean().item()) < 5 * 0.02 / tensor.numel() ** 0.5
        assert tensor.abs().max() < 2
    assert not any(module.bias.any() for module in weights)


def test_the_range_of_the_config_is_taken():
    model = _fresh(initializer_range=0.1)
    assert abs(model.inverse_dynamics.m_former.projection.weight.std().item() / 0.1 - 1) < 0.1


def test_resamplers_start_as_pytorch_s_linear_does(model):
    for module in (*model.inverse_dynamics.to_latents[::2], *model.forward_dynamics.from_latents[::2]):
        bound = module.in_features**-0.5
        for tensor in (module.weight, module.bias):
            assert tensor.abs().max() <= bound
            assert tensor.abs().max() > 0.8 * bound
        assert abs(module.weight.std().item() / (bound / 3**0.5) - 1) < 0.1


def test_norms_start_as_the_identity(model):
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert norms
    for norm in norms:
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert not norm.bias.any()


def test_the_codebook_starts_uniform_in_one_over_k(model):
    codebook = model.bottleneck.codebook.weight
    assert codebook.abs().max() <= 1 / 128
    assert codebook.abs().max() > 0.99 / 128
    assert abs(codebook.std().item() * 128 * 3**0.5 - 1) < 0.05


def test_counters_and_statistics_start_empty(model):
    assert not model.bottleneck.code_usage.any()
    norm = model.inverse_dynamics.standardize
    assert not norm.running_mean.any()
    assert torch.equal(norm.running_var, torch.ones(32))
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("warp", [False, True])
def test_a_residual_decoder_starts_by_copying_frame_t(warp):
    model, now = _fresh(decoder_warp=warp), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.decode(now, codes=torch.zeros(2, 8, dtype=torch.long)), now) or warp
        torch.testing.assert_close(model.decode(now, codes=torch.zeros(2, 8, dtype=torch.long)), now, atol=1e-4, rtol=0)


def test_nothing_moves_before_the_first_step():
    head = _fresh(decoder_warp=True).forward_dynamics.decoder.to_flow
    assert not head.weight.any()
    assert not head.bias.any()


def test_a_plain_decoder_starts_with_pixels_of_its_own():
    assert _fresh(decoder_residual=False).forward_dynamics.decoder.to_pixels.weight.any()
