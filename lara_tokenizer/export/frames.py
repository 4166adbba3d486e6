"""The frames of an episode, some at a time: a long episode must not lie in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lara_tokenizer.data import Episode

_CHUNK_BYTES = 32 * 2**20
_FIRST_CHUNK = 4  # frames, until their size is known


def frame_chunks(episode: Episode, camera: str, numbers: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames `numbers` (n,), in order, a piece at a time: (their numbers, uint8 (m, H, W, 3) in RGB)."""
    start, count = 0, _FIRST_CHUNK
    while start < len(numbers):
        chunk = numbers[start : start + count]
        frames = episode.frames(camera, chunk)
        yield chunk, frames
        start += len(chunk)
        count = max(1, _CHUNK_BYTES // frames[0].nbytes)
