"""Stride: the gap between the two frames of a pair, in seconds ("0.6s") or in frames ("5f")."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

# Largest relative deviation of a pair's actual gap from the stride. 0.6 s at 3 Hz becomes 0.667 s: 11 %.
TOLERANCE = 0.25

# Containers round times to milliseconds. Two frames whose distances differ by less than that rounding can explain (half
# a tick in each of four terms) count as equally near, and the later one is taken. Without this, rounding noise would
# choose a different gap from anchor to anchor.
_ROUNDING = 0.002

_PATTERN = re.compile(r"(?P<value>\d+\.?\d*|\.\d+)(?P<unit>[sf])")


@dataclass(frozen=True, slots=True)
class Stride:
    """A gap in seconds or in frames.

    >>> Stride.parse("0.6s").frames_at(fps=3)
    2
    >>> Stride.parse("5f").future_indices(np.arange(8) / 10, np.array([0, 2, 3]))
    array([ 5,  7, -1])
    """

    text: str
    value: float
    unit: str  # "s" or "f"

    @classmethod
    def parse(cls, text: str) -> Stride:
        """Read "0.6s" or "5f". Raises ValueError for a bare number, zero, a negative or anything else."""
        match = _PATTERN.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise ValueError(
                f"stride {text!r}: takes seconds such as '0.6s' or frames such as '5f'" + _suggestion(text)
            )
        value, unit = float(match["value"]), match["unit"]
        if unit == "f" and not value.is_integer():
            raise ValueError(f"stride {text!r}: a frame cannot be divided. Write whole frames, or seconds: '0.6s'")
        if value == 0:
            raise ValueError(f"stride {text!r}: must be at least one frame. Write seconds, '0.6s', or frames, '5f'")
        return cls(text.strip(), value, unit)

    def frames_at(self, fps: float) -> int:
        """Number of frames in this stride at `fps` frames per second.

        Raises ValueError, naming the nearest possible gap, where that deviates from the stride by over 25 %.
        """
        if self.unit == "f":
            return int(self.value)
        # The epsilon keeps 0.3 s at 10 Hz at 3 frames although the product is 2.9999....
        below = max(int(self.value * fps + 1e-9), 1)
        later = (below + 1) / fps - self.value <= self.value - below / fps + _ROUNDING
        frames = below + 1 if later else below
        if not close_enough(frames / fps, self.value):
            raise ValueError(
                f"stride {self.text!r} cannot be met at {fps:.4g} frames per second: the nearest gap is "
                f"{frames / fps:.4g} s ({frames} frame{'s' * (frames > 1)}). Ask for '{frames / fps:.4g}s' "
                f"or '{frames}f', or correct the rate with fps (--fps) if the file states it wrongly"
            )
        return frames

    def future_indices(self, timestamps: np.ndarray, anchors: np.ndarray, period: float | None = None) -> np.ndarray:
        """The future frame of each anchor frame: int64, same length as `anchors`; -1 for an anchor without one.

        A stride in seconds takes the frame nearest to anchor + stride. The result is -1 past the end of the episode
        (the last frame is never substituted) and where no frame is within 25 % of the stride.

        Args:
            timestamps: float64 (n,), times of all frames of the episode in seconds.
            anchors: int64, indices of frames.
            period: seconds from frame to frame; default: the median of the frames' own. Frames that were thinned to a
                grid of another rate are unevenly apart, and their median may be far from the grid's.

        Raises:
            ValueError: the episode's own rate cannot meet the stride, see `frames_at`.
        """
        timestamps, anchors = np.asarray(timestamps, np.float64), np.asarray(anchors, np.int64)
        n = len(timestamps)
        if self.unit == "f":
            future = anchors + int(self.value)
            return np.where(future < n, future, -1)
        if n < 2:
            return np.full(len(anchors), -1, np.int64)
        period = float(np.median(np.diff(timestamps))) if period is None else period
        self.frames_at(1 / period)
        # A virtual frame after the last one: a target nearer to it than to the last frame is past the end.
        padded = np.append(timestamps, timestamps[-1] + period)
        future = np.maximum(nearest(padded, timestamps[anchors] + self.value), anchors + 1)
        close = close_enough(padded[future] - timestamps[anchors], self.value)
        return np.where((future < n) & close, future, -1)

    def anchors(self, timestamps: np.ndarray) -> np.ndarray:
        """Indices of frames sampled at this interval from frame 0 on: int64, increasing.

        In seconds these are the frames nearest to 0, s, 2s, ..., each once; an interval below 1 / fps takes all.

        >>> Stride.parse("2f").anchors(np.arange(5) / 10)
        array([0, 2, 4])
        >>> Stride.parse("0.2s").anchors(np.arange(5) / 10)
        array([0, 2, 4])
        """
        timestamps = np.asarray(timestamps, np.float64)
        if self.unit == "f":
            return np.arange(0, len(timestamps), int(self.value))
        steps = np.arange(int((timestamps[-1] + _ROUNDING) / self.value) + 1)
        return np.unique(nearest(timestamps, steps * self.value))


def nearest(timestamps: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Index of the frame nearest to each of `times`; the later of two that are equally near."""
    later = np.clip(np.searchsorted(timestamps, times), 1, len(timestamps) - 1) if len(timestamps) > 1 else 0
    earlier = np.maximum(later - 1, 0)
    is_later = timestamps[later] - times <= times - timestamps[earlier] + _ROUNDING
    return np.where(is_later, later, earlier)


def close_enough(gap: np.ndarray | float, requested: float) -> np.ndarray | bool:
    """Whether the gap of a pair is within 25 % of the stride."""
    return np.abs(gap - requested) <= TOLERANCE * requested + _ROUNDING / 2


def _suggestion(text: object) -> str:
    """Advice for a bare number; empty for anything else."""
    try:
        value = float(str(text))
    except ValueError:
        return ""
    if value <= 0:
        return ""
    return f"; write '{text}s' or '{text}f'" if value.is_integer() else f"; write '{text}s'"
