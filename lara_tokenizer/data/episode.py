"""What every reader of every format yields: an `Episode`, whose pixels come through a `FrameReader`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Protocol, runtime_checkable

import numpy as np

from lara_tokenizer.errors import EpisodeReadError


@dataclass(frozen=True, slots=True)
class FrameIndex:
    """The frames of one camera, in presentation order, as known without decoding one.

    `timestamps` is float64 (n,): seconds from the episode's start (its first frame; for a segment of a longer
    recording, the second at which it was cut), strictly increasing. `fps` is the nominal rate in frames per second,
    NaN where the source knows none. `note` says what a person should know ("2 video streams, took stream 1 (320x180)").

    >>> FrameIndex(np.array([0.0, 0.1, 0.2]), fps=10.0).num_frames
    3
    """

    timestamps: np.ndarray
    fps: float
    note: str = ""

    @property
    def num_frames(self) -> int:
        return len(self.timestamps)


# What an episode may have beside its pixels.
SIGNALS = ("actions", "states", "text")


@dataclass(frozen=True, slots=True)
class Signals:
    """What was recorded beside the pixels, a row a frame; None for what the source does not have.

    `actions` is float32 (n, A), row t is what was done at frame t; `states` float32 (n, S); `texts` n instructions.

    >>> Signals(actions=np.zeros((3, 7), np.float32)).window(1, 3).actions.shape
    (2, 7)
    """

    actions: np.ndarray | None = None
    states: np.ndarray | None = None
    texts: tuple[str, ...] | None = None

    def window(self, first: int, stop: int) -> Signals:
        """Frames `first` to `stop - 1`."""
        return Signals(
            actions=None if self.actions is None else self.actions[first:stop],
            states=None if self.states is None else self.states[first:stop],
            texts=None if self.texts is None else self.texts[first:stop],
        )

    def check_length(self, num_frames: int, source: object) -> None:
        """Raises EpisodeReadError, naming `source`, where a column has another number of rows than there are frames."""
        for name, column in (("actions", self.actions), ("states", self.states), ("texts", self.texts)):
            if column is not None and len(column) != num_frames:
                raise EpisodeReadError(source, f"{len(column)} {name} for {num_frames} frames: rows must match frames")


def check_indices(indices: Sequence[int] | np.ndarray, num_frames: int, source: object) -> np.ndarray:
    """`indices` as int64. Raises IndexError, naming `source`, where one lies outside 0 .. num_frames - 1."""
    numbers = np.asarray(indices, np.int64)
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= num_frames):
        raise IndexError(f"{source}: frames {numbers.min()} to {numbers.max()} asked for, it has 0 to {num_frames - 1}")
    return numbers


class FrameReader(Protocol):
    """Pixels of one episode. A new source of data is one class with these three methods.

    A reader is picklable and opens nothing before the first call of `index` or `frames`, so that a worker
    process opens it for itself. Whatever is wrong with the data ends as an `EpisodeReadError` (of which
    `VideoDecodeError` is one).
    """

    def index(self, camera: str) -> FrameIndex:
        """Count and time the frames: cheap (headers, packets, a folder listing), no decoding."""

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB at full size: exactly the frames asked for, in the order asked.

        Called again with larger indices it goes on where it stopped. An index outside the episode raises
        IndexError.
        """

    def close(self) -> None:
        """Let go of open files; the next call opens them again."""


@runtime_checkable
class SignalReader(Protocol):
    """A `FrameReader` that also has actions, states or text."""

    def signals(self) -> Signals:
        """All of the episode's. Raises EpisodeReadError."""


@dataclass(slots=True)
class Episode:
    """One recorded episode: a name, one or more cameras, and a reader for the pixels.

    `id` is unique within its source (a path relative to the source's root, "/" between folders). `index` is
    the dataset's own number for it. `fps` overrides the rate that the file claims: frame i is then at i / fps
    seconds. `text` is the instruction as far as it is known without opening the episode; `offers` names those of
    `SIGNALS` that the source has for it. `dataset` names the source it came from, for balanced sampling and statistics.

    >>> episode = load_episodes("videos/", fps={"rt1_*": 3})[0]  # doctest: +SKIP
    >>> episode.frames("", [0, 2]).shape                         # doctest: +SKIP
    (2, 256, 320, 3)
    """

    id: str
    reader: FrameReader
    cameras: tuple[str, ...] = ("",)
    index: int | None = None
    fps: float | None = None
    text: str | None = None
    offers: tuple[str, ...] = ()
    dataset: str = ""

    def frame_index(self, camera: str = "") -> FrameIndex:
        """The camera's frames and their times, with this episode's `fps` in force.

        Raises VideoDecodeError.
        """
        index = self.reader.index(camera)
        if self.fps is None:
            if isnan(index.fps):
                raise EpisodeReadError(self.id, "its source has no frame rate: give it with fps (--fps)")
            return index
        return FrameIndex(np.arange(index.num_frames) / self.fps, self.fps, index.note)

    def timestamps(self, camera: str = "") -> np.ndarray:
        """float64 (n,): seconds from the first frame."""
        return self.frame_index(camera).timestamps

    def num_frames(self, camera: str = "") -> int:
        """How many frames the camera recorded."""
        return self.reader.index(camera).num_frames

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB at full size, in the order asked.

        Raises VideoDecodeError where one cannot be had, and IndexError for one outside the episode.
        """
        return self.reader.frames(camera, indices)

    def signals(self) -> Signals:
        """Actions, states and texts, a row a frame, as far as the source has them. Raises EpisodeReadError."""
        if isinstance(self.reader, SignalReader):
            return self.reader.signals()
        return Signals(texts=None if self.text is None else (self.text,) * self.num_frames(self.cameras[0]))

    def close(self) -> None:
        """Let go of open files; the episode stays usable."""
        self.reader.close()
