"""Frames of one video file, through PyAV."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from lara_tokenizer.data.episode import FrameIndex, check_indices
from lara_tokenizer.data.video.gop_decoder import GopDecoder, NotAsListedError, prove_whole
from lara_tokenizer.data.video.packets import Media, PacketTable, plain_errors, scan
from lara_tokenizer.errors import VideoDecodeError

logger = logging.getLogger(__name__)

# From 17 on PyAV converts colours with as many threads as there are cores, unless told; before, with one.
ONE_THREAD = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}

VIDEO_SUFFIXES = (
    ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv",
)  # fmt: skip


class VideoReader:
    """A `FrameReader` for one video with one camera: a file, or the bytes that a `Media` opens.

    Frame i is the i-th in presentation order, with the pixels that decoding the whole file gives it. Only groups
    of pictures with a wanted frame are decoded, and calls with increasing indices go on without a new seek.

    >>> reader = VideoReader("clip.mp4")  # doctest: +SKIP
    >>> reader.index().num_frames         # doctest: +SKIP
    37
    >>> reader.frames("", [0, 36]).shape  # doctest: +SKIP
    (2, 480, 640, 3)
    """

    library = "pyav"

    def __init__(self, path: str | Path | Media) -> None:
        self.path: Path | Media = Path(path) if isinstance(path, str) else path
        self._scanned: tuple[PacketTable, FrameIndex] | None = None
        self._decoder: GopDecoder | None = None
        self._from_start = False

    def index(self, camera: str = "") -> FrameIndex:
        """Count and time the frames by reading through the packets, once. Raises VideoDecodeError."""
        return self._scan()[1]

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, upright, at full size, in the order asked.

        Raises VideoDecodeError if one of them cannot be had, and IndexError for an index outside the video.
        """
        numbers = check_indices(indices, self.index(camera).num_frames, self.path)
        with plain_errors(self.path):
            # Nothing asked for: one frame, to learn the size of none.
            return self._read(numbers) if len(numbers) else self._read(np.zeros(1, np.int64))[:0]

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def __getstate__(self) -> dict:
        # The packet table travels, so that a worker need not scan again; an open decoder cannot.
        return self.__dict__ | {"_decoder": None}

    def _scan(self) -> tuple[PacketTable, FrameIndex]:
        if self._scanned is None:
            self._scanned = scan(self.path)
        return self._scanned

    def _read(self, indices: np.ndarray) -> np.ndarray:
        try:
            if not self._from_start:
                try:
                    return self._decode(indices)
                except (NotAsListedError, av.error.FFmpegError) as error:
                    logger.info("%s: %s; decoding from the start of the file instead", self.path, error)
                    self.close()
                    prove_whole(self.path, self._scan()[0])
                    self._from_start = True
            return self._decode(indices)
        except BaseException:
            self.close()
            raise

    def _decode(self, indices: np.ndarray) -> np.ndarray:
        if self._decoder is None:
            self._decoder = GopDecoder(self.path, self._scan()[0], from_start=self._from_start)
        # One for all frames: making a converter costs about a third of a conversion.
        reformatter = VideoReformatter()
        wanted, slots = np.unique(indices, return_inverse=True)
        out: np.ndarray | None = None
        for k, frame in enumerate(self._decoder.frames(wanted)):
            pixels = upright_rgb(frame, reformatter)
            if out is None:
                out = np.empty((len(indices), *pixels.shape), np.uint8)
            if pixels.shape != out.shape[1:]:
                sizes = " to ".join(f"{width}x{height}" for height, width, _ in (out.shape[1:], pixels.shape))
                raise VideoDecodeError(self.path, f"the picture size changes within the video, from {sizes}")
            out[slots == k] = pixels
        assert out is not None
        return out


def upright_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """uint8 (H, W, 3): a frame converted at full size and turned as its display matrix says (PyAV does not).

    A view of the converted frame: copy it before that goes.
    """
    rgb = reformatter.reformat(frame, format="rgb24", **ONE_THREAD)
    plane = rgb.planes[0]
    # Lines are padded: line_size is at least 3 * width.
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(rgb.height, plane.line_size)
    pixels = lines[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
    return np.rot90(pixels, frame.rotation // 90)
