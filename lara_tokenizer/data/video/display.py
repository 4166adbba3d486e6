"""Turning and mirroring of frames by the display matrix of a file, as ffmpeg does it."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, cast

import av
import numpy as np
from av.sidedata.sidedata import SideData

# Transposed, mirrored top to bottom, mirrored left to right, for a number of quarters counterclockwise.
_TURNS = ((False, False, False), (True, True, False), (False, True, True), (True, False, True))


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight ways to put a stored picture upright: swap its axes if `transpose`, then mirror it.

    >>> Orientation(mirror_x=True).apply(np.arange(6).reshape(2, 3, 1))[..., 0].tolist()
    [[2, 1, 0], [5, 4, 3]]
    """

    transpose: bool = False  # row y, column x of the picture becomes row x, column y
    mirror_y: bool = False  # top and bottom change places, after the transposition
    mirror_x: bool = False  # left and right change places, after the transposition

    @classmethod
    def of_frame(cls, frame: av.VideoFrame) -> Self:
        """The orientation that a decoded frame carries, from its container or its own stream."""
        try:
            # A sequence, though it is typed as a mapping.
            for item in cast(Iterable[SideData], frame.side_data):
                if item.type.name == "DISPLAYMATRIX":
                    return cls.from_matrix(struct.unpack("9i", bytes(item)[:36]))
        except ValueError:
            # PyAV 18 lists no side data where there is some that it does not know, such as EXIF in motion JPEG. It
            # still tells the angle, but not a mirror image from a turned one.
            return cls(*_TURNS[frame.rotation // 90 % 4])
        return cls()

    @classmethod
    def from_matrix(cls, matrix: tuple[int, ...]) -> Self:
        """The orientation of a display matrix, 9 integers by rows as in mp4 files and ffmpeg's side data.

        The rules are those of the ffmpeg tool. Where that turns by an angle between, such as 45 degrees, the nearest
        right angle is taken; a stretch or shear is ignored.

        >>> Orientation.from_matrix((-(2**16), 0, 0, 0, 2**16, 0, 0, 0, 2**30))
        Orientation(transpose=False, mirror_y=False, mirror_x=True)
        """
        a, b, _, c, d = matrix[:5]
        if not (a or c) or not (b or d):
            return cls()  # no picture at all
        angle = math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))
        match round(angle / 90) % 4:
            case 1:  # a quarter clockwise, or its mirror image
                return cls(transpose=True, mirror_x=c <= 0)
            case 2:
                return cls(mirror_y=d < 0, mirror_x=a < 0)
            case 3:
                return cls(transpose=True, mirror_y=True, mirror_x=c < 0)
            case _:
                return cls(mirror_y=d < 0)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """A view of pixels (..., H, W, C) as they are displayed; (..., W, H, C) where axes are swapped."""
        if self.transpose:
            pixels = np.swapaxes(pixels, -3, -2)
        rows = slice(None, None, -1 if self.mirror_y else 1)
        columns = slice(None, None, -1 if self.mirror_x else 1)
        return pixels[..., rows, columns, :]
