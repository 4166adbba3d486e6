"""Images that are part of the page itself: stills, looping clips, and maps over frames.

Frames are uint8 (H, W, 3); all images are lossless WebP in a data URI, at most MAX_SIDE pixels wide.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import PIL.Image
from einops import rearrange, repeat
from markupsafe import Markup

MAX_SIDE = 80  # pixels: larger frames are scaled down, so that a page has some megabytes
FRAME_DURATION = 700  # milliseconds, of a clip
OUTLINE = (0, 190, 255)
ATTENDED = (255, 140, 0)
# Black, violet, red, orange, pale yellow: brightness rises evenly, so that it can be read without colours too.
HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])
# Violet, blue, teal, green, yellow, for the colours of points on white.
SCALE = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (230, 200, 20)])


@dataclass(frozen=True, slots=True)
class Image:
    """One frame, or frames in an endless loop, as an <img> element with its description."""

    frames: Sequence[np.ndarray]
    description: str

    def __html__(self) -> str:
        return Markup('<img src="{}" alt="{}">').format(_data_uri(self.frames), self.description)


def still(frame: np.ndarray, description: str) -> Image:
    """One frame."""
    return Image([frame], description)


def to_frame(pixels_3SS: np.ndarray) -> np.ndarray:
    """uint8, or float in 0..1, (3, S, S) -> uint8 (S, S, 3)."""
    frame = rearrange(pixels_3SS, "c h w -> h w c")
    return frame if frame.dtype == np.uint8 else np.rint(frame.clip(0, 1) * 255).astype(np.uint8)


def _data_uri(frames: Sequence[np.ndarray]) -> str:
    first, *others = [_fit(PIL.Image.fromarray(frame)) for frame in frames]
    sink = BytesIO()
    animation = {"save_all": True, "append_images": others, "duration": FRAME_DURATION, "loop": 0} if others else {}
    first.save(sink, "WebP", lossless=True, **animation)
    return f"data:image/webp;base64,{base64.b64encode(sink.getvalue()).decode()}"


def _fit(image: PIL.Image.Image) -> PIL.Image.Image:
    too_large = image.width > MAX_SIDE
    return image.resize((MAX_SIDE, MAX_SIDE), PIL.Image.Resampling.LANCZOS) if too_large else image


def coloured(values: np.ndarray, anchors: np.ndarray = HEAT) -> np.ndarray:
    """Colours of values in 0..1, interpolated between the anchors: any shape -> uint8 (..., 3)."""
    positions = np.linspace(0, 1, len(anchors))
    channels = [np.interp(np.clip(values, 0, 1), positions, anchors[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, -1)).astype(np.uint8)


def difference(one: np.ndarray, other: np.ndarray, brightest: float) -> np.ndarray:
    """Mean absolute difference of two frames over the channels; `brightest` (0..255) has the brightest colour."""
    return coloured(np.abs(one.astype(np.float32) - other).mean(-1) / brightest)


def attended(frame: np.ndarray, map_GG: np.ndarray, even: float, strongest: float) -> np.ndarray:
    """The frame in grey, its patches orange by attention: from `even` (not at all) to `strongest`."""
    above = ((map_GG - even) / max(strongest - even, 1e-12)).clip(0, 1).astype(np.float64)
    # Patches are not smoothed: the map has no finer resolution.
    side = len(frame) // len(map_GG)
    share = repeat(above, "rows columns -> (rows y) (columns x) 1", y=side, x=side) * 0.85
    grey = frame.mean(-1, keepdims=True) * 0.85
    return np.rint(grey * (1 - share) + np.array(ATTENDED) * share).astype(np.uint8)


def outlined(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The frame with a line along the inner edge of the mask."""
    padded = np.pad(mask, 1, constant_values=True)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.where((mask & ~inner)[..., None], np.array(OUTLINE, np.uint8), frame)
