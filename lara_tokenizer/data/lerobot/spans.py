"""Frames of an episode in its video file: found by time, checked against the lengths of all episodes of the file.

In a video file of v3.0 episodes lie one after the other. `from_timestamp` says where one begins; the lengths of those
before it say it too. The two disagree in published sets: sums of rounded durations drift away from the frames, and
spans overlap by one. A border that is one frame off would pair every later frame with another frame's action, so a
border counts only if both agree, or if one of them is proved by the file.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lara_tokenizer.data.lerobot.cross_check import rate_remark
from lara_tokenizer.errors import EpisodeReadError

# A recorder that stops its camera after its robot leaves a frame or two; a longer rest is another kind of difference.
_EXTRA_FRAMES = 2
_PRINTED_RATE = 2e-4  # relative; rates that differ by more are printed with different digits
_SAME_FRAME = 0.5  # frames; from half a frame on, the neighbour is nearer
# Frames by which an exact time may differ: float32 seconds of a file of three hours, and the ticks of a container.
_EXACT = 0.1
# Of the nominal rate: NTSC video in a set that calls it 30, and the other way round.
_RATE_FACTORS = (1.0, 1000 / 1001, 1001 / 1000)


@dataclass(frozen=True, slots=True)
class FileLayout:
    """All episodes of one video file, as the metadata has them. Shared by the spans of the file."""

    episodes: int
    frames: int  # sum of the lengths
    in_order: bool  # whether from_timestamp grows with the episode index
    exact_rates: tuple[float, ...]
    """Frames per second at which every from_timestamp is on a whole frame and no two spans overlap."""
    has_slivers: bool  # whether a frame or two lie between two spans: no episode was deleted there
    stop: float  # seconds at which the last span ends, by from_timestamp and length


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """The part of a video file that belongs to one episode; times are in seconds from the file's first frame."""

    file: str
    start: float | None = None  # LeRobot's from_timestamp; None where the file contains only this episode
    stop: float | None = None  # LeRobot's to_timestamp
    layout: FileLayout | None = None  # of the file; None where it contains only this episode
    position: int = 0  # number of episodes before this one in the file
    before: int = 0  # frames of the episodes before this one in the file
    is_overlapped: bool = False  # whether the next episode starts before this one's last frame
    is_color: bool = True  # whether the camera is colour video, not depth, a mask or one channel
    problem: str = ""  # reason why there is no such part; reading raises it


def lay_out(spans: Sequence[VideoSpan], lengths: Sequence[int], fps: float) -> list[VideoSpan]:
    """The spans of one camera, each with its place among the episodes of its file.

    Args:
        spans: of all episodes, in the order of their indices.
        lengths: frame counts of the episodes, in the same order.
        fps: frames per second according to the metadata.

    >>> first, second = lay_out([VideoSpan("a.mp4", 0.0), VideoSpan("a.mp4", 0.8)], [8, 6], fps=10)
    >>> second.before, second.layout.frames, second.layout.in_order
    (8, 14, True)
    """
    placed = list(spans)
    by_file: dict[str, list[int]] = defaultdict(list)
    for i, span in enumerate(spans):
        if not span.problem:
            by_file[span.file].append(i)
    for file, members in by_file.items():
        if len(members) == 1 and spans[members[0]].start is None:
            continue  # a file of its own
        for i in members:
            if spans[i].start is None:
                reason = f"{len(members)} episodes are in this file, and this one has no from_timestamp"
                placed[i] = VideoSpan(file, problem=reason)
        timed = [i for i in members if spans[i].start is not None]
        if timed:
            _place(placed, timed, lengths, fps)
    return placed


