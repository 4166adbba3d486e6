"""Segments of long recordings as episodes of their own; no pair of frames crosses from one segment into the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lara_tokenizer.data import video
from lara_tokenizer.data.episode import Episode, FrameIndex, Signals, StatedDuration, check_indices
from lara_tokenizer.data.stride import Stride
from lara_tokenizer.errors import LaraTokenizerError

# Containers round times to milliseconds or worse: a frame stamped 9.9996 s belongs to the segment that starts at 10 s.
_ROUNDING = 0.001
# A header that promises more segments than this may be damaged: then the frames are counted.
_MOST_BY_HEADER = 10_000


@dataclass(eq=False)
class SegmentReader:
    """A `FrameReader` and `SignalReader` for the frames of an episode from `start` to `stop` seconds, `stop` excluded.

    `stop` None is the end of the episode. Frame 0 is the first frame of the segment, and times are relative to `start`.
    Seconds count from the episode's first frame, or with `by_file_clock` as players and `ffmpeg -ss` count: in a file
    whose sound begins 1 s before its pictures, the first frame is at second 1. A rate that overrides the file's own
    overrides its clock, too.
    """

    whole: Episode
    start: float
    stop: float | None
    by_file_clock: bool = False

    def index(self, camera: str) -> FrameIndex:
        """Frames of the segment; none if it is past the end. Raises what the whole episode's reader raises."""
        index = self.whole.frame_index(camera)
        window = self._window(index)
        # Because of rounding, a frame may be up to a millisecond before the start, which would be a negative time.
        timestamps = np.maximum(index.timestamps[window] + self._offset(index) - self.start, 0.0)
        begin = index.start + float(index.timestamps[window.start]) if len(timestamps) else index.start
        return replace(index, timestamps=timestamps, start=begin)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order of `indices`."""
        window = self._window(self.whole.frame_index(camera))
        indices = check_indices(indices, window.stop - window.start, self.whole.id)
        return self.whole.frames(camera, window.start + indices)

    def signals(self) -> Signals:
        """Signals of the whole episode, cut at the frames of its first camera."""
        window = self._window(self.whole.frame_index(self.whole.cameras[0]))
        return self.whole.signals().window(window.start, window.stop)

    def files(self, camera: str = "") -> tuple[Path, ...]:
        """The local files of the whole episode, as `FileBacked.files`."""
        return self.whole.files(camera)

    def close(self) -> None:
        """Close open files."""
        self.whole.close()

    def _window(self, index: FrameIndex) -> slice:
        edges = [self.start, math.inf if self.stop is None else self.stop]
        first, stop = np.searchsorted(index.timestamps + self._offset(index), np.array(edges) - _ROUNDING).tolist()
        return slice(first, stop)

    def _offset(self, index: FrameIndex) -> float:
        """Seconds of the episode's first frame on the clock by which the segment is cut."""
        return index.start if self.by_file_clock and self.whole.fps is None else 0.0


def cut(
    whole: Episode, start: float, stop: float | None, *, text: str | None = None, by_file_clock: bool = False
) -> Episode:
    """The segment of an episode from `start` to `stop` seconds; its id is the episode's plus "#t=start,stop".

    `text` replaces the episode's instruction. Seconds count from the first frame, or with `by_file_clock` on the clock
    of the file, by which people and other tools note times; the segment's own times count from `start` in any case.

    >>> from lara_tokenizer.data.video import VideoReader
    >>> cut(Episode("a.mp4", VideoReader("a.mp4")), 10, 20).id
    'a.mp4#t=10,20'
    """
    name = f"{whole.id}#t={_format_seconds(start)}" + ("" if stop is None else f",{_format_seconds(stop)}")
    return Episode(
        name,
        SegmentReader(_with_shared_reader(whole, text), start, stop, by_file_clock),
        whole.cameras,
        whole.index,
        text=text or whole.text,
        available_signals=tuple(dict.fromkeys([*whole.available_signals, *(["text"] if text else [])])),
        dataset=whole.dataset,
    )


def override_rate(episode: Episode, fps: float) -> None:
    """Set the true rate of an episode; for a segment that of the whole recording, which is cut by true times then."""
    if isinstance(episode.reader, SegmentReader):
        override_rate(episode.reader.whole, fps)
    else:
        episode.fps = fps


def segments(whole: Episode, length: str) -> list[Episode]:
    """Cut an episode into segments of `length` ("10s") from its first frame on; the last extends to the actual end.

    Their count follows from the stated duration, so that a long film is read through only where its rate is overridden.
    Segments past the actual end are empty. An episode that cannot be opened stays whole, and fails when it is read.
    """
    seconds = segment_seconds(length)
    try:
        stated = whole.reader.stated_duration(whole.fps) if isinstance(whole.reader, StatedDuration) else None
        duration = _counted_duration(whole) if stated is None else stated
        if duration > _MOST_BY_HEADER * seconds:
            duration = _counted_duration(whole)
    except (LaraTokenizerError, OSError):
        return [whole]
    count = max(1, math.ceil((duration - _ROUNDING) / seconds))
    return [cut(whole, k * seconds, (k + 1) * seconds if k < count - 1 else None) for k in range(count)]


def segment_seconds(length: str) -> float:
    """ "10s" as 10.0. Raises ValueError for anything but a number of seconds."""
    try:
        parsed = Stride.parse(length)
    except ValueError:
        parsed = None
    if parsed is None or parsed.unit != "s":
        raise ValueError(f"segment {length!r}: takes seconds, such as '10s'")
    return parsed.value


def _counted_duration(whole: Episode) -> float:
    """Seconds from the first frame to the end of the last one, by listing all frames."""
    index = whole.frame_index(whole.cameras[0])
    whole.close()
    return float(index.timestamps[-1]) + 1 / index.fps if index.num_frames else 0.0


def _with_shared_reader(whole: Episode, text: str | None) -> Episode:
    """The episode with a reader that all its segments share."""
    reader = whole.reader
    if isinstance(reader, video.VideoReader):
        reader = video.SharedVideo(reader.path, reader.library)
    return Episode(whole.id, reader, whole.cameras, whole.index, whole.fps, text or whole.text)


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
