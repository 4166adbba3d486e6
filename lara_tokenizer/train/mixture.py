"""Sampling of frame pairs: sample k of a mixture of datasets is a function of the seed and k alone.

Any number of loader processes therefore produces the same samples, no process needs to know the epoch, and a restart
continues by counting. Every dataset is sampled equally often, whatever its size; within it every sequence, whatever
its length.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lara_tokenizer.data.stride import Stride
from lara_tokenizer.train.sequences import FrameSequence

logger = logging.getLogger(__name__)

CHUNK = 4096  # samples, or positions of a shuffled order, whose random numbers are generated together
Generate = Callable[[np.random.Generator], np.ndarray]
REDRAW = 2**44  # distance between a sample and what it is drawn again as: farther than any run counts
ORDER, UNIFORM = 0, 1  # purposes of random numbers: part of the seed, so that they are independent


@dataclass(frozen=True, slots=True)
class StridePairs:
    """The frame pairs of one sequence at one stride: frames 0 to count - 1, each with the frame `gap` later."""

    stride: int
    """Index into the requested strides."""
    count: int
    gap: int
    """In frames; the longest one where `frame_pairs` is given."""
    frame_pairs: np.ndarray | None = None
    """int64 (count, 2), listed one by one where timestamps are uneven."""


@dataclass(frozen=True, slots=True)
class PairedSequence:
    """A frame sequence and its pairs at each stride that its frame rate allows; at least one."""

    sequence: FrameSequence
    pairs: tuple[StridePairs, ...]


def find_pairs(sequences: Sequence[FrameSequence], strides: Sequence[str]) -> list[PairedSequence]:
    """Find the pairs of every sequence; a pair never leaves its episode and is never clamped to its end.

    A sequence that is too short for every stride, or too slow while others of its dataset are not, is logged and left
    out. Raises ValueError for a dataset without any pair, with the reason.

    >>> slow = FrameSequence(0, "rt1", "a", "", np.arange(4) / 3)
    >>> find_pairs([slow], ["0.1s", "0.6s"])[0].pairs
    (StridePairs(stride=1, count=2, gap=2, frame_pairs=None),)
    """
    parsed = [Stride.parse(stride) for stride in strides]
    paired: list[PairedSequence] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    for sequence in sequences:
        pairs, too_slow = _pairs_of(sequence, parsed)
        if pairs:
            paired.append(PairedSequence(sequence, pairs))
        else:
            left_out[sequence.dataset].append(too_slow)
    datasets = {each.sequence.dataset for each in paired}
    apart = f"a pair {' or '.join(strides)} apart"
    for dataset, reasons in left_out.items():
        prefix = f"dataset {dataset!r}: " if dataset else ""
        too_slow = next(filter(None, reasons), "")
        if dataset not in datasets:
            raise ValueError(prefix + (too_slow or f"no episode is long enough for {apart}: use a shorter stride."))
        slow = len([reason for reason in reasons if reason])
        short = [f"{len(reasons) - slow} too short for {apart}"] if slow < len(reasons) else []
        details = short + [f"{slow}, since {too_slow}"] * (slow > 0)
        logger.warning("%sleft out camera sequences: %s", prefix, "; ".join(details))
    return paired


def _pairs_of(sequence: FrameSequence, strides: Sequence[Stride]) -> tuple[tuple[StridePairs, ...], str]:
    """Pairs at each stride, and the reason if the frame rate allows none of them."""
    anchors = np.arange(len(sequence.timestamps))
    found: list[StridePairs] = []
    misses: list[str] = []
    for index, stride in enumerate(strides):
        try:
            future = stride.future_indices(sequence.timestamps, anchors, sequence.period)
        except ValueError as error:
            misses.append(str(error))
            continue
        now = np.flatnonzero(future >= 0)
        if not len(now):
            continue
        gaps = future[now] - now
        # The usual case of an even frame rate needs two numbers instead of a row per pair.
        is_even = now[-1] == len(now) - 1 and gaps.min() == gaps.max()
        frame_pairs = None if is_even else np.stack([now, future[now]], 1)
        found.append(StridePairs(index, len(now), int(gaps.max()), frame_pairs))
    return tuple(found), misses[-1] if len(misses) == len(strides) else ""


def split_sequences(
    sequences: Sequence[PairedSequence], heldout_share: float, seed: int = 0
) -> tuple[list[PairedSequence], list[PairedSequence]]:
    """Split into (training, held out) by episode; a dataset with two or more has at least one on each side.

    Segments of one recording stay together. The choice depends on the seed and the dataset's own episodes only, not on
    other datasets. Raises ValueError if no dataset has two episodes.
    """
    episodes: dict[str, set[str]] = defaultdict(set)
    for each in sequences:
        episodes[each.sequence.dataset].add(_recording(each.sequence))
    heldout: set[tuple[str, str]] = set()
    for dataset, ids in episodes.items():
        names = sorted(ids)
        shuffled = np.random.default_rng(seed).permutation(len(names))
        count = min(max(1, round(heldout_share * len(names))), len(names) - 1)
        heldout |= {(dataset, names[i]) for i in shuffled[:count]}
    if not heldout:
        raise ValueError(
            "datasets of one readable episode cannot be split into training and held-out episodes; give at least 2."
        )
    sides: tuple[list[PairedSequence], list[PairedSequence]] = ([], [])
    for each in sequences:
        sides[(each.sequence.dataset, _recording(each.sequence)) in heldout].append(each)
    return sides


def _recording(sequence: FrameSequence) -> str:
    """The recording that an episode is a segment of: neighbouring segments show the same scene."""
    return sequence.episode.partition("#t=")[0]


@dataclass(frozen=True, slots=True)
class SampleIndices:
    """Sampled frame pairs as indices, each an int64 array (n,)."""

    dataset: np.ndarray
    """Index into `Mixture.datasets`."""
    sequence: np.ndarray
    """`FrameSequence.index`."""
    stride: np.ndarray
    """Index into the requested strides."""
    now: np.ndarray
    """Frame t of the sequence."""
    future: np.ndarray
    """Frame t + C of the sequence."""


class Mixture:
    """An endless, randomly accessible series of frame pairs from several datasets.

    Each block of D samples, D the number of datasets, contains every dataset once, in random order. A dataset's own
    samples go through its sequences in rounds, each round in a random order. The stride is uniform over those that the
    sequence allows, and the pair is uniform over that stride's pairs.

    Args:
        sequences: at least one.
        seed: of all random choices.
        datasets: names by their index in `SampleIndices.dataset`; default: the sorted names of the sequences.

    >>> mixture = Mixture(find_pairs([FrameSequence(0, "", "a", "", np.arange(30) / 10)], ["0.5s"]), seed=3)
    >>> draws = mixture.draw([7, 1_000_000])
    >>> (draws.future - draws.now).tolist()
    [5, 5]
    """

    def __init__(self, sequences: Sequence[PairedSequence], seed: int = 0, datasets: Sequence[str] = ()) -> None:
        sequences = sorted(sequences, key=lambda each: each.sequence.dataset)  # stable within a dataset
        assert sequences
        names = [each.sequence.dataset for each in sequences]
        own = sorted(set(names))
        self.seed = seed
        self.datasets = list(datasets) or own
        if missing := sorted(set(own) - set(self.datasets)):
            raise ValueError(f"dataset {missing[0]!r} is not among {', '.join(map(repr, self.datasets))}.")
        self._dataset = np.array([self.datasets.index(name) for name in own])
        self._first = np.searchsorted(names, own)  # row of each dataset's first sequence
        self._size = np.diff(np.append(self._first, len(names)))
        self._sequence_index = np.array([each.sequence.index for each in sequences])
        self._num_strides = np.array([len(each.pairs) for each in sequences])
        # Tables (sequence, stride), so that a batch is sampled by a few array lookups without a Python loop.
        shape = (len(sequences), self._num_strides.max())
        self._stride = np.zeros(shape, np.int64)
        self._count = np.zeros(shape, np.int64)
        self._gap = np.zeros(shape, np.int64)
        self._listed_at = np.full(shape, -1, np.int64)  # offset into self._listed; -1: an even frame rate
        listed, filled = [np.zeros((0, 2), np.int64)], 0
        for row, each in enumerate(sequences):
            for column, pairs in enumerate(each.pairs):
                self._stride[row, column] = pairs.stride
                self._count[row, column] = pairs.count
                self._gap[row, column] = pairs.gap
                if pairs.frame_pairs is not None:
                    self._listed_at[row, column] = filled
                    listed.append(pairs.frame_pairs)
                    filled += pairs.count
        self._listed = np.concatenate(listed)
        self._cache: dict[tuple[int, ...], tuple[int, np.ndarray]] = {}  # the last chunk of each purpose

    @property
    def num_pairs(self) -> int:
        """Number of different pairs, over all strides."""
        return int(self._count.sum())

    @property
    def longest_gap(self) -> int:
        """The longest gap between the frames of a pair, in frames."""
        return int(self._gap.max())

    def draw(self, indices: Sequence[int] | np.ndarray, attempt: int = 0) -> SampleIndices:
        """Samples by index (one or more, from 0, in any order). Raises IndexError for a negative index.

        Another `attempt` gives other pairs of the same datasets, for samples of which the first pair is of no use.
        """
        indices = np.asarray(indices, np.int64)
        if indices.min() < 0:
            raise IndexError(f"sample {indices.min()}: indices of samples start at 0")
        num_datasets = len(self._first)
        dataset = self._shuffled((), num_datasets, indices)
        indices = indices + attempt * REDRAW
        row = np.empty(len(indices), np.int64)
        for each in np.unique(dataset).tolist():
            chosen = dataset == each
            # Each block of D samples contains the dataset once, so the block's index counts the dataset's samples.
            row[chosen] = self._first[each] + self._shuffled(
                (each,), int(self._size[each]), indices[chosen] // num_datasets
            )
        uniform = self._take((UNIFORM,), CHUNK, indices, lambda rng: rng.random((CHUNK, 2)))
        column = (uniform[:, 0] * self._num_strides[row]).astype(np.int64)
        within = (uniform[:, 1] * self._count[row, column]).astype(np.int64)
        pairs = np.stack([within, within + self._gap[row, column]], 1)
        if len(self._listed):
            offset = self._listed_at[row, column]
            pairs[offset >= 0] = self._listed[(offset + within)[offset >= 0]]
        stride = self._stride[row, column]
        return SampleIndices(self._dataset[dataset], self._sequence_index[row], stride, pairs[:, 0], pairs[:, 1])

    def _shuffled(self, key: tuple[int, ...], size: int, positions: np.ndarray) -> np.ndarray:
        """Entries at `positions` of an endless series of permutations of 0 .. size - 1."""
        if size == 1:
            return np.zeros(len(positions), np.int64)
        rounds = -(-CHUNK // size)

        def permute(rng: np.random.Generator) -> np.ndarray:
            return rng.permuted(np.tile(np.arange(size), (rounds, 1)), axis=1).ravel()

        return self._take((ORDER, *key), rounds * size, positions, permute)

    def _take(self, key: tuple[int, ...], size: int, positions: np.ndarray, generate: Generate) -> np.ndarray:
        """Entries of an endless array that is generated in chunks of `size`, each from a seed of its own."""
        chunks, within = np.divmod(positions, size)
        parts, order = [], []
        for chunk in np.unique(chunks).tolist():
            last = self._cache.get(key)
            if last is None or last[0] != chunk:
                # The length distinguishes keys: numpy treats the seeds (1, 2) and (1, 2, 0) as equal.
                rng = np.random.default_rng((self.seed, len(key), *key, chunk))
                last = self._cache[key] = (chunk, generate(rng))
            chosen = np.flatnonzero(chunks == chunk)
            parts.append(last[1][within[chosen]])
            order.append(chosen)
        out = np.concatenate(parts)
        return out if len(parts) == 1 else out[np.argsort(np.concatenate(order))]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}
