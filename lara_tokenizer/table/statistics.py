"""Statistics of a token table: pairs, code histograms, idle pairs, and pairs with camera motion.

All of them are sums over rows, so they do not depend on the chunks that a table is read in.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lara_tokenizer.table.metadata import CARD, MOVING_PAIRS
from lara_tokenizer.table.reader import matrix
from lara_tokenizer.table.schema import to_arrow, to_numpy
from lara_tokenizer.thresholds import IDLE_MOTION
from lara_tokenizer.verdict.card import Card
from lara_tokenizer.verdict.findings import perplexity

# In the metadata of one unit's rows, where a job keeps its results.
_UNIT_KEY = b"lara_tokenizer.moving_pairs"
# Maximum number of rows sampled for the most frequent tuple of codes, so that memory does not grow with the table.
_SAMPLE = 65_536


@dataclass(frozen=True, slots=True)
class MotionCounts:
    """Moving pairs, and those of them in which the whole image moves, as under a moving camera; pixels of frame t.

    Only the encoder sees the pixels, so it counts. Each unit's rows carry their counts in the schema's metadata, and
    the finished table the sums by camera (`moving_pairs`): the same numbers however often a job was stopped. Sums of
    shares are in whole millionths: sums of integers are the same in any order.
    """

    pairs: int = 0
    """Pairs that are not idle."""
    whole_picture: int = 0
    """Those of them with camera motion (see `encode/camera_motion.py`); the name is a key on disk."""
    frames: int = 0
    """Pairs whose frame t was looked at; 0 in a table of an earlier release."""
    brightness: int = 0
    """Sum of their means, in millionths of the full range."""
    contrast: int = 0
    """Sum of their standard deviations, alike."""

    def __add__(self, other: MotionCounts) -> MotionCounts:
        return MotionCounts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def camera_motion_share(self) -> float:
        """Share of the moving pairs with camera motion, 0 to 1."""
        return self.whole_picture / max(self.pairs, 1)


def with_motion_counts(rows: pa.Table, counts: MotionCounts) -> pa.Table:
    """The rows of a unit, with their counts in the schema's metadata."""
    return rows.replace_schema_metadata({_UNIT_KEY: json.dumps(asdict(counts), sort_keys=True)})


def motion_counts_of(rows: pa.Table) -> MotionCounts | None:
    """The counts of a unit; None if an earlier release encoded it."""
    raw = (rows.schema.metadata or {}).get(_UNIT_KEY)
    return None if raw is None else MotionCounts(**json.loads(raw))


def motion_counts_by_camera(counts: Iterable[tuple[str, MotionCounts | None]]) -> dict[str, MotionCounts] | None:
    """Sums of (camera, counts) by camera; None if any of the counts is unknown."""
    sums: dict[str, MotionCounts] = {}
    for camera, moving in counts:
        if moving is None:
            return None
        sums[camera] = sums.get(camera, MotionCounts()) + moving
    return sums


def motion_counts_to_metadata(by_camera: Mapping[str, MotionCounts] | None) -> dict[str, Any]:
    """The entry of a table's metadata; no entry for unknown counts."""
    if by_camera is None:
        return {}
    return {MOVING_PAIRS: {camera: asdict(moving) for camera, moving in sorted(by_camera.items())}}


def motion_counts_from_metadata(metadata: Mapping[str, Any]) -> dict[str, MotionCounts] | None:
    """The counts by camera in a table's metadata; None for a table of an earlier release."""
    entry = metadata.get(MOVING_PAIRS)
    return None if entry is None else {camera: MotionCounts(**counts) for camera, counts in entry.items()}


def card_to_metadata(card: Card | None) -> dict[str, Any]:
    """The entry of a table's metadata for its checkpoint's card; no entry for none."""
    return {} if card is None else {CARD: card.to_dict()}


def card_from_metadata(metadata: Mapping[str, Any]) -> Card | None:
    """The card in a table's metadata; None where there is none, or one that is none."""
    try:
        return Card.from_dict(metadata[CARD]) if CARD in metadata else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


