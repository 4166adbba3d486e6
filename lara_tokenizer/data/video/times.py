"""Frame times from the time stamps of packets: order of display, mending of single stamps, holes.

Most files have one presentation time stamp (PTS) per frame, all different. In the others, one false stamp must not void
the rest: a stamp that repeats, is missing or steps back is replaced by a time between its neighbours, and where the
clock restarts (files joined with `cat`), later times follow on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lara_tokenizer.data.video.bitstream import Start

NO_TIME = np.iinfo(np.int64).min

# Up to this many false stamps in a row are mended one by one; more are a clock that restarts.
_MOST_IN_A_ROW = 16
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


def display_order(pts: np.ndarray, dts: np.ndarray, shown: np.ndarray, starts: np.ndarray) -> Display:
    """Order and times of the shown frames.

    Args:
        pts, dts: int64 (m,), time stamps of the packets in file order, `NO_TIME` where there is none.
        shown: bool (m,), whether a packet displays a frame.
        starts: uint8 (m,), a `Start` per packet.
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
    if not missing and (np.diff(ticks) > 0).all() and not restarts.any():
        return Display(rows, ticks.astype(np.float64), is_stamped=True)
    # Between two restarts of the clock, frames are in order of their stamps.
    order = np.lexsort((filled, np.cumsum(restarts)))
    ticks, good, jumps = _mended(filled[order].astype(np.float64))
    notes = []
    if missing:
        notes.append(
            "1 frame has no time stamp: it is placed between its neighbours"
            if missing == 1
            else f"{missing} frames have no time stamp: they are placed between their neighbours"
        )
    if false := int((~good & (stamps[order] != NO_TIME)).sum()):
        notes.append(
            "1 time stamp repeats or is out of order: that frame is placed between its neighbours"
            if false == 1
            else f"{false} time stamps repeat or are out of order: those frames are placed between their neighbours"
        )
    if jumps:
        shown_at = ", ".join(map(str, jumps[:3])) + (", ..." if len(jumps) > 3 else "")
        notes.append(f"the clock restarts at frame {shown_at} (joined files?): later times follow on")
    return Display(frames[order], ticks, is_stamped=False, note="; ".join(notes))


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
    steps = np.diff(ticks)
    interval = float(np.median(steps[steps > 0]))
    good = np.ones(len(ticks), bool)
    jumps: list[int] = []
    last = -np.inf
    i = 0
    while i < len(ticks):
        if ticks[i] > last:
            # A lone stamp far ahead of those before and after it is false itself.
            if i + 1 < len(ticks) and last < ticks[i + 1] < ticks[i] and np.isfinite(last):
                good[i] = False
            else:
                last = ticks[i]
            i += 1
            continue
        after = np.flatnonzero(ticks[i : i + _MOST_IN_A_ROW] > last)
        count = int(after[0]) if len(after) else 0
        # The gap has to have room for the frames, or the clock was set back by a little.
        if count and (count == 1 or ticks[i + count] - last > (count + 1) * interval / 2):
            good[i : i + count] = False
            i += count
        else:
            ticks[i:] += last + interval - ticks[i]
            # A last stamp that repeats is no restart.
            if i + 1 < len(ticks):
                jumps.append(i)
            else:
                good[i] = False
            last = ticks[i]
            i += 1
    numbers = np.arange(len(ticks))
    kept = good | (numbers == len(ticks) - 1)
    return np.interp(numbers, numbers[kept], ticks[kept]), good, jumps
