"""The whole card on a small dataset folder: every figure is there, and the dataset's faults are named."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from lara_tokenizer.data import Stride, load_episodes
from lara_tokenizer.data.lerobot_writer import LeRobotWriter
from lara_tokenizer.evaluate import evaluate_lam
from lara_tokenizer.evaluate.lam import _encode, _read_pairs

CAMERA = "observation.images.top"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, moving_square):
    """12 episodes of squares that move by their action, and one too short for a pair."""
    root = tmp_path_factory.mktemp("squares")
    writer = LeRobotWriter(root, fps=10, video_shapes={CAMERA: (32, 32)}, column_names={"action": ("x", "y")})
    for number in range(13):
        length = 3 if number == 12 else 14 + number % 3
        step = 1 + number % 3
        actions = np.stack([np.full(length, step), np.arange(length)], 1).astype(np.float32)
        frames = moving_square(length, size=32, step=step, seed=number)
        writer.add_episode(number, "push", {"action": actions}, {CAMERA: frames})
    writer.finalize()
    return root


def test_the_card_holds_every_figure_as_plain_json(dataset, tiny_model, tiny_processor):
    card = evaluate_lam(tiny_model, tiny_processor, dataset, pairs_per_episode=6)
    assert json.loads(json.dumps(card)) == card
    assert (card["episodes"], card["pairs"], card["stride"]) == (13, 72, "0.5s")
    numbers = [value for value in card.values() if isinstance(value, float)]
    assert all(map(math.isfinite, numbers))
    assert 1 <= card["perplexity_per_position"] <= card["perplexity"] + 1e-6 <= 16 + 1e-6
    assert card["used_codes_share"] == 1 - card["dead_codes"] / 16
    assert card["probe"]["test_episodes"] == 12
    assert set(card["probe"]["rows"]) == {"mean", "z", "quantized", "random_init", "shuffled", "pixel_difference"}
    assert set(card["probe"]["margins"]) == set(card["probe"]["rows"]) - {"z"}


def test_too_few_episodes_for_the_folds_are_refused(dataset, tiny_model, tiny_processor):
    with pytest.raises(ValueError, match=r"4 episode\(s\) cannot be probed in 5 folds"):
        evaluate_lam(tiny_model, tiny_processor, dataset, pairs_per_episode=2, limit=4)


def test_sharing_frames_between_pairs_changes_no_code(dataset, tiny_model, tiny_processor):
    episodes = load_episodes(dataset, limit=3)
    pairs = _read_pairs(episodes, tiny_processor, Stride.parse("0.5s"), 8, None)[CAMERA]
    assert len(pairs.frames) < 2 * len(pairs.now)
    now, future = (
        tiny_processor.normalize_frames(torch.from_numpy(pairs.frames[side])) for side in (pairs.now, pairs.future)
    )
    with torch.no_grad():
        alone = tiny_model.encode(now, future)
    together = _encode(tiny_model, tiny_processor, pairs)
    assert torch.equal(together.codes, alone.codes)
    assert torch.allclose(together.latents, alone.latents, atol=1e-5)


def test_the_actions_of_a_pair_are_those_done_between_its_frames(dataset, tiny_processor):
    episodes = load_episodes(dataset, limit=2)[1:]
    pairs = _read_pairs(episodes, tiny_processor, Stride.parse("0.5s"), 100, None)[CAMERA]
    assert pairs.actions[3].tolist() == [5 * 2, 3 + 4 + 5 + 6 + 7]


def test_a_source_without_actions_is_named(tmp_path, moving_square, write_video, tiny_model, tiny_processor):
    with pytest.raises(ValueError, match="nothing readable in it"):
        evaluate_lam(tiny_model, tiny_processor, tmp_path)
    write_video(tmp_path / "clip.mp4", moving_square(12, size=32))
    with pytest.raises(ValueError, match=r"clip\.mp4 has no actions to probe"):
        evaluate_lam(tiny_model, tiny_processor, tmp_path)
