"""The curves of a run as a PNG, drawn with Pillow: one panel for each measure, with the limit that judges it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from lara_tokenizer.thresholds import PERPLEXITY_FLOOR, SPREAD_ALARM, Z_GAIN_ALARM

CURVES = "curves.png"
COLUMNS, WIDTH, HEIGHT = 3, 330, 190  # of the picture, and of a panel in pixels
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 34, 24  # margins of a panel
ZOOM = 2  # pixels are drawn so much larger, and averaged: Pillow's lines are not smooth
INK, FAINT, GRID, LIMIT = (31, 35, 40), (110, 118, 129), (226, 229, 233), (90, 98, 110)
COLOURS = ((29, 105, 178), (196, 60, 60), (219, 139, 20), (64, 140, 90))  # of the runs


class Panel(NamedTuple):
    """A measure of the log and how to draw it; `limit` is a line that curves should stay above."""

    key: str
    title: str
    limit: float | None = None
    limit_name: str = ""


# A run has those of its log, at most six: stage 1 the first ones, joint training the losses of its policy too.
PANELS = (
    Panel("loss", "loss"),
    Panel("heldout_action", "action loss, held out"),
    Panel("heldout_alignment_centered_cosine", "alignment with z: cosine", 0.0),
    Panel("heldout_spread", "spread of z (healthy: about 1)", SPREAD_ALARM, "collapsed"),
    Panel("heldout_perplexity", "codes in effective use", PERPLEXITY_FLOOR, "collapsed"),
    Panel("heldout_z_gain", "z gain: does the decoder read z?", Z_GAIN_ALARM, "ignored"),
    Panel("heldout_gain_over_copying", "gain over copying frame t", 0.0, "copying"),
    Panel("heldout_effective_rank", "effective rank of z"),
)
MOST_PANELS = 6

History = Sequence[Mapping[str, float]]


def draw_run(log: Path, out: Path) -> bool:
    """Draw the curves of a run from its log, lines of JSON; False, and no picture, for a run that logged nothing."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    history = [line for line in map(json.loads, lines) if "loss" in line]
    if not history:
        return False
    draw_curves({"": history}, out)
    return True


def draw_curves(runs: Mapping[str, History], out: Path) -> None:
    """Draw the curves of one run, or of several by name over each other.

    Args:
        runs: the logs: "step" and measures.
        out: a PNG.
    """
    panels = [panel for panel in PANELS if any(panel.key in line for history in runs.values() for line in history)]
    panels = panels[:MOST_PANELS]
    legend = 26 if len(runs) > 1 else 0
    rows = -(-len(panels) // COLUMNS)
    picture = Image.new("RGB", (COLUMNS * WIDTH * ZOOM, (rows * HEIGHT + legend) * ZOOM), "white")
    draw = ImageDraw.Draw(picture)
    if legend:
        _draw_legend(draw, list(runs))
    for index, panel in enumerate(panels):
        corner = (index % COLUMNS * WIDTH, legend + index // COLUMNS * HEIGHT)
        _draw_panel(draw, corner, panel, [_points(history, panel.key) for history in runs.values()])
    picture = picture.resize((picture.width // ZOOM, picture.height // ZOOM), Image.Resampling.LANCZOS)
    # A few hundred shades are mostly antialiasing: a palette halves the file.
    picture.quantize(64, dither=Image.Dither.NONE).save(out, optimize=True)


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers from `low` to `high`.

    >>> ticks(0.1, 1.3), ticks(0, 74)
    ([0.5, 1.0], [0, 20, 40, 60])
    """
    span = high - low
    step = 10 ** math.floor(math.log10(span))
    step = next(step * factor for factor in (0.2, 0.5, 1, 2) if span / (step * factor) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _points(history: History, key: str) -> list[tuple[float, float]]:
    """Steps and values; those that are not measured, or not finite, are left out."""
    found = ((line["step"], line.get(key)) for line in history)
    return [(step, value) for step, value in found if value is not None and math.isfinite(value)]


def _draw_panel(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], panel: Panel, curves: list[list[tuple[float, float]]]
) -> None:
    """One measure: axes, limit, and the curve of each run."""
    left, top = corner
    draw.text(((left + 10) * ZOOM, (top + 8) * ZOOM), panel.title, INK, _font(13))
    points = [point for curve in curves for point in curve]
    if not points:  # NaN from the first step on
        draw.text(((left + LEFT) * ZOOM, (top + TOP + 20) * ZOOM), "not a finite number", FAINT, _font(12))
        return
    values = [value for _, value in points] + ([] if panel.limit is None else [panel.limit])
    low, high = min(values), max(values)
    low, high = (low - 0.5, high + 0.5) if low == high else (low - 0.06 * (high - low), high + 0.06 * (high - low))
    last = max(step for step, _ in points) or 1

    def place(step: float, value: float) -> tuple[float, float]:
        x = left + LEFT + step / last * (WIDTH - LEFT - RIGHT)
        y = top + TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return x * ZOOM, y * ZOOM

    for value in ticks(low, high):
        draw.line([place(0, value), place(last, value)], GRID, ZOOM)
        x, y = place(0, value)
        draw.text((x - 6 * ZOOM, y), f"{value:g}", FAINT, _font(11), anchor="rm")
    for step in ticks(0, last):
        x, y = place(step, low)
        draw.text((x, y + 5 * ZOOM), f"{step:,.0f}", FAINT, _font(11), anchor="mt")
    if panel.limit is not None:
        (start, y), (end, _) = place(0, panel.limit), place(last, panel.limit)
        for x in range(round(start), round(end), 8 * ZOOM):
            draw.line([x, y, x + 4 * ZOOM, y], LIMIT, ZOOM)
        draw.text((end, y - 2 * ZOOM), panel.limit_name, LIMIT, _font(11), anchor="rb")
    for curve, colour in zip(curves, COLOURS, strict=False):
        placed = [place(*point) for point in curve]
        if len(placed) > 1:
            draw.line(placed, colour, 2 * ZOOM, joint="curve")
        elif placed:
            (x, y), size = placed[0], 3 * ZOOM
            draw.ellipse([x - size, y - size, x + size, y + size], colour)


def _draw_legend(draw: ImageDraw.ImageDraw, names: list[str]) -> None:
    x, y, font = 14.0 * ZOOM, 14 * ZOOM, _font(13)
    for name, colour in zip(names, COLOURS, strict=False):
        draw.line([(x, y), (x + 22 * ZOOM, y)], colour, 3 * ZOOM)
        draw.text((x + 28 * ZOOM, y), name, INK, font, anchor="lm")
        x += 28 * ZOOM + draw.textlength(name, font) + 26 * ZOOM


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * ZOOM)
