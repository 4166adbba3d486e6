"""State of a run that is damaged: one line with what to do, and no frame or weight of another run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lara_tokenizer.model import LatentActionModel
from lara_tokenizer.train import Recipe
from lara_tokenizer.train.frames import FORMAT_VERSION, FrameCache
from lara_tokenizer.train.train import check_memory, find_checkpoint, keep_log_until


@pytest.fixture
def run(tmp_path):
    """A run of four steps with its checkpoint."""
    folder = tmp_path / "checkpoints" / "checkpoint-4"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 4, "log_history": []}))
    return tmp_path


def test_the_last_checkpoint_of_a_run_is_found_whatever_else_is_there(run):
    (run / "checkpoints" / "checkpoint-old").mkdir()
    (run / "checkpoints" / "checkpoint-old" / "trainer_state.json").write_text("{}")
    assert find_checkpoint(run, True, "model.safetensors") == str(run / "checkpoints" / "checkpoint-4")


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{}", b"[" * 50_000, b"\xff", b'{"global_step": "4"}', b'{"global_step": 4, "x": 1}']
)
def test_a_damaged_trainer_state_is_named(run, content):
    file = run / "checkpoints" / "checkpoint-4" / "trainer_state.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint-4/trainer_state\.json") as caught:
        find_checkpoint(run, True, "model.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"x\n", b"[1]\n", b"{}\n", b"\xff\n", b"[" * 50_000])
def test_a_damaged_log_is_named(run, content):
    (run / "training_log.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"training_log\.jsonl: a damaged log"):
        keep_log_until(run / "training_log.jsonl", str(run / "checkpoints" / "checkpoint-4"))


@pytest.fixture
def cache(tmp_path):
    """A cache of two sequences of three frames."""
    streams = [
        {"dataset": "", "episode": name, "camera": "", "offset": 3 * index, "timestamps": [0.0, 0.1, 0.2]}
        for index, name in enumerate("ab")
    ]
    index = {"format_version": FORMAT_VERSION, "fingerprint": "f", "shape": [6, 3, 8, 8], "streams": streams}
    (tmp_path / "index.json").write_text(json.dumps(index))
    (tmp_path / "done.u8").write_bytes(b"\x01\x01")
    np.zeros((6, 3, 8, 8), np.uint8).tofile(tmp_path / "frames.u8")
    return tmp_path


def test_a_whole_cache_is_read(cache):
    assert FrameCache(cache).read(np.array([1]), np.array([[0, 2]])).shape == (1, 2, 3, 8, 8)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("index.json", b"{", "a damaged frame cache"),
        ("index.json", b"[1]", "a damaged frame cache"),
        ("index.json", b"[" * 50_000, "a damaged frame cache"),
        ("index.json", b'{"format_version": 2}', "a damaged frame cache"),
        ("index.json", b'{"format_version": "2\\u001b"}', r"format '2\\x1b'"),
        ("index.json", b'{"format_version": 2, "fingerprint": "f", "shape": 5}', "a damaged frame cache"),
        ("done.u8", b"\x01", "a damaged frame cache"),
        ("frames.u8", b"abc", "frames.u8 has 3 bytes, expected 1,152"),
    ],
)
def test_a_damaged_frame_cache_is_named_with_what_to_do(cache, name, content, match):
    (cache / name).write_bytes(content)
    with pytest.raises(ValueError, match=match) as caught:
        FrameCache(cache)
    assert "Delete the folder; it is built again" in str(caught.value)


def test_a_model_larger_than_the_memory_is_refused_before_it_is_built(tiny_config):
    huge = Recipe.parse({"model": {"hidden_size": 2**20, "num_m_former_layers": 2}}).build_config()
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"the model's weights are .* GB, and this machine has"):
        check_memory(lambda: LatentActionModel(huge))
    check_memory(lambda: LatentActionModel(tiny_config))
    assert torch.equal(torch.get_rng_state(), state)  # the seeded run draws the same weights
    with pytest.raises(ValueError, match=r"num_m_former_layers \(1000000\) must be at most 1,024"):
        Recipe.parse({"model": {"num_m_former_layers": 10**6}}).build_config()
