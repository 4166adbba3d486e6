"""Frames of a camera as the ONNX file beside this one takes them, with numpy alone.

The resize is the one the model was trained with, to the last bit where it is antialiased: filters as 16-bit integers,
columns first, each result rounded to 8 bits.

>>> codes = session.run(["codes"], {"frames": prepare(now), "future_frames": prepare(later)})  # doctest: +SKIP
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np


def prepare(frames: np.ndarray, preparation: dict[str, Any] | None = None) -> np.ndarray:
    """Resize frames to those of the model: uint8 RGB (H, W, 3) or (B, H, W, 3) -> uint8 (B, height, width, 3).

    `preparation` is the content of preparation.json; default: the file beside this one.

    Raises ValueError for frames of another type or shape; OpenCV's are BGR, take frames[..., ::-1].
    """
    options = _read() if preparation is None else preparation
    frames = np.asarray(frames)
    frames = frames[None] if frames.ndim == 3 else frames
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}: takes uint8 RGB (H, W, 3) or (B, H, W, 3).")
    height, width = options["height"], options["width"]
    if options["crop"] == "center":
        frames = _crop(frames, height, width)
    if frames.shape[1:3] == (height, width):
        return np.ascontiguousarray(frames)
    across = _weights(frames.shape[2], width, options["resample"], options["antialias"])
    down = _weights(frames.shape[1], height, options["resample"], options["antialias"])
    if options["antialias"]:
        return _rounded_sums(_rounded_sums(frames, across, 2), down, 1)
    exact = _sums(_sums(frames.astype(np.float64), across, 2), down, 1)
    return np.rint(exact).clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _read() -> dict[str, Any]:
    text = Path(__file__).with_name("preparation.json").read_text(encoding="utf-8")
    options: dict[str, Any] = json.loads(text)["frames"]
    return options


def _crop(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest centered region with the aspect ratio height : width, in whole pixels."""
    high, wide = frames.shape[1:3]
    rows, columns = max(1, min(high, wide * height // width)), max(1, min(wide, high * width // height))
    top, left = (high - rows) // 2, (wide - columns) // 2
    return frames[:, top : top + rows, left : left + columns]


def _sums(values: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """The weighted sums (out, in) along an axis."""
    return np.moveaxis(np.tensordot(values, weights, (axis, 1)), -1, axis)


def _rounded_sums(frames: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """The same in 16-bit fixed point: float64 holds all the integers that occur, and multiplies matrices fast."""
    largest = weights.max()
    bits = next(bits for bits in range(23) if bits == 22 or int(0.5 + largest * 2 ** (bits + 1)) >= 2**15)
    whole = np.trunc(weights * 2**bits + np.copysign(0.5, weights))
    sums = _sums(frames.astype(np.float64), whole, axis)
    return np.floor((sums + 2 ** (bits - 1)) / 2**bits).clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=16)
def _weights(size: int, new_size: int, resample: str, antialias: bool) -> np.ndarray:
    """The share of each pixel in each new one, (new_size, size), as PyTorch's `interpolate` defines them."""
    scale = size / new_size
    weights = np.zeros((new_size, size))
    reach, new = (2 if resample == "bicubic" else 1), np.arange(new_size)
    if antialias:
        # The filter grows with the pixels that one new pixel covers.
        spread = max(scale, 1.0)
        center = scale * (new + 0.5)
        first = np.maximum((center - reach * spread + 0.5).astype(int), 0)
        stop = np.minimum((center + reach * spread + 0.5).astype(int), size)
        pixels = np.arange(size)
        inside = (pixels >= first[:, None]) & (pixels < stop[:, None])
        distance = (pixels - center[:, None] + 0.5) / spread
        weights = np.where(inside, _filter(distance, resample, -0.5), 0)
        return weights / weights.sum(1, keepdims=True)
    at = scale * (new + 0.5) - 0.5
    at = at if resample == "bicubic" else at.clip(min=0)
    for offset in range(1 - reach, reach + 1):
        pixel = np.floor(at).astype(int) + offset
        np.add.at(weights, (new, pixel.clip(0, size - 1)), _filter(at - pixel, resample, -0.75))
    return weights


def _filter(distance: np.ndarray, resample: str, a: float) -> np.ndarray:
    """Keys' cubic with parameter `a`, or a triangle."""
    x = np.abs(distance)
    if resample == "bilinear":
        return np.maximum(1 - x, 0)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))
