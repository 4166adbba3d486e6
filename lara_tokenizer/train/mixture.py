"""Which pair comes next: draw k of a mixture of datasets is a function of the seed and k alone.

So any number of loader processes gives the same draws, no process has to be told the epoch, and a restart finds its
place by counting. Every dataset is drawn equally often, whatever its size; within it every stream, however long.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lara_tokenizer.data.stride import Stride
from lara_tokenizer.train.streams import Stream

logger = logging.getLogger(__name__)

CHUNK = 4096  # draws, or places of a shuffled order, whose random numbers are made together
Make = Callable[[np.random.Generator], np.ndarray]
ORDER, CHANCE = 0, 1  # what random numbers are for: keys that keep their streams apart


@dataclass(frozen=True, slots=True)
class StridePairs:
    """A stream's pairs at one stride: frames 0 to count - 1, each with the frame `gap` later.

    Where times are uneven the pairs are `listed`, int64 (count, 2), and `gap` is the longest.
    """

    stride: int  # which of the strides that were asked for
    count: int
    gap: int
    listed: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class PairedStream:
    """A stream and its pairs at each stride that it can meet; there is at least one."""

    stream: Stream
    pairs: tuple[StridePairs, ...]


def find_pairs(streams: Sequence[Stream], strides: Sequence[str]) -> list[PairedStream]:
    """The streams that have pairs. A pair never leaves its episode and is never clamped to its end.

    A stream that is too short for every stride, or too slow while others of its dataset are not, is logged and left
    out. Raises ValueError for a dataset without any pair, saying what it could meet.

    >>> slow = Stream(0, "rt1", "a", "", np.arange(4) / 3)
    >>> find_pairs([slow], ["0.1s", "0.6s"])[0].pairs
    (StridePairs(stride=1, count=2, gap=2, listed=None),)
    """
    parsed = [Stride.parse(stride) for stride in strides]
    paired: list[PairedStream] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    for stream in streams:
        pairs, too_slow = _pairs_of(stream, parsed)
        if pairs:
            paired.append(PairedStream(stream, pairs))
        else:
            left_out[stream.dataset].append(too_slow)
    there = {each.stream.dataset for each in paired}
    apart = f"a pair {' or '.join(strides)} apart"
    for dataset, reasons in left_out.items():
        named = f"dataset {dataset!r}: " if dataset else ""
        too_slow = next(filter(None, reasons), "")
        if dataset not in there:
            raise ValueError(named + (too_slow or f"no episode is long enough for {apart}: use a shorter stride."))
        slow = len([reason for reason in reasons if reason])
        short = [f"{len(reasons) - slow} too short for {apart}"] if slow < len(reasons) else []
        logger.warning("%sleft out streams: %s", named, "; ".join(short + [f"{slow}, since {too_slow}"] * (slow > 0)))
    return paired


def _pairs_of(stream: Stream, strides: Sequence[Stride]) -> tuple[tuple[StridePairs, ...], str]:
    """Pairs at each stride, and what is wrong where the stream's rate can meet none of them."""
    anchors = np.arange(len(stream.timestamps))
    found: list[StridePairs] = []
    misses: list[str] = []
    for number, stride in enumerate(strides):
        try:
            future = stride.future_indices(stream.timestamps, anchors)
        except ValueError as error:
            misses.append(str(error))
            continue
        now = np.flatnonzero(future >= 0)
        if not len(now):
            continue
        gaps = future[now] - now
        even = now[-1] == len(now) - 1 and gaps.min() == gaps.max()
        listed = None if even else np.stack([now, future[now]], 1)
        found.append(StridePairs(number, len(now), int(gaps.max()), listed))
    return tuple(found), misses[-1] if len(misses) == len(strides) else ""


def split_streams(
    streams: Sequence[PairedStream], heldout_share: float, seed: int = 0
) -> tuple[list[PairedStream], list[PairedStream]]:
    """(training, held out), by episode: of every dataset with two or more, at least one episode on each side.

    Segments of one recording stay together. Which recordings are held out depends on the seed and on the dataset's own
    episodes. Raises ValueError where no dataset has two.
    """
    episodes: dict[str, set[str]] = defaultdict(set)
    for each in streams:
        episodes[each.stream.dataset].add(_recording(each.stream))
    heldout: set[tuple[str, str]] = set()
    for dataset, ids in episodes.items():
        names = sorted(ids)
        shuffled = np.random.default_rng(seed).permutation(len(names))
        count = min(max(1, round(heldout_share * len(names))), len(names) - 1)
        heldout |= {(dataset, names[i]) for i in shuffled[:count]}
    if not heldout:
        raise ValueError(
            "one readable episode a dataset cannot be split into training and held-out episodes; give at least 2."
        )
    held = [(each.stream.dataset, _recording(each.stream)) in heldout for each in streams]
    kept = [each for each, out in zip(streams, held, strict=True) if not out]
    return kept, [each for each, out in zip(streams, held, strict=True) if out]


def _recording(stream: Stream) -> str:
    """What is held out as a whole: a segment's neighbours show the same scene as it does."""
    return stream.episode.partition("#t=")[0]


@dataclass(frozen=True, slots=True)
class Draws:
    """Drawn pairs, all int64 (n,).

    `dataset` and `stride` are places in `Mixture.datasets` and in the strides asked for, `stream` is `Stream.number`,
    `now` and `future` are frames of that stream.
    """

    dataset: np.ndarray
    stream: np.ndarray
    stride: np.ndarray
    now: np.ndarray
    future: np.ndarray


