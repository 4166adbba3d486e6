"""Fixtures: frames that all differ, and a film of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture(scope="session")
def numbered_frames() -> Callable[..., np.ndarray]:
    """numbered_frames(n, height=48, width=64) -> uint8 (n, height, width, 3): a moving texture, all frames differ."""

    def make(n: int, height: int = 48, width: int = 64) -> np.ndarray:
        rng = np.random.default_rng(0)
        texture = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)
        frames = np.stack([np.roll(texture, (t, 3 * t), (0, 1))[:height, :width] for t in range(n)])
        # The number in binary, as dark and bright columns on the upper edge.
        for bit in range(10):
            column = slice(bit * width // 10, (bit + 1) * width // 10)
            frames[:, :8, column] = np.where(np.arange(n) >> bit & 1, 220, 30)[:, None, None, None]
        return frames.astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def film(tmp_path_factory, numbered_frames, write_video):
    """45 frames at 10 fps, in a folder of their own."""
    return write_video(tmp_path_factory.mktemp("films") / "day one/film.mp4", numbered_frames(45))
