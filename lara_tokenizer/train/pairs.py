"""Pairs (frame t, frame t + C) as a map from draw numbers to samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from lara_tokenizer.train.actions import EpisodeActions, PairActions
from lara_tokenizer.train.mixture import Draws, Mixture, PairedStream
from lara_tokenizer.train.streams import Stream

START_PAIRS = 512  # the mixture's first, that starting values and scales are taken from


class FrameSource(Protocol):
    """Where pixels come from: a `FrameCache` or the readers themselves, `ReaderFrames`."""

    streams: list[Stream]
    start_method: str | None  # how loader processes must start; None for any

    def read(self, streams: np.ndarray, frames: np.ndarray) -> Tensor:
        """uint8 (B, F, 3, S, S): frames (B, F) of `streams` (B,), each a `Stream.number`."""

    def close(self) -> None:
        """Let go of open files; the next read opens them again."""


class PairDataset(Dataset):
    """Sample k is draw k of the mixture of `streams`, for k = 0, 1, 2, ... without end: a function of `seed` and k.

    `frames` is uint8 (2, 3, S, S), frame t and frame t + C. With `actions` there is also, for C up to `longest_gap`
    frames and A the largest width, `actions` float32 (C, A), standardised by the dataset's own statistics;
    `action_mask` bool (C, A), true for what was done at frames t to t + C - 1 in the dataset's own dimensions; and
    `dataset` int64 (), its place in `mixture.datasets`. Held-out pairs are made `like` those of training: then the same
    number means the same dataset, and actions have one shape. Masked actions are 0, those of episodes without any among
    them.

    `len()` is the number of different pairs. A loader takes its numbers from a `DrawSampler` and, since a list of
    numbers gives one whole batch, `collate_fn=PairDataset.whole`.

    >>> pairs = PairDataset(cache, find_pairs(cache.streams, ["0.5s"]))  # doctest: +SKIP
    >>> pairs[7]["frames"].shape                                         # doctest: +SKIP
    torch.Size([2, 3, 64, 64])
    """

    def __init__(
        self,
        frames: FrameSource,
        streams: Sequence[PairedStream],
        seed: int = 0,
        *,
        actions: EpisodeActions | None = None,
        like: PairDataset | None = None,
    ) -> None:
        self.frames = frames
        self.mixture: Mixture = Mixture(streams, seed, like.mixture.datasets if like else ())
        self.longest_gap: int = max(self.mixture.longest_gap, like.longest_gap if like else 0)
        self._actions: PairActions | None = None
        if actions is not None:
            self._actions = PairActions(actions, [each.stream for each in streams], self.longest_gap)

    def __len__(self) -> int:
        return self.mixture.num_pairs

    def batch(self, numbers: Sequence[int] | np.ndarray) -> Tensor:
        """uint8 (B, 2, 3, S, S): the frames of some draws."""
        return self._frames(self.mixture.draw(numbers))

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([number]).items()}

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        # torch's loader hands over a whole batch of numbers: one fancy index instead of B small reads.
        draws = self.mixture.draw(numbers)
        batch = {"frames": self._frames(draws)}
        if self._actions is not None:
            actions, mask = self._actions.of(draws)
            batch |= {"actions": actions, "action_mask": mask, "dataset": torch.from_numpy(draws.dataset)}
        return batch

    @staticmethod
    def whole(batch: Any) -> Any:
        """The `collate_fn` of a loader: what `__getitems__` returns is a batch already."""
        return batch

    def _frames(self, draws: Draws) -> Tensor:
        return self.frames.read(draws.stream, np.stack([draws.now, draws.future], 1))


class DrawSampler(Sampler[int]):
    """Epoch e is draws e * n to (e + 1) * n - 1: always new ones, and known before they are made."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples, self.epoch = num_samples, 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration gives; loaders of transformers and accelerate call this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        yield from range(self.epoch * self.num_samples, (self.epoch + 1) * self.num_samples)
