"""Pairs (frame t, frame t + C) from a frame cache, drawn so that every episode counts the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from lara_tokenizer.data.stride import Stride
from lara_tokenizer.train.frames import FrameCache, Stream


class PairDataset(Dataset):
    """All valid pairs of some streams, for all strides. A pair never leaves its episode and is never clamped.

    >>> pairs = PairDataset(cache, cache.streams, ["0.5s"])  # doctest: +SKIP
    >>> pairs.batch([0, 7, 9]).shape  # doctest: +SKIP
    torch.Size([3, 2, 3, 64, 64])

    Raises ValueError where no stream is long enough for any of the strides.
    """

    def __init__(self, cache: FrameCache, streams: Sequence[Stream], strides: Sequence[str]) -> None:
        self.cache = cache
        per_stream = [_pairs_of(stream, strides) for stream in streams]
        counts = np.array([len(pairs) for pairs in per_stream], np.int64)
        if not counts.sum():
            raise ValueError(
                f"no episode is long enough for a pair {' or '.join(strides)} apart: use a shorter stride."
            )
        self.pairs = np.concatenate([pairs for pairs in per_stream if len(pairs)])  # (P, 2), rows of the cache
        # Streams without a pair drop out, so that the sampler can draw any of these.
        self.starts = (np.cumsum(counts) - counts)[counts > 0]
        self.counts = counts[counts > 0]

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """uint8 (B, 2, 3, S, S): frame t and frame t + C of each pair."""
        return torch.from_numpy(np.take(self.cache.frames, self.pairs[np.asarray(indices)], axis=0))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"frames": self.batch([index])}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        # torch's loader hands over a whole batch of indices: one fancy index instead of B small reads.
        return {"frames": self.batch(indices)}


def _pairs_of(stream: Stream, strides: Sequence[str]) -> np.ndarray:
    found = [np.empty((0, 2), np.int64)]
    anchors = np.arange(len(stream.timestamps))
    for stride in strides:
        future = Stride.parse(stride).future_indices(stream.timestamps, anchors)
        valid = future >= 0
        found.append(stream.offset + np.stack([anchors[valid], future[valid]], 1))
    return np.concatenate(found)


class EpisodeBalancedSampler(Sampler[int]):
    """`num_samples` pairs an epoch: each stream as often as any other (within one), pairs inside a stream at random.

    The order depends on seed and epoch alone, so that workers and restarts do not change it.
    """

    def __init__(self, pairs: PairDataset, num_samples: int, seed: int = 0) -> None:
        self.pairs, self.num_samples, self.seed, self.epoch = pairs, num_samples, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        streams, left = len(self.pairs.counts), self.num_samples
        while left > 0:
            # One round visits each stream once; many rounds at a time keep numpy busy without holding the whole epoch.
            rounds = min(-(-left // streams), max(1, 65536 // streams))
            order = np.concatenate([rng.permutation(streams) for _ in range(rounds)])[:left]
            within = (rng.random(len(order)) * self.pairs.counts[order]).astype(np.int64)
            yield from (self.pairs.starts[order] + within).tolist()
            left -= len(order)


def split_streams(streams: Sequence[Stream], heldout_share: float, seed: int = 0) -> tuple[list[Stream], list[Stream]]:
    """(training, held out), by episode: at least one episode on each side. Raises ValueError for a single episode."""
    episodes = sorted({stream.episode for stream in streams})
    if len(episodes) < 2:
        raise ValueError("one readable episode cannot be split into training and held-out episodes; give at least 2.")
    shuffled = np.random.default_rng(seed).permutation(len(episodes))
    count = min(max(1, round(heldout_share * len(episodes))), len(episodes) - 1)
    heldout = {episodes[i] for i in shuffled[:count]}
    return [s for s in streams if s.episode not in heldout], [s for s in streams if s.episode in heldout]
