"""Frame times from the time stamps of packets: order of display, mending of single stamps, holes.

Most files have one presentation time stamp (PTS) per frame, all different. In the others, one false stamp must not void
the rest: a stamp that repeats, is missing or is out of order is replaced by a time between its neighbours, and where
the clock restarts (files joined with `cat`), later times follow on. Stamps alone do not tell the order of B pictures
around a false one, so the few frames in doubt are decoded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import av
import numpy as np
from av.video.stream import VideoStream

from lara_tokenizer.data.video.bitstream import Start

NO_TIME = np.iinfo(np.int64).min

# Clocks are compared over this many frames before and after a step back, so that up to half as many false stamps in a
# row are no clock that restarts.
_WINDOW = 32
# Rates are measured over so many frames: few enough that most measures in a window avoid a false stamp.
_STRIDE = 8
# In usual intervals, and in typical deviations from a steady rate: a clock that restarts goes back by more than that.
_LEAST_RESTART = 1.5
_JITTER = 4.0
# Part of the usual interval by which an interval differs from it before one of its two stamps may be false, and one
# interval in how many may do so where the rate is steady.
_UNEVEN = 0.25
_FEW_UNEVEN = 20
# A gap counts as a hole if it is this many times as long as nine of ten frame intervals, so that three frames or more
# are gone at a constant rate. Cameras drop one or two frames all the time.
HOLE = 3.5
# More holes than this, and than one frame in a hundred, are pauses of a recording that has no constant rate.
_FEW_HOLES = 3


@dataclass(frozen=True, slots=True)
class Display:
    """The n frames of a video in order of display: rows of their packets, times, and remarks on mended times."""

    rows: np.ndarray  # int64 (n,)
    ticks: np.ndarray | None  # float64 (n,), strictly increasing; None where there are no time stamps to speak of
    is_stamped: bool  # each frame has a time stamp of its own, as it stands in the file
    note: str = ""
    doubtful: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64 (d,): rows of frames that may have another place in this order than their stamps say."""


def display_order(
    pts: np.ndarray, dts: np.ndarray, shown: np.ndarray, starts: np.ndarray, decoded: np.ndarray | None = None
) -> Display:
    """Order and times of the shown frames.

    Args:
        pts, dts: int64 (m,), time stamps of the packets in file order, `NO_TIME` where there is none.
        shown: bool (m,), whether a packet displays a frame.
        starts: uint8 (m,), a `Start` per packet.
        decoded: int64 (m,), place of each packet's frame in the order of display, where a decoder has told it; -1 for
            other frames, whose order is that of their stamps. Either all frames from one closed start to the next
            have a place or none.
    """
    frames = np.flatnonzero(shown)
    stamps = pts[frames]
    rows = frames[np.argsort(stamps, kind="stable")]
    ticks = pts[rows]
    missing = int((stamps == NO_TIME).sum())
    # Where most stamps are missing, the rest are guesses of the demuxer.
    if 2 * missing > len(frames) or (ticks[0] == ticks[-1] and len(frames) > 1):
        return Display(rows, None, is_stamped=False)
    filled = _filled(stamps, dts[frames]) if missing else stamps
    restarts = _restarts(filled, dts[frames], starts[frames])
    known = np.full(len(frames), -1) if decoded is None else decoded[frames]
    # Between two restarts of the clock, frames are in order of their stamps, unless the decoder knows better. All
    # frames that follow a closed start in the file are displayed after those before it.
    parts = np.cumsum((restarts & (known < 0)) | (starts[frames] == Start.CLOSED))
    order = np.lexsort((filled, known, parts))
    rows, ticks = frames[order], filled[order].astype(np.float64)
    if not missing and (np.diff(ticks) > 0).all():
        return Display(rows, ticks, is_stamped=True, doubtful=rows[_doubtful(ticks)])
    ticks, good, jumps = _mended(ticks)
    is_stated = stamps[order] != NO_TIME
    note = _mending_note(missing, int((~good & is_stated).sum()), jumps)
    doubtful = rows[np.union1d(np.flatnonzero(~good | ~is_stated), _doubtful(ticks))]
    return Display(rows, ticks, is_stamped=False, note=note, doubtful=doubtful)


def _mending_note(missing: int, false: int, jumps: list[int]) -> str:
    notes = []
    if missing:
        notes.append(
            "1 frame has no time stamp: it is placed between its neighbours"
            if missing == 1
            else f"{missing} frames have no time stamp: they are placed between their neighbours"
        )
    if false:
        notes.append(
            "1 time stamp repeats or is out of order: that frame is placed between its neighbours"
            if false == 1
            else f"{false} time stamps repeat or are out of order: those frames are placed between their neighbours"
        )
    if jumps:
        shown_at = ", ".join(map(str, jumps[:3])) + (", ..." if len(jumps) > 3 else "")
        notes.append(f"the clock restarts at frame {shown_at} (joined files?): later times follow on")
    return "; ".join(notes)


