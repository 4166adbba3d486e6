"""Checkpoints are whole: saved, loaded, in another precision, and with a tensor lost."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import configuration_utils

from lara_tokenizer.model import (
    LaqConfig,
    LatentActionConfig,
    LatentActionModel,
    LatentActionProcessor,
    SpaceTimeVaeConfig,
    SpaceTimeVqConfig,
)


@pytest.fixture(scope="module")
def pairs():
    return torch.randn(2, 24, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_saved_model_comes_back_bit_for_bit_with_its_counters(tiny_config, tmp_path, pairs):
    model = LatentActionModel(tiny_config).train()
    model(*pairs)
    model.save_pretrained(tmp_path)
    again, report = LatentActionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert again.bottleneck.code_usage.sum() == 24 * 4
    assert again.inverse_dynamics.standardize.num_batches_tracked == 1
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_checkpoint_is_one_safetensors_file_in_float32(tiny_checkpoint):
    tensors = load_file(tiny_checkpoint / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32, torch.int64}
    assert any(name.startswith("vision_encoder.") for name in tensors)
    assert not list(tiny_checkpoint.glob("*.bin"))


def test_a_frozen_vision_encoder_stays_frozen_after_loading(tiny_config, tmp_path):
    config = LatentActionConfig.from_dict({**tiny_config.to_dict(), "freeze_vision_encoder": True})
    LatentActionModel(config).save_pretrained(tmp_path)
    model = LatentActionModel.from_pretrained(tmp_path)
    assert not any(parameter.requires_grad for parameter in model.vision_encoder.parameters())
    assert model.inverse_dynamics.m_former.queries.requires_grad


@torch.no_grad()
def test_in_bfloat16_most_codes_agree_and_counters_stay_integers(tiny_checkpoint, tiny_model, pairs):
    half = LatentActionModel.from_pretrained(tiny_checkpoint, dtype=torch.bfloat16).eval()
    assert half.bottleneck.code_usage.dtype == torch.int64
    assert half.inverse_dynamics.standardize.num_batches_tracked.dtype == torch.int64
    out, expected = half.encode(*pairs.bfloat16()), tiny_model.encode(*pairs)
    assert out.latents.dtype == torch.bfloat16
    assert (out.codes == expected.codes).float().mean() > 0.8
    assert expected.codes.unique().numel() > 4


@pytest.mark.parametrize(
    ("name", "is_documented"),
    [
        ("inverse_dynamics.m_former.queries", lambda t, std: 0.5 < t.std() / std < 1.5),
        ("inverse_dynamics.m_former.projection.weight", lambda t, std: 0.5 < t.std() / std < 1.5),
        ("inverse_dynamics.to_latents.0.weight", lambda t, std: 0.2 < t.abs().max() <= 16**-0.5),
        ("inverse_dynamics.m_former.transformer.norm.weight", lambda t, std: bool((t == 1).all())),
        ("bottleneck.codebook.weight", lambda t, std: 0 < t.abs().max() <= 1 / 16),
        ("bottleneck.code_usage", lambda t, std: not t.any()),
        ("forward_dynamics.decoder.to_pixels.weight", lambda t, std: not t.any()),
        ("inverse_dynamics.standardize.running_var", lambda t, std: bool((t == 1).all())),
    ],
)
def test_a_lost_tensor_is_reported_and_starts_as_documented(tiny_checkpoint, tmp_path, name, is_documented):
    (tmp_path / "config.json").write_text((tiny_checkpoint / "config.json").read_text())
    tensors = load_file(tiny_checkpoint / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, report = LatentActionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {name}
    state = model.state_dict()
    assert is_documented(state[name], model.config.initializer_range)
    assert all(torch.equal(tensor, state[kept]) for kept, tensor in tensors.items() if kept in state)


def test_model_and_processor_load_from_one_folder(tiny_checkpoint):
    processor = LatentActionProcessor.from_pretrained(tiny_checkpoint)
    assert processor.size == {"height": 32, "width": 32}
    assert LatentActionConfig.from_pretrained(str(tiny_checkpoint)).image_size == 32


def test_a_config_of_another_family_is_refused_and_not_mixed(tiny_checkpoint):
    for config in (LaqConfig, SpaceTimeVaeConfig, SpaceTimeVqConfig):
        match = f"is of model_type 'latent_action'; {config.__name__} and its model load {config.model_type!r}"
        with pytest.raises(ValueError, match=match):
            config.from_pretrained(tiny_checkpoint)
    # The names of what is bundled are those of one family.
    for config in (SpaceTimeVaeConfig, SpaceTimeVqConfig):
        assert "from_pretrained" not in vars(config)


def test_a_model_s_config_is_looked_for_once(tiny_checkpoint, monkeypatch):
    found, cached_file = [], configuration_utils.cached_file

    def counted(name, file, **more):
        found.append(file)
        return cached_file(name, file, **more)

    monkeypatch.setattr(configuration_utils, "cached_file", counted)
    model, report = LatentActionModel.from_pretrained(
        tiny_checkpoint.parent, subfolder=tiny_checkpoint.name, initializer_range=0.5, output_loading_info=True
    )
    assert found == ["config.json"]
    assert (model.config.initializer_range, set(report["missing_keys"])) == (0.5, set())
