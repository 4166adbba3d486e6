"""Video decoding libraries: PyAV, or decord or torchcodec where installed; and readers shared between episodes.

All three count and time frames by the same packet scan, so that a row of a token table means the same frame with each.
decord and torchcodec only supply pixels, and are checked to supply those of the listed frame.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lara_tokenizer.data.episode import FrameIndex
from lara_tokenizer.data.video.packets import SEEK_THRESHOLD, Media
from lara_tokenizer.data.video.reader import VideoReader
from lara_tokenizer.errors import VideoDecodeError, missing_extra

# Mean absolute difference, of 255, up to which two decoders show the same frame: rounding differs between them.
_SAME_IMAGE = 1.0
# Each holds a decoder and a packet table. One file for each of a few cameras is enough, as episodes are read in order.
_OPEN_VIDEOS = 4


class _PixelBackend(VideoReader):
    """Base of the decord and torchcodec readers: the packet scan of `VideoReader`, pixels from another library."""

    def __init__(self, path: str | Path | Media) -> None:
        super().__init__(path)
        self._opened: Any = None

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        super().close()
        self._opened = None

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_opened": None}

    def _input(self) -> str | BinaryIO:
        """The path or file object that the library opens."""
        return str(self.path) if isinstance(self.path, Path) else self.path.open()

    def _check_count(self, count: int) -> None:
        listed = self.index().num_frames
        if count != listed:
            raise self._refusal(f"counts {count} frames where the file shows {listed}")

    def _refusal(self, problem: str) -> VideoDecodeError:
        return VideoDecodeError(self.path, f"{self.library} {problem}. Use the decoder pyav")


class DecordReader(_PixelBackend):
    """Pixels from decord (extra `decord`), which cannot read AV1.

    A damaged header can make decord abort the whole process, so use it where that costs one clip: in the worker
    processes of `lara-tok encode`.
    """

    library = "decord"

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._opened is None:
            self._opened, self._next = self._open(), -1
        unique, rows = np.unique(indices, return_inverse=True)
        frames = np.stack([self._frame(int(i)) for i in unique])
        return frames if len(unique) == len(indices) and (np.diff(rows) > 0).all() else frames[rows]

    def _frame(self, i: int) -> np.ndarray:
        is_jump = not 0 <= self._next <= i <= self._next + SEEK_THRESHOLD
        if is_jump:
            self._opened.seek_accurate(i)
            self._next = i
        # One by one, since decord's own skipping seeks too.
        for _ in range(self._next, i):
            self._opened.next()
        pixels = self._opened.next().asnumpy()
        self._next = i + 1
        if is_jump:
            self._check_image(i, pixels)
        return pixels

    def _check_image(self, i: int, pixels: np.ndarray) -> None:
        """Compare the first frame after a seek with PyAV's, since decord's seeks miss without an error.

        Seen with open GOPs, transport streams and wmv.
        """
        exact = super()._read(np.array([i]))[0]
        VideoReader.close(self)
        if exact.shape != pixels.shape or np.abs(exact.astype(np.int16) - pixels).mean() > _SAME_IMAGE:
            raise self._refusal(f"gives another image for frame {i}")

    def _open(self) -> Any:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        try:
            reader = decord.VideoReader(self._input(), ctx=decord.cpu(0), num_threads=1)
        except (decord.DECORDError, RuntimeError) as error:
            raise self._refusal("cannot open it (AV1, which it does not support, or a damaged file)") from error
        self._check_count(len(reader))
        return reader


class TorchcodecReader(_PixelBackend):
    """Pixels from torchcodec (extra `torchcodec`, and FFmpeg's shared libraries, version 4 to 8).

    Colours differ from PyAV's by about 2 of 255 where a file names an invalid colour matrix.
    """

    library = "torchcodec"

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._opened is None:
            self._opened = self._open()
        batch = self._opened.get_frames_at(indices.tolist())
        self._check_times(indices, batch.pts_seconds.numpy() - self._opened.metadata.begin_stream_seconds)
        return batch.data.numpy()

    def _check_times(self, indices: np.ndarray, seconds: np.ndarray) -> None:
        """Compare the times of decoded frames, float64 (n,) from the file's first frame on, with the packet scan."""
        timestamps = self.index().timestamps
        # A frame that is further off than half the smallest gap is another frame.
        slack = np.diff(timestamps).min() / 2 if len(timestamps) > 1 else np.inf
        off = np.abs(seconds - timestamps[indices]) > slack
        if off.any():
            k = int(np.argmax(off))
            raise self._refusal(
                f"gives the frame at {seconds[k]:.3f} s for frame {indices[k]}, which is at "
                f"{timestamps[indices[k]]:.3f} s"
            )

    def _open(self) -> Any:
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(
            self._input(),
            stream_index=self._scan()[0].stream,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="exact",
        )
        self._check_count(len(decoder))
        return decoder


_READERS: dict[str, type[VideoReader]] = {
    "pyav": VideoReader,
    "decord": DecordReader,
    "torchcodec": TorchcodecReader,
}


def video_reader_class(decoder: str = "pyav") -> type[VideoReader]:
    """The reader class of decoder "pyav", "decord" or "torchcodec".

    Raises ValueError for another name, and ImportError where the library is missing or does not load.

    >>> video_reader_class("pyav").__name__
    'VideoReader'
    """
    if decoder not in _READERS:
        raise ValueError(f"decoder {decoder!r}: takes {', '.join(_READERS)}")
    if decoder != "pyav" and find_spec(decoder) is None:
        raise missing_extra(decoder, decoder)
    if decoder == "torchcodec":
        try:
            import torchcodec  # noqa: F401
        except RuntimeError as error:
            raise ImportError(
                "torchcodec is installed but cannot load FFmpeg's shared libraries, versions 4 to 8. Install "
                "FFmpeg (Debian: apt-get install ffmpeg) or use the decoder pyav"
            ) from error
    return _READERS[decoder]


def open_video_file(path: Path | Media, decoder: str) -> VideoReader:
    """A reader from a small per-process cache, shared by all episodes in the same file.

    A file that has been replaced since is opened anew. Raises what `video_reader_class` raises.
    """
    version = (0, 0)
    if isinstance(path, Path):
        with suppress(OSError):  # the reader will report what is wrong with the file
            status = path.stat()
            version = (status.st_mtime_ns, status.st_size)
    return _reader(path, decoder, version)


@lru_cache(maxsize=_OPEN_VIDEOS)
def _reader(path: Path | Media, decoder: str, version: tuple[int, int]) -> VideoReader:
    return video_reader_class(decoder)(path)


# Two processes must not read through one open file, so a forked child opens its own. The cache is cleared in the
# parent, before the fork: a decoder waits for its threads when it closes, and in the child those threads do not exist.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_reader.cache_clear)


@dataclass(frozen=True, slots=True)
class SharedVideo:
    """A `FrameReader` for a video that several episodes read: opened once per process, not once per episode."""

    path: Path | Media
    decoder: str

    def index(self, camera: str = "") -> FrameIndex:
        """Frame count and times, as `VideoReader.index`."""
        return open_video_file(self.path, self.decoder).index(camera)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3), as `VideoReader.frames`."""
        return open_video_file(self.path, self.decoder).frames(camera, indices)

    def close(self) -> None:
        """Keep the video open for the next episode."""
