"""Settings of a checkpoint, read without torch: equal to those of its classes."""

from __future__ import annotations

import pytest

from lara_tokenizer.checkpoint import processor_frame_settings, processor_sha256, read_processor
from lara_tokenizer.checkpoint.settings import FAMILIES, read_model_settings, read_processor_settings
from lara_tokenizer.encode import device
from lara_tokenizer.model import FAMILIES as CLASSES
from lara_tokenizer.model import LatentActionProcessor


@pytest.mark.parametrize(("config_class", "model_class"), CLASSES.items(), ids=lambda each: each.__name__)
def test_a_family_s_sizes_and_types_of_numbers(config_class, model_class, tmp_path):
    config = config_class()
    config.save_pretrained(tmp_path)
    settings = read_model_settings(tmp_path)
    for name in ("model_type", "image_size", "num_latents", "codebook_dim", "codebook_size"):
        assert getattr(settings, name) == getattr(config, name)
    assert list(settings.strides) == config.strides
    float32_only = model_class.__name__ if model_class.needs_float32 else ""
    assert FAMILIES[config_class.model_type].float32_only == float32_only


def test_no_family_is_missing():
    assert set(FAMILIES) == {config_class.model_type for config_class in CLASSES}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": {"height": 48, "width": 64}, "resample": "bilinear", "image_mean": [0, 0.5, 1]},
        {"steady_pairs": True},
        {"crop": "center", "antialias": False, "do_resize": True},
    ],
)
def test_a_processor_s_hash_and_frames(options, tmp_path):
    LatentActionProcessor(**options).save_pretrained(tmp_path)
    loaded, settings = read_processor(tmp_path), read_processor_settings(tmp_path)
    assert processor_sha256(settings) == processor_sha256(loaded)
    frames = {name: getattr(loaded, name) for name in ("size", "resample", "crop", "antialias")}
    assert processor_frame_settings(settings) == processor_frame_settings(loaded) == frames


def test_where_no_driver_of_a_gpu_is_there_a_job_runs_on_the_cpu(monkeypatch):
    monkeypatch.setattr(device, "_may_have_gpu", lambda: False)
    assert device.resolve_device(None) == device.resolve_device("cpu") == "cpu"
    with pytest.raises(ValueError, match=r"device 'cuda:1' cannot be used here \(no GPU was found\)"):
        device.resolve_device("cuda:1")
