"""Charts of the health card: bars with intervals, histograms and scatter plots, without a line of script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lara_tokenizer.evaluate.card_html import Html, interval, number, tag
from lara_tokenizer.evaluate.report.images import SCALE, coloured

SHADES = 8  # colours of a scatter plot
WIDTH, HEIGHT = 640, 120  # of a histogram, in units of its own
SCATTER = 200  # side of a scatter plot, in units of its own


@dataclass(frozen=True, slots=True)
class Bar:
    """One row: what it is, its value and 95 % interval; the rows beside the first are there to compare it with."""

    label: str
    value: float | None
    bounds: Sequence[float] | None = None


def bars(rows: Sequence[Bar], digits: int) -> Html:
    """Horizontal bars from a line at 0 on one axis, the first of them in colour, intervals as whiskers."""
    ends = [0.0] + [x for row in rows for x in (row.value, *(row.bounds or ())) if x is not None]
    low, width = min(ends), (max(ends) - min(ends)) or 1.0
    return tag("div", *(_bar(row, low, width, digits, first=row is rows[0]) for row in rows), class_="bars")


def _bar(row: Bar, low: float, width: float, digits: int, first: bool) -> Html:
    marks = [_stretch("zero", 0, 0, low, width)]
    if row.value is not None:
        marks.append(_stretch("bar", min(0, row.value), max(0, row.value), low, width))
    if row.bounds is not None:
        marks.append(_stretch("whisker", row.bounds[0], row.bounds[1], low, width))
    return tag(
        "div",
        tag("span", row.label),
        tag("span", *marks, class_="track"),
        tag("span", number(row.value, digits), class_="n", title=interval(row.bounds, digits) or None),
        class_="row first" if first else "row",
    )


def _stretch(kind: str, start: float, end: float, low: float, width: float) -> Html:
    left, size = 100 * (start - low) / width, 100 * (end - start) / width
    return tag("i", class_=kind, style=f"left:{left:.2f}%;width:{size:.2f}%")


def histogram(counts_K: Sequence[int], title: str) -> Html:
    """How often each code occurs, by number, on a square-root scale; the dashed line is even use."""
    counts = np.asarray(counts_K, float)
    scale, step = (HEIGHT - 4) / max(counts.max(), 1.0) ** 0.5, WIDTH / len(counts)
    heights = np.sqrt(counts) * scale
    path = "".join(
        f"M{code * step:.1f} {HEIGHT}v-{height:.1f}h{step * 0.8:.2f}V{HEIGHT}z"
        for code, height in enumerate(heights)
        if height
    )
    even = HEIGHT - counts.mean() ** 0.5 * scale
    return tag(
        "svg",
        tag("title", title),
        tag("path", d=path, class_="bar"),
        tag("path", d=f"M0 {even:.1f}H{WIDTH}", class_="even"),
        tag("path", d=f"M0 {HEIGHT}H{WIDTH}", class_="axis"),
        viewBox=f"0 0 {WIDTH} {HEIGHT + 1}",
        preserveAspectRatio="none",
        role="img",
        class_="histogram",
    )


def scatter(points_P2: np.ndarray, share_P: np.ndarray, title: str) -> Html:
    """Points coloured by `share_P` in 0..1."""
    low, high = points_P2.min(0), points_P2.max(0)
    placed = 6 + (points_P2 - low) / np.where(high > low, high - low, 1) * (SCATTER - 12)
    shades = np.minimum((share_P * SHADES).astype(int), SHADES - 1)
    palette = coloured((np.arange(SHADES) + 0.5) / SHADES, SCALE)
    paths = [
        tag(
            "path",
            d="".join(f"M{x:.1f} {SCATTER - y:.1f}h0" for x, y in placed[shades == shade]),
            stroke="#{:02x}{:02x}{:02x}".format(*palette[shade]),
        )
        for shade in range(SHADES)
        if (shades == shade).any()
    ]
    return tag("svg", tag("title", title), *paths, viewBox=f"0 0 {SCATTER} {SCATTER}", role="img", class_="scatter")
