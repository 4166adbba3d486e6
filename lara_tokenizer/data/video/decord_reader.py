"""`DecordReader`: frames of one video file through decord."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lara_tokenizer.data.video.media import Media
from lara_tokenizer.data.video.packets import SEEK_THRESHOLD
from lara_tokenizer.data.video.pixel_reader import PixelReader

# Most frames that a decoder delays.
_DELAY = 16


class DecordReader(PixelReader):
    """Pixels from decord (extra `decord`), which cannot read AV1.

    A damaged header can make decord abort the whole process, so use it where that costs one clip: in the worker
    processes of `lara-tok encode`.
    """

    library = "decord"

    def __init__(self, path: str | Path | Media) -> None:
        super().__init__(path)
        self._next = -1  # the frame that decord gives next; -1 before the first seek
        self._before: np.ndarray | None = None  # the image of the frame before that, near the end
        self._is_sure = False  # whether the images since the last seek prove where it ended

    def _pixels(self, indices: np.ndarray) -> np.ndarray:
        import decord

        unique, rows = np.unique(indices, return_inverse=True)
        try:
            frames = np.stack([self._frame(int(i)) for i in unique])
        except (decord.DECORDError, StopIteration) as error:
            raise self._refusal("fails to decode these frames") from error
        return frames if len(unique) == len(indices) and (np.diff(rows) > 0).all() else frames[rows]

    def _frame(self, i: int) -> np.ndarray:
        if not 0 <= self._next <= i <= self._next + SEEK_THRESHOLD:
            self._opened.seek_accurate(i)
            self._next, self._is_sure, self._before = i, False, None
        is_near_end, before = i >= self.index().num_frames - _DELAY, self._before
        # One by one, since decord's own skipping seeks too.
        for _ in range(self._next, i):
            skipped = self._opened.next()
            before = skipped.asnumpy() if is_near_end else None
        pixels = self._opened.next().asnumpy()
        self._next, self._before = i + 1, pixels if is_near_end else None
        # decord's seeks miss without an error (seen with open GOPs, transport streams and wmv), and it gives no time
        # with a frame. In a scene without motion a miss is seen only later, so frames are compared until one moves.
        # At the end it may repeat a frame instead of the last that its decoder delays (seen with MPEG-2 in AVI).
        if not self._is_sure or (is_near_end and before is not None and np.array_equal(before, pixels)):
            self._is_sure = self._check_image(i, pixels)
        return pixels

    def _open(self) -> Any:
        import decord

        self._check_stamps()
        decord.logging.set_level(decord.logging.QUIET)
        try:
            reader = decord.VideoReader(self._input(), ctx=decord.cpu(0), num_threads=1)
        except (decord.DECORDError, RuntimeError) as error:
            raise self._refusal("cannot open it (AV1, which it does not support, or a damaged file)") from error
        self._check_count(len(reader))
        self._next = -1
        return reader
