"""Any vision model of transformers reads the frames."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from lara_tokenizer.model import LatentActionConfig, LatentActionModel

SIZES = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
VISION = {**SIZES, "num_hidden_layers": 1}
LAM = {**SIZES, "num_m_former_layers": 1, "num_decoder_layers": 1}


@pytest.mark.parametrize(
    ("model_type", "extra", "tokens"),
    [
        ("vit_mae", {}, 17),
        ("vit", {}, 17),
        ("dinov2", {}, 17),
        ("dinov2_with_registers", {"num_register_tokens": 3}, 20),
        ("dinov3_vit", {"num_register_tokens": 2}, 19),
        ("siglip_vision_model", {}, 16),
        ("clip_vision_model", {}, 17),
        ("deit", {}, 18),
        ("ijepa", {}, 16),
    ],
)
def test_each_vision_model_gives_its_tokens_and_survives_saving(model_type, extra, tokens, tmp_path):
    torch.manual_seed(0)
    config = LatentActionConfig(vision_config={"model_type": model_type, **VISION, **extra}, **LAM)
    model = LatentActionModel(config).eval()
    now, future = torch.randn(2, 3, 3, 32, 32)
    with torch.no_grad():
        assert model.get_frame_features(now).shape == (3, tokens, 16)
        out = model.encode(now, future)
        model.save_pretrained(tmp_path)
        again = LatentActionModel.from_pretrained(tmp_path).eval()
        assert type(again.config.vision_config) is type(config.vision_config)
        assert torch.equal(again.encode(now, future).latents, out.latents)


@pytest.mark.parametrize("model_type", ["vit_mae", "dinov2", "siglip_vision_model"])
def test_a_fresh_model_takes_a_pretrained_encoder_from_a_folder(model_type, tmp_path):
    torch.manual_seed(0)
    pretrained = LatentActionModel(LatentActionConfig(vision_config={"model_type": model_type, **VISION}, **LAM))
    pretrained.vision_encoder.save_pretrained(tmp_path)
    model = LatentActionModel.from_vision_pretrained(tmp_path, freeze_vision_encoder=True, **LAM).eval()
    frames = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.get_frame_features(frames), pretrained.eval().get_frame_features(frames))
    assert not any(parameter.requires_grad for parameter in model.vision_encoder.parameters())


@pytest.mark.parametrize(("two_towers", "config"), [(CLIPModel, CLIPConfig), (SiglipModel, SiglipConfig)])
def test_of_two_towers_the_vision_tower_is_taken(two_towers, config, tmp_path):
    text = {**VISION, "vocab_size": 20, "max_position_embeddings": 8}
    text = {name: value for name, value in text.items() if name not in ("image_size", "patch_size")}
    pretrained = two_towers(config(text_config=text, vision_config=VISION, projection_dim=16)).eval()
    pretrained.save_pretrained(tmp_path)
    model = LatentActionModel.from_vision_pretrained(tmp_path, **LAM).eval()
    frames = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = pretrained.vision_model(frames).last_hidden_state
        torch.testing.assert_close(model.get_frame_features(frames), expected)


@torch.no_grad()
def test_vit_mae_keeps_its_patches_in_row_major_order():
    torch.manual_seed(0)
    config = LatentActionConfig(vision_config={"model_type": "vit_mae", **VISION}, **LAM)
    model = LatentActionModel(config).eval()
    frames = torch.randn(2, 3, 32, 32)
    encoder = model.vision_encoder
    patches = encoder.embeddings.patch_embeddings(frames) + encoder.embeddings.position_embeddings[:, 1:]
    seen = {}
    handle = encoder.embeddings.register_forward_hook(lambda module, args, output: seen.update(tokens=output[0]))
    model.get_frame_features(frames)
    handle.remove()
    assert torch.equal(seen["tokens"][:, 1:], patches)


def test_an_encoder_of_another_image_size_is_named(tmp_path):
    config = LatentActionConfig(vision_config={"model_type": "vit", **VISION}, **LAM)
    LatentActionModel(config).vision_encoder.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"vision_config.image_size \(32\) and image_size \(64\) differ"):
        LatentActionModel.from_vision_pretrained(tmp_path, image_size=64)
