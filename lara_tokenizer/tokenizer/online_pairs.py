"""Pairs of frames that keep coming: the pairs that `Stride.future_indices` finds once all frames are there."""

from __future__ import annotations

from collections import deque

import numpy as np

from lara_tokenizer.data.stride import Stride, close_enough, nearest

# Frame intervals whose median is the camera's period. It decides only about the stride as a whole and about the last
# frames, so that the latest intervals do for a stream without an end.
_INTERVALS = 4096
# Intervals after which a stride that the rate cannot meet is an error: a camera may stutter when it starts.
_SETTLED = 16
# Frames within one stride: more come from times in another unit, which would fill the memory.
_MOST_WAITING = 1024


class OnlinePairs:
    """The frames t and t+C of a stride, each as soon as it is certain which frame is the nearest to t + stride.

    >>> pairs = OnlinePairs(Stride.parse("0.2s"))
    >>> [pairs.push(time) for time in (0.0, 0.1, 0.21, 0.31)]
    [[], [], [(0, 2)], [(1, 3)]]
    """

    def __init__(self, stride: Stride) -> None:
        self.stride = stride
        self.count = 0
        """Frames so far."""
        self.waiting: deque[int] = deque()
        """Frames whose later frame is not certain yet."""
        self._times: deque[float] = deque()  # of those that wait
        self._last = -np.inf
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)

    def push(self, time: float) -> list[tuple[int, int]]:
        """The pairs that a frame at `time` (seconds; any number for a stride in frames) decides.

        Raises ValueError for a time that is not after the last one's; the frame does not count then.
        """
        frame, is_timed = self.count, self.stride.unit == "s"
        if is_timed:
            self._check(time)
        self.count += 1
        self.waiting.append(frame)
        self._times.append(time)
        if not is_timed:
            return [(self._take()[0], frame)] if len(self.waiting) > int(self.stride.value) else []
        if frame:
            self._intervals.append(time - self._last)
        if len(self._intervals) == _SETTLED:
            self._check_rate()
        before, self._last = self._last, time
        pairs = []
        # A frame is certain once one at or after its target is there: no later frame is nearer.
        while self._times[0] + self.stride.value <= time:
            anchor, anchor_time = self._take()
            pairs += self._pair(anchor, anchor_time, frame - 1, np.array([before, time]))
        return pairs

    def finish(self) -> list[tuple[int, int]]:
        """The pairs of frames whose target is nearer to the last frame than to one that a period later would come.

        Raises ValueError for a stride that the rate of the frames cannot meet.
        """
        pairs: list[tuple[int, int]] = []
        if self.stride.unit == "f" or self.count < 2:
            return pairs
        self._check_rate()
        ends = np.array([self._last, self._last + self._period])
        while self.waiting:
            anchor, time = self._take()
            pairs += [pair for pair in self._pair(anchor, time, self.count - 1, ends) if pair[1] < self.count]
        return pairs

    @property
    def _period(self) -> float:
        return float(np.median(self._intervals))

    def _take(self) -> tuple[int, float]:
        return self.waiting.popleft(), self._times.popleft()

    def _pair(self, anchor: int, time: float, first: int, times: np.ndarray) -> list[tuple[int, int]]:
        """The pair of a frame with the nearer of two neighbours, the frames `first` and `first + 1`."""
        at = int(nearest(times, np.array([time + self.stride.value]))[0])
        at = max(at, anchor + 1 - first)
        return [(anchor, first + at)] if close_enough(times[at] - time, self.stride.value) else []

    def _check(self, time: float) -> None:
        if not time > self._last or not np.isfinite(time):
            raise ValueError(
                f"timestamp {time}: takes seconds after those of the frame before ({self._last:g}). Leave out a frame "
                "that the camera gives twice."
            )
        if len(self.waiting) >= _MOST_WAITING:
            raise ValueError(
                f"{_MOST_WAITING:,} frames came within a stride of {self.stride.text}: timestamps are in seconds."
            )

    def _check_rate(self) -> None:
        try:
            self.stride.frames_at(1 / self._period)
        except ValueError as error:
            raise ValueError(
                f"stride {self.stride.text!r} cannot be met by frames {self._period:.4g} s apart: timestamps are in "
                "seconds. Take a stride that is a multiple of that, or in frames: '1f'."
            ) from error
