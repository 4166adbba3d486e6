"""Arrows on frames, and frames in a grid with words."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 4
LINE = 14  # height of a line of words
WORDS = 11  # size of the letters
GAP = 14  # between blocks of columns
REACH = 1.8  # cells that the longest arrow crosses
SHORTEST = 0.12  # share of the longest arrow, below which none is drawn


def on_canvas(side: int) -> Image.Image:
    """A white frame with an edge."""
    canvas = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(canvas).rectangle((0, 0, side - 1, side - 1), outline="#dddddd")
    return canvas


def arrows(frame: Image.Image, flow_GG2: np.ndarray, longest: float) -> Image.Image:
    """A frame with an arrow of the flow in each cell; its colour is its direction. Short ones are left out.

    Args:
        flow_GG2: in pixels.
        longest: length of the flow whose arrow is `REACH` cells long.
    """
    cells, big = len(flow_GG2), 4  # drawn larger and made smaller: smooth lines
    image = frame.resize((frame.width * big, frame.height * big), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    cell = image.width / cells
    for (row, column), length in np.ndenumerate(np.linalg.norm(flow_GG2, axis=-1)):
        if length < SHORTEST * longest:
            continue
        dx, dy = flow_GG2[row, column] * REACH * cell / longest
        x, y = (column + 0.5) * cell - dx / 2, (row + 0.5) * cell - dy / 2
        _arrow(draw, (x, y), (x + dx, y + dy), _colour(dx, dy))
    return image.resize(frame.size, Image.Resampling.LANCZOS)


def _arrow(draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    length = math.dist(start, end)
    head = min(0.5 * length, 22)
    for width, ink in ((10, "black"), (6, colour)):
        draw.line([start, end], fill=ink, width=width)
        for turn in (2.6, -2.6):
            tip = (end[0] + head * math.cos(angle + turn), end[1] + head * math.sin(angle + turn))
            draw.line([end, tip], fill=ink, width=width)


def _colour(dx: float, dy: float) -> str:
    """Right red, down yellow-green, left cyan, up violet."""
    red, green, blue = colorsys.hsv_to_rgb((math.atan2(dy, dx) / math.tau) % 1, 0.9, 1.0)
    return "#{:02x}{:02x}{:02x}".format(*(round(255 * each) for each in (red, green, blue)))


def grid(images: Sequence[Image.Image], captions: Sequence[str], heads: Sequence[str], every: int) -> Image.Image:
    """Frames row by row, with words under each and over each column, and a gap after `every` columns."""
    side, columns = images[0].width, len(heads)
    step = side + LINE + MARGIN
    lefts = [MARGIN + column * (side + MARGIN) + column // every * GAP for column in range(columns)]
    sheet = Image.new("RGB", (lefts[-1] + side + MARGIN, LINE + math.ceil(len(images) / columns) * step), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=WORDS)
    for left, head in zip(lefts, heads, strict=True):
        draw.text((left, 0), head, fill="black", font=font)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = lefts[index % columns], LINE + index // columns * step
        sheet.paste(image, (left, top))
        draw.text((left, top + side), caption, fill="black", font=font)
    return sheet


def save(sheet: Image.Image, file: Path) -> None:
    """Write a sheet as a PNG of 256 colours: a third of the size."""
    palette = sheet.quantize(256)  # without dithering, which needs a palette
    sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(file, optimize=True)
