"""Episodes from arrays, a folder of clips, and `encode_dataset` with the tiny model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from lara_tokenizer import encode_dataset
from lara_tokenizer.data import Episode, FrameIndex


class ArrayReader:
    """A `FrameReader` of frames in memory; it records the requested indices."""

    def __init__(self, frames: np.ndarray, timestamps: np.ndarray) -> None:
        self.array, self.timestamps = frames, timestamps
        self.requested: list[int] = []

    def index(self, camera: str) -> FrameIndex:
        return FrameIndex(self.timestamps, fps=10.0)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        self.requested += list(indices)
        return self.array[np.asarray(indices)]

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def array_episode() -> Callable[..., Episode]:
    """array_episode(frames, id="clip", fps=10, timestamps=None, cameras=("",)) -> Episode."""

    def make(
        frames: np.ndarray,
        id: str = "clip",
        fps: float = 10,
        timestamps: np.ndarray | None = None,
        cameras: tuple[str, ...] = ("",),
    ) -> Episode:
        times = np.arange(len(frames)) / fps if timestamps is None else timestamps
        return Episode(id, ArrayReader(frames, times), cameras)

    return make


@pytest.fixture(scope="session")
def clips(tmp_path_factory, moving_square, write_video) -> Path:
    """A folder of three clips: 30, 24 and, too short for half a second, 3 frames at 10 frames per second."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "b" / "left.mp4", moving_square(30, seed=1))
    write_video(folder / "a.mp4", moving_square(24, seed=2, step=5))
    write_video(folder / "short.mp4", moving_square(3))
    return folder


@pytest.fixture
def encode(clips, tiny_checkpoint):
    """encode(out, source=clips, **options): `encode_dataset` with the tiny model, without worker processes."""

    def run(out, source=clips, model=tiny_checkpoint, processor=None, **options):
        options = {"strides": "0.5s", "workers": 0, **options}
        return encode_dataset(source, model, processor, out=out, **options)

    return run