def _doubtful(ticks: np.ndarray) -> np.ndarray:
    """int64 (d,): frames of a steady rate that are too near another, while a place elsewhere is empty.

    So does a false stamp look that falls between two others.

    >>> _doubtful(np.array([0.0, 10, 20, 21, 30, 50, 60, 70]))
    array([2, 3])
    """
    steps = np.diff(ticks)
    if len(steps) < 2:
        return np.zeros(0, np.int64)
    usual = float(np.median(steps))
    near, far = steps < (1 - _UNEVEN) * usual, steps > (1 + _UNEVEN) * usual
    if not near.any() or not far.any() or (near | far).sum() > max(4, len(steps) // _FEW_UNEVEN):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.append(near, False) | np.append(False, near))


def decoded_order(
    stream: VideoStream, packets: Iterable[av.Packet], shown: np.ndarray, closed: np.ndarray, doubtful: np.ndarray
) -> np.ndarray:
    """Place of each packet's frame among those displayed, as decoding tells: int64 (m,), -1 where nothing was decoded.

    Only the parts between two closed starts in which a frame is doubtful are decoded. A part that cannot be decoded
    completely stays untold.

    Args:
        stream: the stream that `packets` come from, all m of them from the start of the file.
        shown, closed: bool (m,), whether a packet displays a frame, and whether all that follow are displayed later.
        doubtful: int64 (d,), rows of packets.
    """
    parts = np.cumsum(closed)
    wanted = frozenset(parts[doubtful].tolist())
    places = np.full(len(shown), -1)
    decoder = stream.codec_context
    rows: list[int] = []
    part = -1

    def finish() -> None:
        if part in wanted:
            rows.extend(_rows(decoder, None))
            decoder.flush_buffers()
            if sorted(rows) == np.flatnonzero(shown & (parts == part)).tolist():
                places[rows] = np.arange(len(rows))
        rows.clear()

    for row, packet in zip(range(len(shown)), packets, strict=False):
        if parts[row] != part:
            finish()
            part = int(parts[row])
        if part in wanted:
            packet.pts = row
            rows += _rows(decoder, packet)
    finish()
    return places


def first_decoded(stream: VideoStream, packets: Iterable[av.Packet], count: int) -> int:
    """Row of the first frame that decoding from the start of the file shows, of `count` packets; -1 where none is."""
    for row, packet in zip(range(count), packets, strict=False):
        packet.pts = row
        if rows := _rows(stream.codec_context, packet):
            return rows[0]
    return next(iter(_rows(stream.codec_context, None)), -1)


def _rows(decoder: av.VideoCodecContext, packet: av.Packet | None) -> list[int]:
    """Rows of the frames that the decoder gives for a packet; none where it fails."""
    try:
        return [-1 if frame.pts is None else frame.pts for frame in decoder.decode(packet)]
    except av.error.FFmpegError:
        return []


def hole_note(seconds: np.ndarray) -> str:
    """Remark about the longest gap in frame times, float64 (n,); "" where frames follow each other steadily.

    >>> hole_note(np.array([0.0, 0.1, 0.2, 2.6, 2.7, 2.8]))
    'a hole of 2.4 s after frame 2: frames are lost, or the recording paused'
    """
    gaps = np.diff(seconds)
    if len(gaps) < 2:
        return ""
    # The upper of the two quantiles for few gaps, so that one hole among them is not the measure itself.
    usual = float(np.sort(gaps)[min(int(0.9 * len(gaps)), len(gaps) - 2)])
    holes = np.flatnonzero(gaps > HOLE * usual)
    if not 0 < len(holes) <= max(_FEW_HOLES, len(gaps) // 100):
        return ""
    longest = int(holes[np.argmax(gaps[holes])])
    which = "a hole" if len(holes) == 1 else f"{len(holes)} holes, the longest"
    return f"{which} of {gaps[longest]:.1f} s after frame {longest}: frames are lost, or the recording paused"


def _restarts(stamps: np.ndarray, dts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """bool (n,): whether the clock restarts at each frame in file order."""
    restarts = np.zeros(len(stamps), bool)
    # A frame from which decoding starts is displayed after all frames before it in the file. And no frame is displayed
    # before the frame ahead of it in the file is even decoded.
    restarts[1:] = (starts[1:] >= Start.OPEN) & (stamps[1:] <= np.maximum.accumulate(stamps[:-1]))
    restarts[1:] |= (dts[1:] < dts[:-1]) & (stamps[1:] < dts[:-1]) & (dts[1:] != NO_TIME)
    return restarts


def _filled(stamps: np.ndarray, dts: np.ndarray) -> np.ndarray:
    """The stamps in file order, with guesses for missing ones."""
    filled = stamps.copy()
    known = stamps != NO_TIME
    both = known & (dts != NO_TIME)
    # The frames that are not reordered, such as B frames, are displayed this long after they are decoded.
    delay = int((stamps[both] - dts[both]).min()) if both.any() else 0
    for k in np.flatnonzero(~known).tolist():
        if dts[k] != NO_TIME and both.any():
            filled[k] = dts[k] + delay
        else:
            filled[k] = filled[k - 1] if k else stamps[known][0]
    return filled


def _mended(ticks: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Strictly increasing times from those in order of display, whether each was good, and where a clock restarts."""
    numbers, steps = np.arange(len(ticks)), np.diff(ticks)
    stands = 4 * (steps == 0).sum() > len(steps)
    running = ticks[np.append(True, steps != 0)] if stands else ticks
    interval = _slope(running) or max(0.0, float(np.median(steps))) or float(np.median(steps[steps > 0]))
    jumps = _jumps(ticks, interval)
    good = np.ones(len(ticks), bool)
    times = ticks.copy()
    end = None  # the last good frame before the part
    for first, stop in pairwise([0, *jumps, len(ticks)]):
        good[first:stop] = _increasing(ticks[first:stop])
        begin = first + int(np.argmax(good[first:stop]))
        if end is not None:
            times[first:stop] += times[end] + (begin - end) * interval - ticks[begin]
        end = int(np.flatnonzero(good[first:stop])[-1]) + first
    kept = np.flatnonzero(good)
    times = np.interp(numbers, kept, times[kept])
    # Before the first good one and after the last, frames follow each other at the usual rate.
    times += interval * (np.minimum(numbers - kept[0], 0) + np.maximum(numbers - kept[-1], 0))
    return times, good, jumps


def _jumps(ticks: np.ndarray, interval: float) -> list[int]:
    """Frames at which the clock restarts, ascending."""
    steps = np.diff(ticks)
    jumps = [0, len(ticks)]
    # The greatest step first: smaller ones near it may be jitter, and are compared with their own side of it.
    for i in (np.argsort(steps, kind="stable")[: (steps < 0).sum()] + 1).tolist():
        at = bisect_left(jumps, i)
        before, after = ticks[max(jumps[at - 1], i - _WINDOW) : i], ticks[i : min(jumps[at], i + _WINDOW)]
        if _is_restart(before, after, interval):
            jumps.insert(at, i)
    return jumps[1:-1]


def _is_restart(before: np.ndarray, after: np.ndarray, interval: float) -> bool:
    """Whether the clock itself, and not only some stamps, goes back by more than stamps waver anyway.

    `before` and `after` are the stamps of the frames on both sides.
    """
    if min(len(before), len(after)) == 1 or 2 * (np.diff(after) <= 0).sum() > len(after):
        return False  # a first or last stamp that is out of order, or a clock that stands still
    before = before - (_slope(before) or interval) * np.arange(-len(before), 0)
    after = after - (_slope(after) or interval) * np.arange(len(after))
    lag = float(np.median(before) - np.median(after))
    jitter = max(float(np.median(np.abs(part - np.median(part)))) for part in (before, after))
    return lag > max(_LEAST_RESTART * interval, _JITTER * jitter)


def _slope(ticks: np.ndarray) -> float:
    """Ticks per frame, whatever a few false stamps say; 0 for too few frames to tell.

    >>> _slope(np.array([0.0, 10, 20, 900, *range(40, 400, 10)]))
    10.0
    """
    if len(ticks) < _WINDOW:
        return 0.0
    return max(0.0, float(np.median(ticks[_STRIDE:] - ticks[:-_STRIDE])) / _STRIDE)


def _increasing(ticks: np.ndarray) -> np.ndarray:
    """bool (n,): as many of the stamps as possible that increase from one to the next.

    Of two neighbours that exclude each other, the one that fits the rate is kept.

    >>> _increasing(np.array([0.0, 10, 20, 19, 40, 50])).tolist()
    [True, True, True, False, True, True]
    """
    ends: list[float] = []  # the least last member of an increasing subsequence of each length
    lengths = []
    for tick in ticks.tolist():
        at = bisect_left(ends, tick)
        repeats = ends[at : at + 1] == [tick]
        ends[at : at + 1] = [tick]
        lengths.append(0 if repeats else at + 1)  # the first of several alike is kept
    good = np.zeros(len(ticks), bool)
    length, limit = len(ends), np.inf
    for i in range(len(ticks) - 1, -1, -1):
        if lengths[i] == length and ticks[i] < limit:
            good[i], length, limit = True, length - 1, ticks[i]
    kept = np.flatnonzero(good)
    for i in np.flatnonzero(~good).tolist():
        for rival in (i - 1, i + 1):
            if not (0 < rival < len(ticks) - 1 and good[rival]):
                continue
            at = int(np.searchsorted(kept, rival))
            if not 0 < at < len(kept) - 1:
                continue
            a, b = int(kept[at - 1]), int(kept[at + 1])
            if a < i < b and ticks[a] < ticks[i] < ticks[b]:
                expected = np.interp([i, rival], [a, b], [ticks[a], ticks[b]])
                if abs(ticks[i] - expected[0]) < abs(ticks[rival] - expected[1]):
                    good[i], good[rival], kept[at] = True, False, i
                    break
    return good