def first_frame_of(span: VideoSpan, timestamps: np.ndarray, length: int, fps: float) -> tuple[int, str]:
    """Index of an episode's first frame in its video file, and a remark where the metadata is not exact.

    The frame at `from_timestamp` is taken if the lengths of the episodes before it lead to the same one. Where they do
    not, the lengths are taken if they add up to the frames of the file and the difference can be rounding, at most
    one frame an episode; times are taken if all of the file's are exact and free of overlaps, as in a set whose
    deleted episodes are still in the video.

    Args:
        span: placed among the episodes of its file by `lay_out`.
        timestamps: float64 (n,), of the file's frames, in seconds from its first frame, not the container's raw PTS.
        length: frame count of the episode according to the metadata.
        fps: frames per second according to the metadata.

    Raises EpisodeReadError where times and lengths cannot be reconciled with the file. (LeRobot goes by times alone,
    with a tolerance of 1e-4 s.)

    >>> (span,) = lay_out([VideoSpan("a.mp4", start=0.0, stop=1.0)], [10], fps=10)
    >>> first_frame_of(span, np.arange(10) / 10, length=10, fps=10)
    (0, '')
    """
    if span.problem:
        raise EpisodeReadError(span.file, span.problem)
    layout = span.layout
    if span.start is None or layout is None:
        return _whole_file(span, timestamps, length, fps)
    count = len(timestamps)
    is_filled = count == layout.frames  # the lengths account for every frame of the file
    rate = _rate(timestamps, fps)
    _check_stop(span, span.start, length, (fps, rate), is_tolerant=is_filled)
    found = _by_time(span.start, timestamps, length, fps)
    is_exact = not is_filled and any(_keeps_pace(timestamps, exact) for exact in layout.exact_rates)
    if found == span.before:
        # In another order than the indices, inexact times may as well be those of other episodes. With frames of no
        # episode in the file, times on another clock than the file's may meet the lengths by chance.
        if is_filled:
            is_sure = layout.in_order or bool(layout.exact_rates)
        else:
            is_sure = is_exact or (layout.in_order and not span.is_overlapped and _keeps_pace(timestamps, fps))
        if is_sure:
            pace = rate_remark(timestamps[found : found + length], fps, "the video's frames come")
            return found, _rest(count, layout) or _overlap(span, layout) or pace
    elif is_filled and layout.in_order and (layout.episodes == 1 or _is_regular(timestamps, rate)):
        nearest = int(np.argmin(np.abs(timestamps - span.start)))
        # from_timestamp is kept on the clock of the metadata or on that of the file.
        difference = min(abs(span.start * fps - span.before), abs(nearest - span.before))
        if difference <= span.position + _SAME_FRAME:
            return span.before, _drift(span, timestamps, nearest, rate, fps, layout)
    elif found is not None and is_exact:
        is_on_frame = abs(timestamps[found] - span.start) * fps <= _EXACT
        if is_on_frame and layout.stop <= timestamps[-1] + (1 + _SAME_FRAME) / min(fps, rate):
            return found, _rest(count, layout) if layout.has_slivers else ""
    raise EpisodeReadError(span.file, _contradiction(span, found, timestamps, length, fps, layout))


def _place(placed: list[VideoSpan], members: Sequence[int], lengths: Sequence[int], fps: float) -> None:
    """Fill in the places of the episodes `members` of one file."""
    starts = np.array([placed[i].start for i in members], np.float64)
    counts = np.array([lengths[i] for i in members], np.int64)
    order = np.argsort(starts, kind="stable")
    starts, counts = starts[order], counts[order]
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    exact = tuple(rate for factor in _RATE_FACTORS if _fits(starts, counts, rate := fps * factor))
    gaps = np.round(np.diff(starts) * (exact or (fps,))[0]) - counts[:-1]
    layout = FileLayout(
        episodes=len(members),
        frames=int(counts.sum()),
        in_order=bool(np.all(np.diff(order) > 0) and np.all(np.diff(starts) > 0)),
        exact_rates=exact,
        has_slivers=bool(np.any((gaps > 0) & (gaps <= _EXTRA_FRAMES))),
        stop=float((starts + counts / (exact or (fps,))[0]).max()),
    )
    overlaps = np.append(np.diff(starts) * fps < counts[:-1] - _SAME_FRAME, False)
    for position, k in enumerate(order.tolist()):
        placed[members[k]] = replace(
            placed[members[k]],
            layout=layout,
            position=position,
            before=int(before[position]),
            is_overlapped=bool(overlaps[position]),
        )


def _fits(starts: np.ndarray, counts: np.ndarray, rate: float) -> bool:
    """Whether episodes begin on whole frames at a rate, none before the end of the one before it."""
    frames = starts * rate
    on_frames = np.abs(frames - np.round(frames)).max() <= _EXACT
    return bool(on_frames and np.all(np.diff(frames) >= counts[:-1] - _SAME_FRAME))


