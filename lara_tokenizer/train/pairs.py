"""`PairDataset`: frame pairs (t, t + C) as a torch dataset, and the sampler that goes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from lara_tokenizer import metrics
from lara_tokenizer.train.actions import EpisodeActions, PairActions
from lara_tokenizer.train.frames import FrameSource
from lara_tokenizer.train.mixture import Mixture, PairedSequence, SampleIndices
from lara_tokenizer.train.targets.features import TargetFeatures
from lara_tokenizer.verdict.card import range_of

INIT_PAIRS = 512  # the mixture's first: for initial values and scales that depend on data
RANGE_CHUNK = 64  # pairs in memory at a time
MOST_DRAWS = 5  # of one sample: a source in which nothing moves still gives samples

Prepare = Callable[[dict[str, Tensor], np.ndarray], dict[str, Tensor]]


class PairDataset(Dataset):
    """Sample k is sample k of the mixture of `sequences`, for k = 0, 1, 2, ... without end: a function of seed and k.

    A sample:
        frames: uint8 (2, 3, S, S), frame t and frame t + C.
        features: float16 (2, C, G, G), only with `features`: theirs, of a frozen vision encoder.
        stride: int64 (), index into the strides that the pairs were found at.
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
        min_motion: a pair whose pixels change by less on average, 0 to 1, is drawn again from the same dataset, a few
            times at most.
        prepare: called as prepare(batch, indices) on each batch of a loader, in the process that loads it; its tensors
            are added to the batch, or replace those of the same name.
        features: adds features to the samples.
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
        min_motion: float = 0.0,
        prepare: Prepare | None = None,
        features: TargetFeatures | None = None,
        actions: EpisodeActions | None = None,
        reference: PairDataset | None = None,
    ) -> None:
        self.frames = frames
        self.min_motion = min_motion
        self.prepare = prepare
        self.features = features
        self.mixture: Mixture = Mixture(sequences, seed, reference.mixture.datasets if reference else ())
        self.longest_gap: int = max(self.mixture.longest_gap, reference.longest_gap if reference else 0)
        self._actions: PairActions | None = None
        if actions is not None:
            self._actions = PairActions(actions, [each.sequence for each in sequences], self.longest_gap)

    def __len__(self) -> int:
        return self.mixture.num_pairs

    def batch(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Frames of some samples: uint8 (B, 2, 3, S, S)."""
        return self._draw(indices)[1]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        # torch's loader passes all indices of a batch: one fancy index instead of B small reads.
        sampled, frames = self._draw(indices)
        batch = {"frames": frames, "stride": torch.from_numpy(sampled.stride)}
        if self.features is not None:
            batch["features"] = self.features.read(sampled.sequence, np.stack([sampled.now, sampled.future], 1))
        if self._actions is not None:
            actions, mask = self._actions.read(sampled)
            batch |= {"actions": actions, "action_mask": mask, "dataset": torch.from_numpy(sampled.dataset)}
        if self.prepare is not None:
            batch |= self.prepare(batch, np.asarray(indices))
        return batch

    @staticmethod
    def collate(batch: Any) -> Any:
        """The `collate_fn` of a loader: `__getitems__` returns a whole batch already."""
        return batch

    def _draw(self, indices: Sequence[int] | np.ndarray) -> tuple[SampleIndices, Tensor]:
        """Sampled pairs and their frames, still ones drawn again."""
        indices = np.asarray(indices, np.int64)
        sampled = self.mixture.draw(indices)
        frames = self._read_frames(sampled)
        for attempt in range(1, MOST_DRAWS if self.min_motion else 1):
            still = np.flatnonzero(_motion(frames) < self.min_motion)
            if not len(still):
                break
            again = self.mixture.draw(indices[still], attempt)
            frames[torch.from_numpy(still)] = self._read_frames(again)
            for column in fields(SampleIndices):
                getattr(sampled, column.name)[still] = getattr(again, column.name)
        return sampled, frames

    def _read_frames(self, sampled: SampleIndices) -> Tensor:
        return self.frames.read(sampled.sequence, np.stack([sampled.now, sampled.future], 1))


def _motion(frames: Tensor) -> np.ndarray:
    """Mean absolute change of the pixels of pairs (B, 2, 3, S, S), uint8, 0 to 1: the `motion` of a table of tokens."""
    now, future = frames.to(torch.int16).unbind(1)
    return (now - future).abs().float().mean((1, 2, 3)).div(255).numpy()


def pixel_ranges(pairs: PairDataset, count: int = INIT_PAIRS) -> dict[str, list[float]]:
    """Ranges of brightness, contrast and motion over the first pairs of the mixture, for a checkpoint's card."""
    values: dict[str, list[np.ndarray]] = {"brightness": [], "contrast": [], "motion": []}
    for first in range(0, count, RANGE_CHUNK):
        frames = pairs.batch(range(first, min(first + RANGE_CHUNK, count)))
        shares = (each.numpy() for each in metrics.brightness_and_contrast(frames[:, 0]))
        for column, of_chunk in zip(values.values(), (*shares, _motion(frames)), strict=True):
            column.append(of_chunk)
    return {name: range_of(np.concatenate(column)) for name, column in values.items()}


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
