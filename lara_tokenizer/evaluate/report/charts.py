"""Charts as coordinates, which the templates draw in HTML and SVG: bars with intervals, histograms, scatter plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lara_tokenizer.evaluate.figures import Estimate
from lara_tokenizer.evaluate.report.images import SCALE, coloured

SHADES = 8  # colours of a scatter plot
WIDTH, HEIGHT = 640, 120  # of a histogram, in units of its own
SIDE, MARGIN = 200, 6  # of a scatter plot, in units of its own


class Bar(NamedTuple):
    """A label and a figure."""

    label: str
    estimate: Estimate


class Mark(NamedTuple):
    """A horizontal line of a bar chart, in percent of the width: "zero", "bar" or "whisker"."""

    kind: str
    left: float
    width: float


def bar_marks(bars: Sequence[Bar]) -> list[list[Mark]]:
    """The marks of each bar, on one axis for all: the line at 0, the bar, and its interval."""
    ends = [0.0] + [x for bar in bars for x in (bar.estimate.value, *(bar.estimate.bounds or ())) if x is not None]
    low, width = min(ends), (max(ends) - min(ends)) or 1.0

    def mark(kind: str, start: float, end: float) -> Mark:
        return Mark(kind, 100 * (start - low) / width, 100 * (end - start) / width)

    charts = []
    for bar in bars:
        marks = [mark("zero", 0, 0)]
        if (value := bar.estimate.value) is not None:
            marks.append(mark("bar", min(0, value), max(0, value)))
        if (bounds := bar.estimate.bounds) is not None:
            marks.append(mark("whisker", *bounds))
        charts.append(marks)
    return charts


@dataclass(frozen=True, slots=True)
class Histogram:
    """Occurrences of each code, on a square-root scale."""

    title: str
    bars: str  # an SVG path
    even: float  # the height of equal use
    width: int = WIDTH
    height: int = HEIGHT


def histogram(counts_K: Sequence[int], title: str) -> Histogram:
    """A histogram with the codes in order."""
    counts = np.asarray(counts_K, float)
    scale, step = (HEIGHT - 4) / max(counts.max(), 1.0) ** 0.5, WIDTH / len(counts)
    bars = "".join(
        f"M{code * step:.1f} {HEIGHT}v-{height:.1f}h{step * 0.8:.2f}V{HEIGHT}z"
        for code, height in enumerate(np.sqrt(counts) * scale)
        if height
    )
    return Histogram(title, bars, HEIGHT - counts.mean() ** 0.5 * scale)


@dataclass(frozen=True, slots=True)
class Scatter:
    """A scatter plot."""

    title: str
    paths: list[tuple[str, str]]  # an SVG path and its colour, for each shade
    side: int = SIDE


def scatter(points_P2: np.ndarray, share_P: np.ndarray, title: str) -> Scatter:
    """Points coloured by `share_P` in 0..1."""
    low, high = points_P2.min(0), points_P2.max(0)
    scaled = MARGIN + (points_P2 - low) / np.where(high > low, high - low, 1) * (SIDE - 2 * MARGIN)
    # One path per shade instead of one element per point keeps the page small.
    shades = np.minimum((share_P * SHADES).astype(int), SHADES - 1)
    palette = coloured((np.arange(SHADES) + 0.5) / SHADES, SCALE)
    paths = [
        ("".join(f"M{x:.1f} {SIDE - y:.1f}h0" for x, y in scaled[shades == shade]), "#{:02x}{:02x}{:02x}".format(*rgb))
        for shade, rgb in enumerate(palette)
        if (shades == shade).any()
    ]
    return Scatter(title, paths)
