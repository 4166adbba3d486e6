"""Pairs without actions beside the labelled batch: for L_LAM, and for alignment at tau = 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lara_tokenizer.train.frames import FrameSource
from lara_tokenizer.train.mixture import find_pairs
from lara_tokenizer.train.pairs import PairDataset

if TYPE_CHECKING:
    from lara_tokenizer.data import Episode


class UnlabeledPairs:
    """Batch k of pairs, with the instruction of each where its episode has one that the policy knows.

    "unlabeled": uint8 (U, 2, 3, S, S); "unlabeled_task": int64 (U,); "unlabeled_text": U texts.
    """

    def __init__(self, pairs: PairDataset, texts: dict[int, str], tasks: Sequence[str], size: int) -> None:
        self.pairs, self.texts, self.size = pairs, texts, size
        self._tasks = {text: number for number, text in enumerate(tasks)}

    @classmethod
    def build(
        cls,
        frames: FrameSource,
        episodes: Sequence[Episode],
        strides: Sequence[str],
        tasks: Sequence[str],
        size: int,
        seed: int,
    ) -> UnlabeledPairs:
        """`tasks` are the policy's; "" among them stands for an unknown one."""
        by_id = {(episode.dataset, episode.id): episode.text or "" for episode in episodes}
        texts = {stream.index: by_id[stream.dataset, stream.episode] for stream in frames.sequences}
        return cls(PairDataset(frames, find_pairs(frames.sequences, strides), seed), texts, tasks, size)

    def __call__(self, batch: int) -> dict[str, Any]:
        numbers = batch * self.size + np.arange(self.size)
        draws = self.pairs.mixture.draw(numbers)
        texts = [self.texts[stream] for stream in draws.sequence.tolist()]
        nothing = self._tasks.get("", 0)
        return {
            "unlabeled": self.pairs.batch(numbers),
            "unlabeled_task": torch.tensor([self._tasks.get(text, nothing) for text in texts]),
            "unlabeled_text": texts,
        }
