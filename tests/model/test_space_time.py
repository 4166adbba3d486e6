"""The space-time transformer, the configs of its two families, and the processor's crop: what must be true of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lara_tokenizer.model import (
    LatentActionProcessor,
    SpaceTimeVaeConfig,
    SpaceTimeVaeModel,
    SpaceTimeVqConfig,
    SpaceTimeVqModel,
    resolve_checkpoint,
)
from lara_tokenizer.model.space_time_transformer import SpaceTimeAttention, SpaceTimeTransformer, rotate, sinusoids

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}
VISION = {"model_type": "dinov2_with_registers", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
VISION |= {"image_size": 28, "patch_size": 14}


def _transformer(time):
    torch.manual_seed(0)
    return SpaceTimeTransformer(6, 16, 2, 2, time, 1e-5).eval()


@torch.no_grad()
def test_only_a_causal_transformer_keeps_the_first_frame_from_seeing_the_second():
    tokens = torch.randn(1, 2, 3, 6)
    changed = tokens.clone()
    changed[:, 1] += 1
    for time, sees in (("causal", False), ("rotary", True), (None, False)):
        transformer = _transformer(time)
        now, then = transformer(tokens)[:, 0], transformer(changed)[:, 0]
        assert torch.equal(now, then) != sees, time


@torch.no_grad()
def test_only_rotation_tells_in_which_order_frames_come():
    frames = torch.randn(4, 2, 16)
    rotary, plain = SpaceTimeAttention(16, 2, "rotary"), SpaceTimeAttention(16, 2)
    for attention, tells in ((rotary, True), (plain, False)):
        turned = attention(frames.flip(1)).flip(1)
        assert torch.allclose(turned, attention(frames), atol=1e-6) != tells


def test_rotation_keeps_lengths_and_products_depend_on_the_distance_alone():
    query, key = torch.randn(2, 1, 1, 1, 8)
    turned = [rotate(part.expand(1, 1, 5, 8)) for part in (query, key)]
    products = turned[0][0, 0] @ turned[1][0, 0].T
    assert torch.allclose(turned[0].norm(dim=-1), query.norm().expand(1, 1, 5), atol=1e-5)
    assert torch.allclose(products.diagonal(1), products[0, 1].expand(4), atol=1e-5)
    assert torch.equal(turned[0][:, :, 0], query[:, :, 0])


def test_positions_are_sines_and_cosines_at_two_frequencies():
    table = sinusoids(7, 4)
    at = torch.arange(7).float()
    expected = torch.stack([at.sin(), at.cos(), (at / 100).sin(), (at / 100).cos()], 1)
    torch.testing.assert_close(table, expected, rtol=0, atol=1e-6)


def test_patches_are_rows_of_patches_with_colours_last():
    model = SpaceTimeVaeModel(SpaceTimeVaeConfig(image_size=[4, 6], patch_size=2, codebook_dim=3, **SMALL))
    frame = torch.arange(72.0).view(1, 3, 4, 6)
    patches = model.get_frame_features(frame)
    assert patches.shape == (1, 6, 12)
    assert patches[0, 4].view(2, 2, 3).permute(2, 0, 1).equal(frame[0, :, 2:4, 2:4])
    assert model.decode(frame, quantized_latents=torch.zeros(1, 1, 3)).shape == frame.shape


@torch.no_grad()
def test_the_decoder_puts_each_patch_back_in_its_place():
    model = SpaceTimeVaeModel(SpaceTimeVaeConfig(image_size=[4, 6], patch_size=2, codebook_dim=3, **SMALL)).eval()
    seen = {}
    model.to_pixels.register_forward_hook(lambda module, inputs, output: seen.update(patches=output.sigmoid()))
    frame = model.decode(torch.rand(2, 3, 4, 6), quantized_latents=torch.randn(2, 1, 3))
    assert torch.equal(model.get_frame_features(frame), seen["patches"])


def test_a_fresh_model_starts_as_the_table_says():
    torch.manual_seed(0)
    vae = SpaceTimeVaeModel(SpaceTimeVaeConfig(image_size=64, **SMALL))
    vq = SpaceTimeVqModel(SpaceTimeVqConfig(vision_config=VISION, image_size=28, codebook_dim=5, **SMALL))
    for tokens in (vae.action_token, vq.task_tokens, vq.nuisance_tokens):
        assert 0.9 < tokens.abs().max() <= 1
    assert abs(vae.encoder.layers[0].mlp_in.weight.std().item() - 0.02) < 0.002
    assert 0.9 / 16 < vq.bottleneck.codebook.weight.abs().max() <= 1 / 16
    assert not vq.to_latents.bias.any()
    assert not any(parameter.requires_grad for parameter in vq.vision_encoder.parameters())


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"image_size": [240, 328]}, r"patch_size \(16\) must divide the width of image_size \(328\)"),
        ({"image_size": [240, 320, 3]}, r"it takes one side in pixels, or \[height, width\]"),
        ({"hidden_size": 48, "num_attention_heads": 16}, "must be an even number of times num_attention_heads"),
        ({"num_encoder_layers": 0}, r"num_encoder_layers \(0\) must be at least 1"),
        ({"codebook_dim": 0}, "it is the width of z"),
        ({"codebook_size": 16}, "codebook_size is 16; this model has one continuous latent and no codebook"),
        ({"num_latents": 4}, "num_latents is 4; this model has one continuous latent"),
        ({"strides": []}, "strides is empty"),
        ({"strides": ["2"]}, "a gap without a unit"),
    ],
)
def test_a_vae_config_that_cannot_be_is_refused(fields, match):
    with pytest.raises(ValueError, match=match):
        SpaceTimeVaeConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"image_size": 100}, r"vision_config.patch_size \(14\) must divide image_size \(100\)"),
        ({"vision_config": {"model_type": "vit_mae"}}, "vision_config is a vit_mae; this model reads a dinov2_with"),
        ({"num_attention_heads": 5}, r"num_attention_heads \(5\) must divide hidden_size \(768\)"),
        ({"nuisance_codebook_size": 1}, r"nuisance_codebook_size \(1\) must be at least 2"),
        ({"num_nuisance_latents": 0}, r"num_nuisance_latents \(0\) must be at least 1"),
        ({"strides": "9"}, "a gap without a unit"),
    ],
)
def test_a_vq_config_that_cannot_be_is_refused(fields, match):
    with pytest.raises(ValueError, match=match):
        SpaceTimeVqConfig(**fields)


def test_configs_survive_the_way_to_json_and_back():
    for config in (SpaceTimeVaeConfig.dreamdojo(), SpaceTimeVaeConfig.adaworld(), SpaceTimeVqConfig()):
        again = type(config).from_dict(json.loads(json.dumps(config.to_dict())))
        assert again.to_dict() == config.to_dict()
    assert SpaceTimeVaeConfig.dreamdojo().num_patches == 300
    assert (SpaceTimeVaeConfig().num_latents, SpaceTimeVaeConfig().codebook_size) == (1, None)


@pytest.mark.parametrize(
    ("size", "frame", "kept"),
    [
        ((256, 256), (240, 321), (slice(0, 240), slice(40, 280))),
        ((256, 256), (300, 200), (slice(50, 250), slice(0, 200))),
        ((240, 320), (480, 854), (slice(0, 480), slice(107, 747))),
        ((240, 320), (480, 480), (slice(60, 420), slice(0, 480))),
        ((240, 320), (480, 640), (slice(0, 480), slice(0, 640))),
        ((240, 320), (5, 1), (slice(2, 3), slice(0, 1))),
    ],
)
def test_a_crop_keeps_the_centre_in_the_shape_of_the_size(size, frame, kept):
    sides = dict(zip(("height", "width"), size, strict=True))
    frames = torch.randint(256, (2, 3, *frame), dtype=torch.uint8)
    cropped = LatentActionProcessor(size=sides, crop="center").resize_frames(frames)
    expected = F.interpolate(frames[..., kept[0], kept[1]], size=size, mode="bicubic", antialias=True)
    assert torch.equal(cropped, expected)


def test_a_crop_is_saved_only_where_there_is_one(tmp_path):
    assert "crop" not in LatentActionProcessor().to_dict()
    LatentActionProcessor(crop="center").save_pretrained(tmp_path)
    assert LatentActionProcessor.from_pretrained(tmp_path).crop == "center"
    with pytest.raises(ValueError, match="crop is 'square'; it takes 'none' or 'center'"):
        LatentActionProcessor(crop="square")


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_without_antialiasing_frames_are_those_of_a_float_resize(resample):
    """AdaWorld and DreamDojo resize floats in 0..1; overshoots are clamped here, as frames are kept as uint8."""
    frames = torch.randint(256, (2, 3, 120, 160), dtype=torch.uint8)
    processor = LatentActionProcessor(size={"height": 60, "width": 80}, resample=resample, antialias=False)
    expected = F.interpolate(frames / 255, size=(60, 80), mode=resample).clamp(0, 1) * 255
    assert (processor.resize_frames(frames) - expected).abs().max() < 0.51
    assert not LatentActionProcessor.from_dict(processor.to_dict()).antialias


def test_fields_and_hash_of_a_processor_from_before_there_was_a_crop_are_the_same():
    pytest.importorskip("av")
    pytest.importorskip("pyarrow")
    from lara_tokenizer.checkpoint import processor_sha256

    folder = Path(str(resolve_checkpoint("lara-lam")))
    saved = json.loads((folder / "preprocessor_config.json").read_text())
    bundled = LatentActionProcessor.from_pretrained("lara-lam")
    assert saved.items() <= bundled.to_dict().items()
    assert set(bundled.to_dict()) - set(saved) <= {"_processor_class"}  # of transformers 4
    assert processor_sha256(bundled) != processor_sha256(LatentActionProcessor.from_pretrained(folder, crop="center"))