class Mixture:
    """An endless row of pairs, of which any part can be asked for.

    With D datasets, each D draws hold every dataset once, in random order. A dataset's own draws go through its
    streams in rounds, each round in a random order. The stride is any of those that the stream can meet, with equal
    probability, and so is then the pair. `numbering` gives datasets the numbers that they have elsewhere.

    >>> mixture = Mixture(find_pairs([Stream(0, "", "a", "", np.arange(30) / 10)], ["0.5s"]), seed=3)
    >>> draws = mixture.draw([7, 1_000_000])
    >>> (draws.future - draws.now).tolist()
    [5, 5]
    """

    def __init__(self, streams: Sequence[PairedStream], seed: int = 0, numbering: Sequence[str] = ()) -> None:
        streams = sorted(streams, key=lambda each: each.stream.dataset)  # stable: their own order within a dataset
        assert streams
        names = [each.stream.dataset for each in streams]
        self.seed = seed
        drawn = sorted(set(names))
        self.datasets = list(numbering) or drawn
        if missing := sorted(set(drawn) - set(self.datasets)):
            raise ValueError(f"dataset {missing[0]!r} is not among {', '.join(map(repr, self.datasets))}.")
        self._dataset = np.array([self.datasets.index(name) for name in drawn])
        self._first = np.searchsorted(names, drawn)  # of each dataset's streams
        self._size = np.diff(np.append(self._first, len(names)))
        self._number = np.array([each.stream.number for each in streams])
        self._choices = np.array([len(each.pairs) for each in streams])
        shape = (len(streams), self._choices.max())
        self._stride, self._count, self._gap = (np.zeros(shape, np.int64) for _ in range(3))
        self._listed_at = np.full(shape, -1, np.int64)
        listed, filled = [np.zeros((0, 2), np.int64)], 0
        for row, each in enumerate(streams):
            for column, pairs in enumerate(each.pairs):
                self._stride[row, column], self._count[row, column] = pairs.stride, pairs.count
                self._gap[row, column] = pairs.gap
                if pairs.listed is not None:
                    self._listed_at[row, column] = filled
                    listed.append(pairs.listed)
                    filled += pairs.count
        self._listed = np.concatenate(listed)
        self._made: dict[tuple[int, ...], tuple[int, np.ndarray]] = {}  # the last chunk of each kind

    @property
    def num_pairs(self) -> int:
        """How many different pairs there are, over all strides."""
        return int(self._count.sum())

    @property
    def longest_gap(self) -> int:
        """In frames."""
        return int(self._gap.max())

    def draw(self, numbers: Sequence[int] | np.ndarray) -> Draws:
        """The draws of these numbers (one or more, from 0 on, in any order). Raises IndexError for a negative one."""
        numbers = np.asarray(numbers, np.int64)
        if numbers.min() < 0:
            raise IndexError(f"draw {numbers.min()}: draws are numbered from 0")
        drawn = self._shuffled((), len(self._first), numbers)
        row = np.empty(len(numbers), np.int64)
        for number in np.unique(drawn).tolist():
            chosen = drawn == number
            # Each block of D draws holds the dataset once, so that the block is the dataset's own count.
            turns = numbers[chosen] // len(self._first)
            row[chosen] = self._first[number] + self._shuffled((number,), int(self._size[number]), turns)
        chances = self._chances(numbers)
        column = (chances[:, 0] * self._choices[row]).astype(np.int64)
        within = (chances[:, 1] * self._count[row, column]).astype(np.int64)
        pairs = np.stack([within, within + self._gap[row, column]], 1)
        if len(self._listed):
            at = self._listed_at[row, column]
            pairs[at >= 0] = self._listed[(at + within)[at >= 0]]
        return Draws(self._dataset[drawn], self._number[row], self._stride[row, column], pairs[:, 0], pairs[:, 1])

    def _shuffled(self, key: tuple[int, ...], size: int, places: np.ndarray) -> np.ndarray:
        """What stands at some places of an endless row of permutations of 0 .. size - 1."""
        if size == 1:
            return np.zeros(len(places), np.int64)
        rounds = -(-CHUNK // size)

        def permute(rng: np.random.Generator) -> np.ndarray:
            return rng.permuted(np.tile(np.arange(size), (rounds, 1)), axis=1).ravel()

        return self._take((ORDER, *key), rounds * size, places, permute)

    def _chances(self, numbers: np.ndarray) -> np.ndarray:
        """float64 (n, 2) in [0, 1)."""
        return self._take((CHANCE,), CHUNK, numbers, lambda rng: rng.random((CHUNK, 2)))

    def _take(self, key: tuple[int, ...], size: int, places: np.ndarray, make: Make) -> np.ndarray:
        """Entries of an endless array that is made in chunks of `size`, each from its own number."""
        chunks, within = np.divmod(places, size)
        parts, order = [], []
        for chunk in np.unique(chunks).tolist():
            last = self._made.get(key)
            if last is None or last[0] != chunk:
                # The length keeps keys apart: numpy takes (1, 2) and (1, 2, 0) for one seed.
                rng = np.random.default_rng((self.seed, len(key), *key, chunk))
                last = self._made[key] = (chunk, make(rng))
            chosen = np.flatnonzero(chunks == chunk)
            parts.append(last[1][within[chosen]])
            order.append(chosen)
        out = np.concatenate(parts)
        return out if len(parts) == 1 else out[np.argsort(np.concatenate(order))]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}
