"""Datasets of the square: recorded by a still and by a hand-held camera."""

from __future__ import annotations

from pathlib import Path

import pytest
from square_models import CAMERA, EPISODES, SIZE, square_episode

from lara_tokenizer import LatentActionProcessor


def _write(write_lerobot, root: Path, *, handheld: bool) -> Path:
    clips, actions = zip(*(square_episode(seed, handheld=handheld) for seed in range(EPISODES)), strict=True)
    return write_lerobot(root, {CAMERA: list(clips)}, kind="image", actions=list(actions))


@pytest.fixture(scope="session")
def squares(tmp_path_factory, write_lerobot) -> Path:
    """12 episodes of the square, recorded by a still camera."""
    return _write(write_lerobot, tmp_path_factory.mktemp("still") / "squares", handheld=False)


@pytest.fixture(scope="session")
def handheld_squares(tmp_path_factory, write_lerobot) -> Path:
    """The same, recorded by a camera that shakes, 96 px."""
    return _write(write_lerobot, tmp_path_factory.mktemp("handheld") / "squares", handheld=True)


@pytest.fixture(scope="session")
def plain_processor() -> LatentActionProcessor:
    """32 px, pixels in 0..1."""
    return LatentActionProcessor(size={"height": SIZE, "width": SIZE}, image_mean=(0, 0, 0), image_std=(1, 1, 1))
