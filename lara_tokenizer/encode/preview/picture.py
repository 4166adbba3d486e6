"""Predictions as an image, an animation, or a video: three frames side by side, their codes and their gain below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from lara_tokenizer.encode.preview.predictions import Prediction, gain_over_copying

_SIDE = 192  # pixels of a frame in the image
_MARGIN = 4
_LINE = 16
_TITLES = ("frame t", "true future", "predicted future")
_GIF_MILLISECONDS = 200
_FPS = (1.0, 30.0)  # bounds of a video's rate
_BETTER, _WORSE = "#0072b2", "#b63a00"  # than copying


def save(file: Path, rows: Sequence[dict[str, Any]], predictions: Sequence[Prediction]) -> None:
    """Write predictions by the suffix of `file`: .png below each other, .gif and .mp4 after each other."""
    images = [_draw(row, each) for row, each in zip(rows, predictions, strict=True)]
    header = _header(images[0].width, gain_over_copying(predictions), len(predictions))
    if file.suffix.lower() == ".png":
        _stack([header, *images]).save(file)
        return
    titled = [_stack([header, image]) for image in images]
    if file.suffix.lower() == ".gif":
        titled[0].save(file, save_all=True, append_images=titled[1:], duration=_GIF_MILLISECONDS, loop=0)
    else:
        from lara_tokenizer.data.lerobot.writer import encode_video

        encode_video(file, np.stack([np.asarray(image) for image in titled]), _rate(rows))


def _rate(rows: Sequence[dict[str, Any]]) -> float:
    """Frames per second at which a video of these pairs runs as fast as its source."""
    seconds = rows[-1]["timestamp"] - rows[0]["timestamp"]
    return float(np.clip((len(rows) - 1) / seconds, *_FPS)) if seconds > 0 else _FPS[0]


def _draw(row: dict[str, Any], prediction: Prediction) -> Image.Image:
    """The three frames side by side, and two lines below."""
    image = Image.new("RGB", (3 * _SIDE + 4 * _MARGIN, _SIDE + 2 * _LINE + 2 * _MARGIN), "white")
    for index, frame in enumerate((prediction.now, prediction.future, prediction.predicted)):
        resized = Image.fromarray(frame).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        image.paste(resized, (_left(index), 0))
    pen = ImageDraw.Draw(image)
    pen.text((_left(0), _SIDE + 2), f"frame {row['frame_index']} to {row['future_frame_index']}", fill="black")
    gain = gain_over_copying([prediction])
    colour = "black" if gain is None else _BETTER if gain > 0 else _WORSE
    pen.text((_left(2), _SIDE + 2), f"gain over copying {_signed(gain)}", fill=colour)
    pen.text((_left(0), _SIDE + 2 + _LINE), f"codes {' '.join(map(str, row['codes']))}", fill="black")
    return image


def _header(width: int, gain: float | None, pairs: int) -> Image.Image:
    """The titles of the columns, and the gain of all pairs."""
    image = Image.new("RGB", (width, 2 * _LINE), "white")
    pen = ImageDraw.Draw(image)
    pairs_text = "1 pair" if pairs == 1 else f"{pairs} pairs"
    text = f"gain over copying frame t, {pairs_text}: {_signed(gain)}   (1 perfect, 0 no better than copying)"
    pen.text((_left(0), 2), text, fill="black")
    for index, title in enumerate(_TITLES):
        pen.text((_left(index), _LINE + 2), title, fill="black")
    return image


def _left(column: int) -> int:
    return _MARGIN + column * (_SIDE + _MARGIN)


def _signed(gain: float | None) -> str:
    return "none: nothing changes" if gain is None else f"{gain:+.2f}"


def _stack(images: Sequence[Image.Image]) -> Image.Image:
    stacked = Image.new("RGB", (images[0].width, sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        stacked.paste(image, (0, top))
        top += image.height
    return stacked
