"""Pieces of long recordings as episodes of their own: no pair reaches from one into the next."""

from __future__ import annotations

import math
from collections.abc import Sequence

import av
import numpy as np

from lara_tokenizer.data.episode import Episode, FrameIndex, Signals, check_indices
from lara_tokenizer.data.lerobot.reader import LeRobotReader
from lara_tokenizer.data.stride import Stride
from lara_tokenizer.data.video.open_videos import SharedVideo
from lara_tokenizer.data.video.packets import open_video
from lara_tokenizer.data.video.reader import VideoReader
from lara_tokenizer.errors import LaraTokenizerError

# Times in containers are rounded to milliseconds or worse: a frame stamped 9.9996 s belongs to what starts at 10 s.
_ROUNDING = 0.001
# A header that promises more pieces than this may be damaged: then the frames are counted.
_MOST_BY_HEADER = 10_000


class SegmentReader:
    """A `FrameReader` and `SignalReader` for the frames of an episode from `start` (included) to `stop` (excluded).

    Seconds; `stop` None is the episode's end. Frame 0 is the segment's first frame, its time is counted from `start`.
    """

    def __init__(self, whole: Episode, start: float, stop: float | None) -> None:
        self.whole, self.start, self.stop = whole, start, stop

    def index(self, camera: str) -> FrameIndex:
        """The frames of the segment: none where it lies past the end. Raises what the whole episode's reader raises."""
        index = self.whole.frame_index(camera)
        window = self._window(index)
        # A hair before the start would be a negative time.
        timestamps = np.maximum(index.timestamps[window] - self.start, 0.0)
        return FrameIndex(timestamps, index.fps, index.note)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order asked."""
        window = self._window(self.whole.frame_index(camera))
        numbers = check_indices(indices, window.stop - window.start, self.whole.id)
        return self.whole.frames(camera, window.start + numbers)

    def signals(self) -> Signals:
        """The whole episode's, cut as its first camera's frames are."""
        window = self._window(self.whole.frame_index(self.whole.cameras[0]))
        return self.whole.signals().window(window.start, window.stop)

    def close(self) -> None:
        """Let go of open files."""
        self.whole.close()

    def _window(self, index: FrameIndex) -> slice:
        edges = [self.start, math.inf if self.stop is None else self.stop]
        first, stop = np.searchsorted(index.timestamps, np.array(edges) - _ROUNDING).tolist()
        return slice(first, stop)


def cut(whole: Episode, start: float, stop: float | None, *, text: str | None = None) -> Episode:
    """The segment of an episode from `start` to `stop` seconds; its id is the episode's and "#t=start,stop".

    `text` replaces the episode's instruction.

    >>> cut(Episode("a.mp4", VideoReader("a.mp4")), 10, 20).id
    'a.mp4#t=10,20'
    """
    name = f"{whole.id}#t={_number(start)}" + ("" if stop is None else f",{_number(stop)}")
    return Episode(
        name,
        SegmentReader(_shared(whole, text), start, stop),
        whole.cameras,
        whole.index,
        text=text or whole.text,
        offers=tuple(dict.fromkeys([*whole.offers, *(["text"] if text else [])])),
        dataset=whole.dataset,
    )


def override_rate(episode: Episode, fps: float) -> None:
    """Give an episode its true rate. Of a segment the recording gets it, so that it is cut by the true times."""
    if isinstance(episode.reader, SegmentReader):
        override_rate(episode.reader.whole, fps)
    else:
        episode.fps = fps


def segments(whole: Episode, length: str) -> list[Episode]:
    """An episode cut into pieces of `length` ("10s"); the last one goes to the end, however long that really is.

    A file's stated length decides how many there are: a long film is read through only where its rate is overridden.
    Pieces that lie past the real end are empty. An episode that cannot be opened stays one piece, and fails by itself
    later.
    """
    seconds = segment_seconds(length)
    try:
        duration = _duration(whole)
        if duration > _MOST_BY_HEADER * seconds:
            duration = _listed_duration(whole)
    except (LaraTokenizerError, OSError, av.error.FFmpegError):
        return [whole]
    count = max(1, math.ceil((duration - _ROUNDING) / seconds))
    return [cut(whole, k * seconds, (k + 1) * seconds if k < count - 1 else None) for k in range(count)]


def segment_seconds(length: str) -> float:
    """ "10s" as 10.0. Raises ValueError for what is no number of seconds."""
    try:
        parsed = Stride.parse(length)
    except ValueError:
        parsed = None
    if parsed is None or parsed.unit != "s":
        raise ValueError(f"segment {length!r}: takes seconds, such as '10s'")
    return parsed.value


def _duration(whole: Episode) -> float:
    """In seconds: from metadata, or a video's header, where they say it; else the frames have to be listed."""
    if isinstance(whole.reader, LeRobotReader):
        return whole.reader.length / (whole.fps or whole.reader.fps)
    if isinstance(whole.reader, VideoReader) and whole.fps is None:
        container, stream = open_video(whole.reader.path)
        with container:
            if stream.duration and stream.time_base:
                return float(stream.duration * stream.time_base)
            if container.duration:
                return container.duration / av.time_base
    return _listed_duration(whole)


def _listed_duration(whole: Episode) -> float:
    index = whole.frame_index(whole.cameras[0])
    whole.close()
    return float(index.timestamps[-1]) + 1 / index.fps if index.num_frames else 0.0


def _shared(whole: Episode, text: str | None) -> Episode:
    """The episode with a reader that all its segments share."""
    reader = whole.reader
    if isinstance(reader, VideoReader):
        reader = SharedVideo(reader.path, reader.library)
    return Episode(whole.id, reader, whole.cameras, whole.index, whole.fps, text or whole.text)


def _number(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
