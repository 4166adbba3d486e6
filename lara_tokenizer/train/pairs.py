"""`PairDataset`: frame pairs (t, t + C) as a torch dataset, and the sampler that goes with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from lara_tokenizer.train.actions import EpisodeActions, PairActions
from lara_tokenizer.train.frames import FrameSource
from lara_tokenizer.train.mixture import Mixture, PairedSequence, SampleIndices

INIT_PAIRS = 512  # the mixture's first: for initial values and scales that depend on data


class PairDataset(Dataset):
    """Sample k is sample k of the mixture of `sequences`, for k = 0, 1, 2, ... without end: a function of seed and k.

    A sample:
        frames: uint8 (2, 3, S, S), frame t and frame t + C.
        actions: float32 (C, A), only with `actions`: standardized by the dataset's own statistics, 0 where masked; C is
            `longest_gap`, A the width of the widest dataset.
        action_mask: bool (C, A), true for actions of frames t to t + C - 1 in the dataset's own dimensions; all false
            for episodes without actions.
        dataset: int64 (), index into `mixture.datasets`.

    `len()` is the number of different pairs. A loader takes its indices from an `InfiniteSampler` and, since a list of
    indices returns one whole batch, `collate_fn=PairDataset.collate`.

    Args:
        frames: where pixels come from.
        sequences: from `find_pairs`.
        seed: of the mixture.
        actions: adds actions to the samples.
        reference: the training pairs, for held-out ones: the same indices of datasets and the same shape of actions.

    >>> pairs = PairDataset(cache, find_pairs(cache.sequences, ["0.5s"]))  # doctest: +SKIP
    >>> pairs[7]["frames"].shape                                           # doctest: +SKIP
    torch.Size([2, 3, 64, 64])
    """

    def __init__(
        self,
        frames: FrameSource,
        sequences: Sequence[PairedSequence],
        seed: int = 0,
        *,
        actions: EpisodeActions | None = None,
        reference: PairDataset | None = None,
    ) -> None:
        self.frames = frames
        self.mixture: Mixture = Mixture(sequences, seed, reference.mixture.datasets if reference else ())
        self.longest_gap: int = max(self.mixture.longest_gap, reference.longest_gap if reference else 0)
        self._actions: PairActions | None = None
        if actions is not None:
            self._actions = PairActions(actions, [each.sequence for each in sequences], self.longest_gap)

    def __len__(self) -> int:
        return self.mixture.num_pairs

    def batch(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Frames of some samples: uint8 (B, 2, 3, S, S)."""
        return self._read_frames(self.mixture.draw(indices))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        # torch's loader passes all indices of a batch: one fancy index instead of B small reads.
        sampled = self.mixture.draw(indices)
        batch = {"frames": self._read_frames(sampled)}
        if self._actions is not None:
            actions, mask = self._actions.read(sampled)
            batch |= {"actions": actions, "action_mask": mask, "dataset": torch.from_numpy(sampled.dataset)}
        return batch

    @staticmethod
    def collate(batch: Any) -> Any:
        """The `collate_fn` of a loader: `__getitems__` returns a whole batch already."""
        return batch

    def _read_frames(self, sampled: SampleIndices) -> Tensor:
        return self.frames.read(sampled.sequence, np.stack([sampled.now, sampled.future], 1))


class InfiniteSampler(Sampler[int]):
    """Consecutive sample indices: epoch e is e * n to (e + 1) * n - 1, always new samples of an endless mixture."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; loaders of transformers and accelerate call this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        yield from range(self.epoch * self.num_samples, (self.epoch + 1) * self.num_samples)
