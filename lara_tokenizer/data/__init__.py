"""Readers: each yields `Episode`s with uint8 frames. Nothing here knows of models, and nothing imports torch.

>>> from lara_tokenizer.data import load_episodes
>>> for episode in load_episodes("videos/", fps={"rt1_*": 3}):  # doctest: +SKIP
...     print(episode.id, episode.num_frames())
"""

from __future__ import annotations

from lara_tokenizer.data.episode import Episode, FrameIndex, FrameReader, SignalReader, Signals
from lara_tokenizer.data.listing import SourceFacts
from lara_tokenizer.data.load import Episodes, LoadOptions, load_episodes
from lara_tokenizer.data.statistics import ActionStatistics, action_statistics
from lara_tokenizer.data.stride import Stride
from lara_tokenizer.data.video.images import ImageFolderReader
from lara_tokenizer.data.video.reader import VideoReader

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
    "SourceFacts",
    "Stride",
    "VideoReader",
    "action_statistics",
    "load_episodes",
]
