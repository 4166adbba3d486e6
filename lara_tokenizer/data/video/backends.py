"""Video decoding libraries: PyAV, or decord or torchcodec where installed; and readers shared between episodes.

All three count and time frames by the same packet scan, so that a row of a token table means the same frame with each.
decord and torchcodec only supply pixels, and are checked to supply those of the listed frame.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lara_tokenizer.data.episode import FrameIndex
from lara_tokenizer.data.video.decord_reader import DecordReader
from lara_tokenizer.data.video.media import file_version, local_files
from lara_tokenizer.data.video.packets import Media
from lara_tokenizer.data.video.reader import VideoReader
from lara_tokenizer.data.video.torchcodec_reader import TorchcodecReader
from lara_tokenizer.errors import missing_extra

# Each holds a decoder and a packet table. One file for each of a few cameras is enough, as episodes are read in order.
_OPEN_VIDEOS = 4


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
    return _reader(path, decoder, file_version(path))


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

    def files(self, camera: str = "") -> tuple[Path, ...]:
        """The local file that holds the video, as `FileBacked.files`; none for a remote one."""
        return local_files(self.path)

    def close(self) -> None:
        """Keep the video open for the next episode."""
