"""Arrays to pictures that stand in the page itself: stills, looping clips, maps over frames.

Frames are uint8 (H, W, 3); all pictures are lossless WebP in a data URI, at most SIDE pixels wide.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

SIDE = 80  # pixels: larger frames are shown at this size, for a page of some megabytes
HOLD = 700  # milliseconds that a frame of a clip stands
OUTLINE = (0, 190, 255)
ATTENDED = (255, 140, 0)
# Black, violet, red, orange, pale yellow: brightness rises evenly, so that it reads without colours too.
HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])
# Violet, blue, teal, green, yellow, for the colours of points on white.
SCALE = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (230, 200, 20)])


def to_frame(pixels_3SS: np.ndarray) -> np.ndarray:
    """uint8, or float in 0..1, (3, S, S) -> uint8 (S, S, 3)."""
    frame = np.moveaxis(pixels_3SS, 0, -1)
    return frame if frame.dtype == np.uint8 else np.rint(frame.clip(0, 1) * 255).astype(np.uint8)


def still(frame: np.ndarray) -> str:
    """One frame as a data URI."""
    return _data_uri([frame])


def clip(frames: Sequence[np.ndarray]) -> str:
    """Frames in a loop without end, as a data URI."""
    return _data_uri(frames)


def _data_uri(frames: Sequence[np.ndarray]) -> str:
    first, *others = [_fitted(Image.fromarray(frame)) for frame in frames]
    sink = BytesIO()
    moving = {"save_all": True, "append_images": others, "duration": HOLD, "loop": 0} if others else {}
    first.save(sink, "WebP", lossless=True, **moving)
    return f"data:image/webp;base64,{base64.b64encode(sink.getvalue()).decode()}"


def _fitted(picture: Image.Image) -> Image.Image:
    return picture if picture.width <= SIDE else picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def coloured(values: np.ndarray, anchors: np.ndarray = HEAT) -> np.ndarray:
    """0..1 of any shape -> uint8 (..., 3), between the anchors linearly."""
    places = np.linspace(0, 1, len(anchors))
    channels = [np.interp(np.clip(values, 0, 1), places, anchors[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, -1)).astype(np.uint8)


def difference(one: np.ndarray, other: np.ndarray, full: float) -> np.ndarray:
    """Mean absolute difference of two frames over the colours; `full` (0..255) is the brightest colour."""
    return coloured(np.abs(one.astype(np.float32) - other).mean(-1) / full)


def attended(frame: np.ndarray, map_GG: np.ndarray, even: float, strongest: float) -> np.ndarray:
    """The frame in grey; patches are orange from `even` (not at all) to `strongest`, and not smoothed."""
    scale = len(frame) // len(map_GG)
    above = ((map_GG - even) / max(strongest - even, 1e-12)).clip(0, 1)
    share = np.kron(above, np.ones((scale, scale)))[..., None] * 0.85
    grey = frame.mean(-1, keepdims=True) * 0.85
    return np.rint(grey * (1 - share) + np.array(ATTENDED) * share).astype(np.uint8)


def outlined(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The frame with a line along the inner edge of the mask."""
    padded = np.pad(mask, 1, constant_values=True)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.where((mask & ~inner)[..., None], np.array(OUTLINE, np.uint8), frame)
