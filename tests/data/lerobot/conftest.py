"""Datasets whose frames show their number, and whose first action component is that number: frame i goes with row i."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lerobot_files import read_numbers

from lara_tokenizer.data import Episode

TOP = "observation.images.top"
LENGTHS = (8, 6, 7, 5)
ENDS = np.cumsum(LENGTHS)
TASKS = ["lift it", "drop it", "lift it", "drop it"]


@pytest.fixture(scope="session")
def numbered_sets(tmp_path_factory, numbered_frames, write_lerobot) -> dict[str, Path]:
    """Four episodes of 8, 6, 7 and 5 frames at 10 fps, in each version."""
    folder = tmp_path_factory.mktemp("numbered")
    clips = np.split(numbered_frames(ENDS[-1]), ENDS[:-1])
    actions = [np.stack([numbers, -numbers], 1).astype("f4") for numbers in np.split(np.arange(ENDS[-1]), ENDS[:-1])]
    return {
        version: write_lerobot(folder / version, {TOP: clips}, version=version, actions=actions, tasks=TASKS)
        for version in ("v3.0", "v2.1")
    }


@pytest.fixture
def set_v3(numbered_sets, tmp_path) -> Path:
    """A copy to be changed, with all episodes in one file."""
    return shutil.copytree(numbered_sets["v3.0"], tmp_path / "v3/set")


@pytest.fixture
def set_v2(numbered_sets, tmp_path) -> Path:
    """A copy to be changed, with a file for each episode."""
    return shutil.copytree(numbered_sets["v2.1"], tmp_path / "v2/set")


@pytest.fixture
def check_pairs() -> Callable[[Episode], str]:
    """check_pairs(episode) -> its note, after checking that its frames and actions are the right ones, in order."""

    def check(episode: Episode) -> str:
        note = episode.frame_index(TOP).note
        expected = list(range(ENDS[episode.index] - LENGTHS[episode.index], ENDS[episode.index]))
        assert read_numbers(episode.frames(TOP, range(LENGTHS[episode.index]))) == expected
        signals = episode.signals()
        assert signals.actions[:, 0].tolist() == expected
        assert episode.text == TASKS[episode.index]
        assert signals.texts == (TASKS[episode.index],) * len(expected)
        return note

    return check
