"""Readers: each yields `Episode`s with uint8 frames. Nothing here knows of models, and nothing imports torch.

>>> from lara_tokenizer.data import load_episodes
>>> for episode in load_episodes("videos/", fps={"rt1_*": 3}):  # doctest: +SKIP
...     print(episode.id, episode.num_frames())
"""

from __future__ import annotations

from lara_tokenizer.data.episode import Episode, FrameIndex, FrameReader
from lara_tokenizer.data.stride import Stride

__all__ = ["Episode", "FrameIndex", "FrameReader", "Stride"]
