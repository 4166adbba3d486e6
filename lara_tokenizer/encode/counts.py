"""Counting tokens: how many pairs, which codes, how much stood still."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# A pair is idle when a pixel changes by less than one of 255 steps on average: nothing but noise.
IDLE_MOTION = 1 / 255


@dataclass(slots=True)
class TokenCounts:
    """Sums over the rows of a table, filled by `add`.

    `histogram` is int64 (N, K): how often each code occurs at each position; None for a continuous bottleneck.
    """

    num_latents: int
    codebook_size: int | None
    rows: int = 0
    pairs: Counter[str] = field(default_factory=Counter)  # valid rows of each stride
    idle: int = 0
    histogram: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.codebook_size is not None:
            self.histogram = np.zeros((self.num_latents, self.codebook_size), np.int64)

    def add(self, table: pa.Table) -> None:
        """Count the rows of a piece of the table."""
        self.rows += table.num_rows
        valid = table.filter(table["valid"])
        for entry in pc.value_counts(valid["stride"].cast(pa.string())).to_pylist():
            self.pairs[entry["values"]] += entry["counts"]
        self.idle += int((valid["motion"].to_numpy() < IDLE_MOTION).sum())
        if self.histogram is not None:
            codes = codes_array(valid)
            for position, histogram in enumerate(self.histogram):
                histogram += np.bincount(codes[:, position], minlength=self.histogram.shape[1])

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
        return None if self.histogram is None else _perplexity(self.histogram.sum(0))

    @property
    def perplexity_per_position(self) -> list[float] | None:
        """The same for each position by itself."""
        return None if self.histogram is None else [_perplexity(counts) for counts in self.histogram]


def codes_array(table: pa.Table) -> np.ndarray:
    """The codes of a table: int16 (rows, N)."""
    column = table["codes"]
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)


def _perplexity(counts: np.ndarray) -> float:
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum()))
