"""Counting tokens: how many pairs, which codes, how much stood still."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# A pair is idle when a pixel changes by less than one of 255 steps on average: nothing but noise.
IDLE_MOTION = 1 / 255
# Rows at most that are looked at for the codes that occur together; memory stays flat however long a table is.
_SAMPLE = 65_536
MOVING_PAIRS = "moving_pairs"  # in the metadata of a table of tokens
_UNIT_KEY = b"lara_tokenizer.moving_pairs"


@dataclass(frozen=True, slots=True)
class MotionCounts:
    """`pairs` are not idle; `whole_picture` of them move as a whole picture (see whole_picture.py)."""

    pairs: int = 0
    whole_picture: int = 0

    def __add__(self, other: MotionCounts) -> MotionCounts:
        return MotionCounts(self.pairs + other.pairs, self.whole_picture + other.whole_picture)

    @property
    def whole_picture_share(self) -> float:
        """Of the moving pairs, 0 to 1."""
        return self.whole_picture / max(self.pairs, 1)


def with_motion_counts(rows: pa.Table, moving: MotionCounts) -> pa.Table:
    """The rows of a unit, with their counts."""
    return rows.replace_schema_metadata({_UNIT_KEY: json.dumps(asdict(moving), sort_keys=True)})


def motion_counts_of(rows: pa.Table) -> MotionCounts | None:
    """The counts of a unit; None for one that an earlier release encoded."""
    found = (rows.schema.metadata or {}).get(_UNIT_KEY)
    return None if found is None else MotionCounts(**json.loads(found))


def motion_counts_by_camera(
    counts: Iterable[tuple[str, MotionCounts | None]],
) -> dict[str, MotionCounts] | None:
    """Sum (camera, counts) over units; None where the counts of one of them are unknown."""
    sums: dict[str, MotionCounts] = {}
    for camera, moving in counts:
        if moving is None:
            return None
        sums[camera] = sums.get(camera, MotionCounts()) + moving
    return sums


def motion_counts_to_metadata(by_camera: Mapping[str, MotionCounts] | None) -> dict[str, Any]:
    """The entry of a table's metadata; nothing for what is not known."""
    if by_camera is None:
        return {}
    return {MOVING_PAIRS: {camera: asdict(moving) for camera, moving in sorted(by_camera.items())}}


def motion_counts_from_metadata(metadata: Mapping[str, Any]) -> dict[str, MotionCounts] | None:
    """The counts in a table's metadata; None for a table of an earlier release."""
    found = metadata.get(MOVING_PAIRS)
    return None if found is None else {camera: MotionCounts(**counts) for camera, counts in found.items()}


