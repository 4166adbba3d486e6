"""Frames straight from the readers, for data too large to decode into a cache."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lara_tokenizer.errors import LaraTokenizerError
from lara_tokenizer.train.streams import list_streams

if TYPE_CHECKING:
    from lara_tokenizer.data import Episode
    from lara_tokenizer.model import LatentActionProcessor

MOST_OPEN = 8  # episodes a process: each may hold a decoder, or the whole of a record
CHUNK = 64  # frames held at full size together


class ReaderFrames:
    """Decodes what is drawn, when it is drawn: the same pixels as a `FrameCache`, no disk, more work a draw.

    A copy that went to a loader process opens its episodes for itself. Start such processes with "spawn", or `close()`
    before they fork: two processes must not read through one open file.

    >>> frames = ReaderFrames(load_episodes("videos/"), processor)  # doctest: +SKIP
    >>> frames.read(np.array([0]), np.array([[3, 8]])).shape        # doctest: +SKIP
    torch.Size([1, 2, 3, 64, 64])

    Episodes whose frames cannot be listed are logged and left out; ValueError where that leaves none.
    """

    start_method: str | None = "spawn"  # readers keep files of their own open, which a fork would share

    def __init__(self, episodes: Sequence[Episode], processor: LatentActionProcessor) -> None:
        self.streams = list_streams(episodes)
        by_id = {(episode.dataset, episode.id): episode for episode in episodes}
        self._sources = [(by_id[stream.dataset, stream.episode], stream.camera) for stream in self.streams]
        self.processor = processor
        self._open: OrderedDict[int, Episode] = OrderedDict()  # the last used comes last
        self._process = os.getpid()

    def read(self, streams: np.ndarray, frames: np.ndarray) -> torch.Tensor:
        """uint8 (B, F, 3, S, S): frames (B, F) of `streams` (B,), each a `Stream.number`.

        Raises LaraTokenizerError, naming the episode, where one cannot be decoded.
        """
        size = (3, self.processor.size["height"], self.processor.size["width"])
        out = torch.empty(*frames.shape, *size, dtype=torch.uint8)
        for stream in np.unique(streams).tolist():
            rows = np.flatnonzero(streams == stream)
            wanted, slots = np.unique(frames[rows], return_inverse=True)
            pixels = self._decode(stream, wanted)
            out[torch.from_numpy(rows)] = pixels[torch.from_numpy(slots.reshape(len(rows), -1))]
        return out

    def close(self) -> None:
        """Let go of open files; the next read opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def _decode(self, stream: int, wanted: np.ndarray) -> torch.Tensor:
        """uint8 (n, 3, S, S)."""
        episode, camera = self._opened(stream), self._sources[stream][1]
        parts = [wanted[first : first + CHUNK] for first in range(0, len(wanted), CHUNK)]
        try:
            return torch.cat([self.processor.resize_frames(episode.frames(camera, part)) for part in parts])
        except (LaraTokenizerError, OSError) as error:
            # Of one argument, so that it keeps its type on the way from a loader process.
            raise LaraTokenizerError(
                f"episode {episode.id!r} cannot be read at frames {wanted[0]} to {wanted[-1]}: {error}. Leave it out "
                "of the source, or train with cache_frames: true, which leaves out by itself what cannot be read."
            ) from error

    def _opened(self, stream: int) -> Episode:
        """The stream's episode, which stays open while it is among the last few used."""
        if self._open and self._process != os.getpid():
            raise RuntimeError(
                "this process was forked from one that had episodes open: start loader processes with "
                "multiprocessing_context='spawn', or call close() before they start."
            )
        self._process = os.getpid()
        episode, _ = self._sources[stream]
        key = id(episode)  # cameras of one episode share its reader
        self._open[key] = episode
        self._open.move_to_end(key)
        while len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        return episode

    def __getstate__(self) -> dict[str, Any]:
        # What the streams are is for planning; a loader process reads by number.
        return {**self.__dict__, "_open": OrderedDict(), "streams": []}
