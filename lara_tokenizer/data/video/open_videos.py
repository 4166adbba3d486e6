"""Videos that stay open between episodes: a file may hold hundreds of them, and a long film has segments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from lara_tokenizer.data.episode import FrameIndex
from lara_tokenizer.data.video.backends import video_reader_class
from lara_tokenizer.data.video.packets import Media
from lara_tokenizer.data.video.reader import VideoReader

# Of each a decoder and a list of packets are held: one file for each of a few cameras.
_MOST = 4


def open_video_file(path: Path | Media, decoder: str) -> VideoReader:
    """The reader of a video, the same one for all episodes in it as long as it is among the last few used.

    A file that was replaced meanwhile is opened anew. Raises what `video_reader_class` raises.
    """
    version = (0, 0)
    if isinstance(path, Path):
        with suppress(OSError):  # the reader will say what is wrong with it
            status = path.stat()
            version = (status.st_mtime_ns, status.st_size)
    return _reader(path, decoder, version)


@lru_cache(maxsize=_MOST)
def _reader(path: Path | Media, decoder: str, version: tuple[int, int]) -> VideoReader:
    return video_reader_class(decoder)(path)


# Two processes must not read through one open file: a forked child opens its own. The parent lets go before, as a child
# cannot: a decoder waits for its threads to end, and those are not there.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_reader.cache_clear)


@dataclass(frozen=True, slots=True)
class SharedVideo:
    """A `FrameReader` for a video that other episodes read too: it is opened once a process, not once an episode."""

    path: Path | Media
    decoder: str

    def index(self, camera: str = "") -> FrameIndex:
        """As `VideoReader.index`."""
        return open_video_file(self.path, self.decoder).index(camera)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """As `VideoReader.frames`."""
        return open_video_file(self.path, self.decoder).frames(camera, indices)

    def close(self) -> None:
        """The video stays open for the next episode."""