@dataclass(slots=True)
class TokenCounts:
    """Sums over the rows of a table, filled by `add`. They do not depend on the pieces that the table comes in.

    `histogram` is int64 (N, K): how often each code occurs at each position; None for a continuous bottleneck.
    `moving_histogram`, `samples` and `directions` are of the pairs that are not idle. `moving_by_camera` is what the
    encoder counted; None where nobody did.
    """

    num_latents: int
    codebook_size: int | None
    rows: int = 0
    pairs: Counter[str] = field(default_factory=Counter)  # valid rows of each stride
    cameras: Counter[str] = field(default_factory=Counter)  # valid rows of each camera
    idle_of_camera: Counter[str] = field(default_factory=Counter)
    histogram: np.ndarray | None = None
    moving_histogram: np.ndarray | None = None
    samples: CodeSample | None = None  # None for a continuous bottleneck
    directions: Directions | None = None  # of z; None where there are codes
    moving_by_camera: Mapping[str, MotionCounts] | None = None

    def __post_init__(self) -> None:
        if self.codebook_size is None:
            self.directions = Directions()
            return
        self.histogram = np.zeros((self.num_latents, self.codebook_size), np.int64)
        self.moving_histogram = np.zeros_like(self.histogram)
        self.samples = CodeSample(self.num_latents)

    def add(self, table: pa.Table) -> None:
        """Count the rows of a piece of the table."""
        self.rows += table.num_rows
        valid = table.filter(table["valid"])
        self.pairs.update(_occurrences(valid["stride"]))
        self.cameras.update(_occurrences(valid["camera"]))
        moves = valid["motion"].to_numpy() >= IDLE_MOTION
        self.idle_of_camera.update(_occurrences(valid["camera"].filter(pa.array(~moves))))
        if self.histogram is None or self.moving_histogram is None or self.samples is None:
            assert self.directions is not None
            self.directions.add(_lists(valid, "latents")[moves])
            return
        codes = codes_array(valid)
        _add_codes(self.histogram, codes)
        _add_codes(self.moving_histogram, codes[moves])
        self.samples.add(codes[moves])

    def watch(self, pieces: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The same pieces, counted as they pass."""
        for piece in pieces:
            self.add(piece)
            yield piece

    @property
    def num_pairs(self) -> int:
        """Valid rows of all strides."""
        return sum(self.pairs.values())

    @property
    def idle(self) -> int:
        """Valid rows that are idle."""
        return sum(self.idle_of_camera.values())

    @property
    def idle_share(self) -> float:
        """Share of the valid pairs that are idle, 0 to 1."""
        return self.idle / max(self.num_pairs, 1)

    @property
    def codes_used(self) -> int | None:
        """How many of the K codes occur."""
        return None if self.histogram is None else int((self.histogram.sum(0) > 0).sum())

    @property
    def perplexity(self) -> float | None:
        """exp(entropy) of the codes pooled over positions: codes in effective use, 1 to K."""
        return None if self.histogram is None else perplexity(self.histogram.sum(0))

    @property
    def perplexity_per_position(self) -> list[float] | None:
        """The same for each position by itself."""
        return None if self.histogram is None else [perplexity(counts) for counts in self.histogram]


@dataclass(slots=True)
class CodeSample:
    """The codes of every 2^k-th pair, with the smallest k that keeps them within `_SAMPLE`: all of a small table's."""

    num_latents: int
    _seen: int = 0
    _step: int = 1
    _kept: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self._kept = np.empty((0, self.num_latents), np.int16)

    def add(self, codes: np.ndarray) -> None:
        """int16 (rows, N), in the order of the table."""
        self._kept = np.concatenate([self._kept, codes[-self._seen % self._step :: self._step]])
        self._seen += len(codes)
        while len(self._kept) > _SAMPLE:
            self._kept, self._step = self._kept[::2], 2 * self._step

    def commonest(self) -> tuple[list[int], float]:
        """The N codes that occur together most often, and their share of the pairs, of which there must be one."""
        together, counts = np.unique(self._kept, axis=0, return_counts=True)
        most = int(counts.argmax())
        return together[most].tolist(), float(counts[most] / len(self._kept))


@dataclass(slots=True)
class Directions:
    """Moments of z / |z|, in whole steps of 2^-15: sums of whole numbers are the same in any order."""

    pairs: int = 0
    _sums: np.ndarray | int = 0
    _squares: np.ndarray | int = 0

    def add(self, latents: np.ndarray) -> None:
        """float16 (rows, N*D)."""
        z = latents.astype(np.float64)
        steps = np.rint(2**15 * z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)).astype(np.int64)
        self.pairs += len(steps)
        self._sums = self._sums + steps.sum(0)
        self._squares = self._squares + (steps**2).sum(0)

    @property
    def spread(self) -> float | None:
        """sqrt(D) * mean_d std(z / |z|), as in `lara_tokenizer.metrics.spread`; None without any pair."""
        if not self.pairs:
            return None
        mean = self._sums / self.pairs
        variance = np.maximum(self._squares / self.pairs - mean**2, 0)
        return float(np.sqrt(variance.size) * np.sqrt(variance).mean() / 2**15)


def codes_array(table: pa.Table) -> np.ndarray:
    """The codes of a table: int16 (rows, N)."""
    return _lists(table, "codes")


def perplexity(counts: np.ndarray) -> float:
    """exp(entropy) of how often each code occurs."""
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum()))


def _occurrences(names: pa.ChunkedArray) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(names.cast(pa.string())).to_pylist()}


def _lists(table: pa.Table, name: str) -> np.ndarray:
    column = table[name]
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)


def _add_codes(histogram: np.ndarray, codes: np.ndarray) -> None:
    for position, counts in enumerate(histogram):
        counts += np.bincount(codes[:, position], minlength=histogram.shape[1])
