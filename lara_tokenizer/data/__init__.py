"""Datasets and videos as lists of `Episode`s with exact uint8 frames. Imports neither models nor torch.

`load_episodes` resolves sources by the registry of formats in `sources`. Each format lists its episodes with a reader
of its own, and all readers get their pixels from `video`.

>>> from lara_tokenizer.data import load_episodes
>>> for episode in load_episodes("videos/", fps={"rt1_*": 3}):  # doctest: +SKIP
...     print(episode.id, episode.num_frames())
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lara_tokenizer._lazy import lazy
from lara_tokenizer.data.episode import Episode, FrameIndex, FrameReader, SignalReader, Signals
from lara_tokenizer.data.listing import SourceInfo
from lara_tokenizer.data.load import Episodes, LoadOptions, load_episodes
from lara_tokenizer.data.statistics import ActionStatistics, action_statistics
from lara_tokenizer.data.stride import Stride

if TYPE_CHECKING:
    from lara_tokenizer.data.video import ImageFolderReader, VideoReader

__all__ = [
    "ActionStatistics",
    "Episode",
    "Episodes",
    "FrameIndex",
    "FrameReader",
    "ImageFolderReader",
    "LoadOptions",
    "SignalReader",
    "Signals",
    "SourceInfo",
    "Stride",
    "VideoReader",
    "action_statistics",
    "load_episodes",
]

# On first use: they import PyAV and Pillow.
__getattr__, __dir__ = lazy(__name__, {"ImageFolderReader": "video", "VideoReader": "video"})