def _whole_file(span: VideoSpan, timestamps: np.ndarray, length: int, fps: float) -> tuple[int, str]:
    """The first frame of a file of one episode, which may have a frame or two more than the episode has rows."""
    extra = len(timestamps) - length
    if extra == 0:
        return 0, rate_remark(timestamps, fps, "the video's frames come")
    if not 0 < extra <= min(_EXTRA_FRAMES, length // 2):
        raise EpisodeReadError(span.file, f"the file has {len(timestamps)} frames, the metadata says {length}")
    # Which frame is the one too many is known only from the times.
    if np.abs(timestamps[:length] - np.arange(length) / fps).max() >= _SAME_FRAME / fps:
        raise EpisodeReadError(
            span.file,
            f"the file has {len(timestamps)} frames, the metadata says {length}, and they are not one every 1/{fps:g} "
            "s, so it is unknown which frame belongs to which row",
        )
    last = "the last is" if extra == 1 else f"the last {extra} are"
    return 0, f"the video has {len(timestamps)} frames for {length} rows: {last} not used"


def _by_time(start: float, timestamps: np.ndarray, length: int, fps: float) -> int | None:
    """Index of the frame nearest to `start`; None unless a frame is near the time of each row."""
    if length > len(timestamps):  # before `arange`: a length of 10 ** 8 costs nothing here
        return None
    first = int(np.argmin(np.abs(timestamps - start)))
    actual = timestamps[first : first + length]
    if len(actual) < length:
        return None
    expected = start + np.arange(length) / fps
    return first if np.abs(actual - expected).max() < _SAME_FRAME / fps else None


def _rate(timestamps: np.ndarray, fps: float) -> float:
    """Mean frames per second of a file; `fps` where it has a single frame."""
    duration = float(timestamps[-1] - timestamps[0]) if len(timestamps) > 1 else 0.0
    return (len(timestamps) - 1) / duration if duration > 0 else fps


def _is_regular(timestamps: np.ndarray, rate: float) -> bool:
    """Whether the file has a frame in every interval: then no frame was lost on the way into it."""
    return bool(np.abs(timestamps - np.arange(len(timestamps)) / rate).max() < _SAME_FRAME / rate)


def _check_stop(span: VideoSpan, start: float, length: int, rates: tuple[float, ...], *, is_tolerant: bool) -> None:
    """Raise EpisodeReadError where from_timestamp to to_timestamp are not `length` frames.

    The rounding of both ends may make it one frame more or less; that counts only where the lengths fill the file.
    """
    if span.stop is None:
        return
    frames = [(span.stop - start) * rate for rate in rates]
    off = min(abs(each - length) for each in frames)
    if off >= _SAME_FRAME and not (is_tolerant and off <= 1 + _SAME_FRAME):
        raise EpisodeReadError(
            span.file,
            f"from_timestamp {start:g} s to to_timestamp {span.stop:g} s are "
            f"{round(frames[0])} frames, the metadata says {length}",
        )


def _keeps_pace(timestamps: np.ndarray, rate: float) -> bool:
    """Whether every frame is at a multiple of 1 / rate; there may be holes."""
    frames = timestamps * rate
    return bool(np.abs(frames - np.round(frames)).max() <= _SAME_FRAME / 2)


def _rest(count: int, layout: FileLayout) -> str:
    """A remark where a file has other frames than those of its episodes; the metadata does not say where they lie."""
    if count == layout.frames:
        return ""
    have = "its episode has" if layout.episodes == 1 else f"its {layout.episodes} episodes have"
    return f"the video file has {count} frames, {have} {layout.frames}; paired by time"


def _overlap(span: VideoSpan, layout: FileLayout) -> str:
    return f"the next episode's from_timestamp lies within this one, but {_proof(layout)}" if span.is_overlapped else ""


def _drift(span: VideoSpan, timestamps: np.ndarray, nearest: int, rate: float, fps: float, layout: FileLayout) -> str:
    assert span.start is not None
    if nearest != span.before:
        moved = f"from_timestamp {span.start:g} s is frame {nearest} of the video file"
        pace = rate_remark(timestamps, fps, "the video's frames come")
        return f"{moved}, but {_proof(layout)} and say frame {span.before}" + (f"; {pace}" if pace else "")
    if not math.isclose(rate, fps, rel_tol=_PRINTED_RATE):
        reason = f"the video's frames come at {rate:.5g} per second, meta/info.json says fps {fps:.5g}"
    elif abs(off := float(timestamps[span.before]) - span.start) * fps > _EXACT:
        reason = f"from_timestamp {span.start:g} s is {abs(off):.3g} s off frame {span.before}"
    else:
        reason = f"the video's frames are not one every 1/{fps:g} s"
    return f"{reason}; {_proof(layout)}, so rows and frames are paired in order"


def _proof(layout: FileLayout) -> str:
    return f"the lengths of the file's {layout.episodes} episodes add up to its {layout.frames} frames"


def _contradiction(
    span: VideoSpan, found: int | None, timestamps: np.ndarray, length: int, fps: float, layout: FileLayout
) -> str:
    assert span.start is not None
    count = len(timestamps)
    if found is None:
        reason = (
            f"expected a frame every 1/{fps:g} s from {span.start:g} s to {span.start + (length - 1) / fps:g} s "
            f"({length} frames), but frames are missing or off by half a frame or more"
        )
        if count > 1 and not math.isclose(rate := _rate(timestamps, fps), fps, rel_tol=0.01):
            reason += f"; the file's are {rate:.4g} per second"
        return reason
    where = f"from_timestamp {span.start:g} s is frame {found} of {count}"
    if found == span.before and not layout.in_order:
        return f"{where}; episodes lie in another order than their indices, and their times overlap or are inexact"
    if found == span.before:
        return (
            f"{where}, but the next episode starts before this one's {length} frames end, and the lengths of the "
            f"file's {layout.episodes} episodes add up to {layout.frames} frames"
        )
    return (
        f"{where}, the lengths of the episodes before it say frame {span.before}, and the file's {layout.episodes} "
        f"episodes have {layout.frames} frames: which frame belongs to which row is unknown"
    )