@dataclass(slots=True)
class TokenCounts:
    """Sums over the rows of a table, filled by `add`.

    Attributes:
        num_latents, codebook_size: N and K; K is None for a continuous bottleneck.
        rows: number of rows, valid or not.
        pairs, cameras: valid rows by stride, and by camera.
        idle_of_camera: valid rows by camera that are idle (motion below `IDLE_MOTION`).
        histogram: int64 (N, K), occurrences of each code at each position; None without codes.
        moving_histogram: the same for the pairs that are not idle.
        samples: sample of the codes of those pairs; None without codes.
        directions: of the z of those pairs; None where there are codes.
        motion_of_camera: sum of the motion of the moving pairs by camera, in whole millionths.
        moving_by_camera: the encoder's counts; None if unknown.
        model: id of the checkpoint that made the table.
        card: of that checkpoint; None if it has none.
    """

    num_latents: int
    codebook_size: int | None
    rows: int = 0
    pairs: Counter[str] = field(default_factory=Counter)
    cameras: Counter[str] = field(default_factory=Counter)
    idle_of_camera: Counter[str] = field(default_factory=Counter)
    histogram: np.ndarray | None = None
    moving_histogram: np.ndarray | None = None
    samples: CodeSample | None = None
    directions: DirectionMoments | None = None
    motion_of_camera: Counter[str] = field(default_factory=Counter)
    moving_by_camera: Mapping[str, MotionCounts] | None = None
    model: str = ""
    card: Card | None = None

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, Any]) -> TokenCounts:
        """Counts of no row yet, with all that a table's metadata says."""
        model = metadata["model"]
        return cls(
            model["num_latents"],
            model["codebook_size"],
            moving_by_camera=motion_counts_from_metadata(metadata),
            model=model["id"],
            card=card_from_metadata(metadata),
        )

    def __post_init__(self) -> None:
        if self.codebook_size is None:
            self.directions = DirectionMoments()
            return
        self.histogram = np.zeros((self.num_latents, self.codebook_size), np.int64)
        self.moving_histogram = np.zeros_like(self.histogram)
        self.samples = CodeSample(self.num_latents)

    def add(self, table: pa.Table) -> None:
        """Count the rows of a chunk of the table."""
        self.rows += table.num_rows
        valid = table.filter(table["valid"])
        self.pairs.update(_occurrences(valid["stride"]))
        self.cameras.update(_occurrences(valid["camera"]))
        # `motion` is never null in a valid row.
        motion = to_numpy(valid["motion"])
        moves = is_moving(motion)
        self.idle_of_camera.update(_occurrences(valid["camera"].filter(to_arrow(~moves))))
        steps = np.rint(1e6 * np.where(moves, motion, 0)).astype(np.int64)
        names = valid["camera"].cast(pa.string()).combine_chunks().dictionary_encode()
        camera_of_row = to_numpy(names.indices)
        for number, camera in enumerate(names.dictionary.to_pylist()):
            self.motion_of_camera[camera] += int(steps[camera_of_row == number].sum())
        if self.histogram is None or self.moving_histogram is None or self.samples is None:
            assert self.directions is not None
            latents = matrix(valid, "latents")
            assert latents is not None
            self.directions.add(latents[moves])
            return
        codes = codes_array(valid)
        _add_codes(self.histogram, codes)
        _add_codes(self.moving_histogram, codes[moves])
        self.samples.add(codes[moves])

    def count_through(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same tables, counted as they pass."""
        for table in tables:
            self.add(table)
            yield table

    @property
    def num_pairs(self) -> int:
        """Valid rows of all strides."""
        return sum(self.pairs.values())

    @property
    def num_moving(self) -> int:
        """Valid rows that are not idle."""
        return self.num_pairs - sum(self.idle_of_camera.values())

    @property
    def idle_share(self) -> float:
        """Share of the valid pairs that are idle, 0 to 1."""
        return sum(self.idle_of_camera.values()) / max(self.num_pairs, 1)

    @property
    def codes_used(self) -> int | None:
        """Number of distinct codes that occur, of K."""
        return None if self.histogram is None else int((self.histogram.sum(0) > 0).sum())

    @property
    def perplexity(self) -> float | None:
        """exp(entropy) of the codes pooled over positions: codes in effective use, 1 to K."""
        return None if self.histogram is None else perplexity(self.histogram.sum(0))

    @property
    def perplexity_per_position(self) -> list[float] | None:
        """Perplexity of each position on its own."""
        return None if self.histogram is None else [perplexity(counts) for counts in self.histogram]


@dataclass(slots=True)
class CodeSample:
    """The codes of every 2^k-th pair, with the smallest k that keeps at most `_SAMPLE` rows: all of a small table."""

    num_latents: int
    _seen: int = 0
    _step: int = 1
    _codes: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self._codes = np.empty((0, self.num_latents), np.int16)

    def add(self, codes: np.ndarray) -> None:
        """int16 (rows, N), in the order of the table."""
        # Pair number i of the whole table is sampled if i % step == 0; `_seen` pairs came before this chunk.
        self._codes = np.concatenate([self._codes, codes[-self._seen % self._step :: self._step]])
        self._seen += len(codes)
        while len(self._codes) > _SAMPLE:
            self._codes = self._codes[::2]
            self._step *= 2

    def most_common(self) -> tuple[list[int], float]:
        """The most frequent tuple of N codes, and its share of the pairs. Needs at least one pair."""
        tuples, counts = np.unique(self._codes, axis=0, return_counts=True)
        most = int(counts.argmax())
        return tuples[most].tolist(), float(counts[most] / len(self._codes))


@dataclass(slots=True)
class DirectionMoments:
    """First and second moments of z / |z|.

    They are kept in whole steps of 2^-15: sums of integers are the same in any order, sums of floats are not.
    """

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
        # E[x^2] - E[x]^2 may round to just below 0.
        variance = np.maximum(self._squares / self.pairs - mean**2, 0)
        return float(np.sqrt(variance.size) * np.sqrt(variance).mean() / 2**15)


def is_moving(motion: np.ndarray) -> np.ndarray:
    """Whether each pair is not idle: bool (R,) of motion float32 (R,). False for NaN, the motion of invalid pairs.

    >>> is_moving(np.array([0.0, 0.01, np.nan], np.float32)).tolist()
    [False, True, False]
    """
    return motion >= IDLE_MOTION


def codes_array(table: pa.Table) -> np.ndarray:
    """The codes of a table that has some: int16 (rows, N)."""
    codes = matrix(table, "codes")
    assert codes is not None
    return codes


def _occurrences(names: pa.ChunkedArray) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(names.cast(pa.string())).to_pylist()}


def _add_codes(histogram: np.ndarray, codes: np.ndarray) -> None:
    for position, counts in enumerate(histogram):
        counts += np.bincount(codes[:, position], minlength=histogram.shape[1])
