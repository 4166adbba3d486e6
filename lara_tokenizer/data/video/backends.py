"""Which library decodes video: PyAV, or decord or torchcodec where they are installed.

All three count and time frames by the same scan of packets, so that a row of a table means the same frame. The
others only give the pixels, and are held to giving those of the frame on the list.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lara_tokenizer.data.video.gop_decoder import FAR
from lara_tokenizer.data.video.packets import Media
from lara_tokenizer.data.video.reader import VideoReader
from lara_tokenizer.errors import VideoDecodeError, missing_extra

# Mean difference, of 255, up to which two decoders show the same picture: they differ by rounding alone.
_SAME_PICTURE = 1.0


class _BorrowedPixelsReader(VideoReader):
    """What decord and torchcodec have in common: the scan is ours, the open decoder theirs."""

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
        """What the library is to open."""
        return str(self.path) if isinstance(self.path, Path) else self.path.open()

    def _check_count(self, count: int) -> None:
        shown = self.index().num_frames
        if count != shown:
            raise self._refusal(f"counts {count} frames where the file shows {shown}")

    def _refusal(self, what: str) -> VideoDecodeError:
        return VideoDecodeError(self.path, f"{self.library} {what}. Use the decoder pyav")


class DecordReader(_BorrowedPixelsReader):
    """Pixels from decord (extra `decord`), which reads no AV1.

    A damaged header can make decord abort the whole process, so use it where that costs one clip: in the
    workers of `lara-tok encode`.
    """

    library = "decord"

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._opened is None:
            self._opened, self._next = self._open(), -1
        wanted, slots = np.unique(indices, return_inverse=True)
        frames = np.stack([self._frame(int(i)) for i in wanted])
        return frames if len(wanted) == len(indices) and (np.diff(slots) > 0).all() else frames[slots]

    def _frame(self, i: int) -> np.ndarray:
        is_jump = not 0 <= self._next <= i <= self._next + FAR
        if is_jump:
            self._opened.seek_accurate(i)
            self._next = i
        # One by one, as decord's skipping is seeking too.
        for _ in range(self._next, i):
            self._opened.next()
        pixels = self._opened.next().asnumpy()
        self._next = i + 1
        if is_jump:
            self._check_picture(i, pixels)
        return pixels

    def _check_picture(self, i: int, pixels: np.ndarray) -> None:
        """decord's seeks miss in open GOPs, transport streams and wmv, and it does not know: compare with PyAV."""
        exact = super()._read(np.array([i]))[0]
        VideoReader.close(self)
        if exact.shape != pixels.shape or np.abs(exact.astype(np.int16) - pixels).mean() > _SAME_PICTURE:
            raise self._refusal(f"gives another picture for frame {i}")

    def _open(self) -> Any:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        try:
            reader = decord.VideoReader(self._input(), ctx=decord.cpu(0), num_threads=1)
        except (decord.DECORDError, RuntimeError) as error:
            raise self._refusal("cannot open it (AV1, which it does not know, or a damaged file)") from error
        self._check_count(len(reader))
        return reader


class TorchcodecReader(_BorrowedPixelsReader):
    """Pixels from torchcodec (extra `torchcodec`, and FFmpeg's shared libraries, version 4 to 8).

    Colours differ from PyAV's (by about 2 of 255) where a file names a colour matrix that cannot be.
    """

    library = "torchcodec"

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._opened is None:
            self._opened = self._open()
        batch = self._opened.get_frames_at(indices.tolist())
        self._check_times(indices, batch.pts_seconds.numpy() - self._opened.metadata.begin_stream_seconds)
        return batch.data.numpy()

    def _check_times(self, indices: np.ndarray, seconds: np.ndarray) -> None:
        """`seconds`, float64 (n,): times of the frames that came, from the first frame of the file on."""
        timestamps = self.index().timestamps
        # A frame further off than half the smallest gap is another frame.
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
    """The reader of "pyav", "decord" or "torchcodec".

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
