"""`Episode`, the record that all formats yield, the protocols of its readers, and what the readers share."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from lara_tokenizer.errors import EpisodeReadError

if TYPE_CHECKING:
    import pyarrow as pa

# Per-frame data that a source may have besides pixels.
SIGNALS = ("actions", "states", "text")
# Column names by convention, most specific first; used where a format does not declare which column is which.
TEXTS = ("language_instruction", "instruction", "task", "prompt", "caption", "text", "label")
ACTIONS = ("action", "actions")
STATES = ("observation.state", "observation.states", "state", "states")


@dataclass(frozen=True, slots=True)
class FrameIndex:
    """Frame count and times of one camera, in presentation order, known without decoding.

    >>> FrameIndex(np.array([0.0, 0.1, 0.2]), fps=10.0).num_frames
    3
    """

    timestamps: np.ndarray
    """float64 (n,), strictly increasing: seconds from the first frame, or from the start of a segment."""
    fps: float  # nominal rate in frames per second; NaN where the source states none
    note: str = ""  # A remark for the user, such as "2 video streams, took stream 1 (320x180)"
    start: float = 0.0
    """Seconds of frame 0 on the clock of its file, as players and `ffmpeg -ss` count: above 0 if sound is first."""
    digest: str = ""
    """Hex digest of what the index was made from (sizes and times of packets), to notice that a file was replaced; ""
    where the source has no such list."""

    @property
    def num_frames(self) -> int:
        return len(self.timestamps)


@dataclass(frozen=True, slots=True)
class SignalNames:
    """Names of the numbers of an action and of a state, as far as the source states them."""

    actions: tuple[str, ...] = ()  # A names, or none
    states: tuple[str, ...] = ()  # S names, or none
    action_kinds: tuple[str, ...] = ()
    """Of each number of an action, as published: "delta" (a change or a speed), or "" where nobody says; or none."""


NO_NAMES = SignalNames()


@dataclass(frozen=True, slots=True)
class Signals:
    """Actions, states and instructions of an episode, one row per frame; None for each that the source lacks.

    >>> Signals(actions=np.zeros((3, 7), np.float32)).window(1, 3).actions.shape
    (2, 7)
    """

    actions: np.ndarray | None = None  # float32 (n, A); row t is the action taken at frame t
    states: np.ndarray | None = None  # float32 (n, S)
    texts: tuple[str, ...] | None = None  # n instructions
    names: SignalNames = NO_NAMES

    def window(self, first: int, stop: int) -> Signals:
        """Rows of frames `first` to `stop - 1`."""
        return Signals(
            actions=None if self.actions is None else self.actions[first:stop],
            states=None if self.states is None else self.states[first:stop],
            texts=None if self.texts is None else self.texts[first:stop],
            names=self.names,
        )

    def check_length(self, num_frames: int, source: object) -> None:
        """Raise EpisodeReadError, naming `source`, unless each signal has one row per frame."""
        for name, column in (("actions", self.actions), ("states", self.states), ("texts", self.texts)):
            if column is not None and len(column) != num_frames:
                raise EpisodeReadError(source, f"{len(column)} {name} for {num_frames} frames: rows must match frames")


def check_indices(indices: Sequence[int] | np.ndarray, num_frames: int, source: object) -> np.ndarray:
    """`indices` as int64. Raises IndexError, naming `source`, for an index outside 0 .. num_frames - 1."""
    indices = np.asarray(indices, np.int64)
    if len(indices) and (indices.min() < 0 or indices.max() >= num_frames):
        raise IndexError(f"{source}: frames {indices.min()} to {indices.max()} requested, it has 0 to {num_frames - 1}")
    return indices


class FrameReader(Protocol):
    """Random access to the pixels of one episode: the interface that a new kind of source implements.

    A reader is picklable and opens no file before the first call of `index` or `frames`, so that each worker process
    opens its own. Whatever is wrong with the data is raised as `EpisodeReadError` or `VideoDecodeError`.
    """

    def index(self, camera: str) -> FrameIndex:
        """Count and time the frames from headers, packets or a folder listing, without decoding."""

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB at full size: exactly the frames requested, in the order of `indices`.

        A later call with larger indices continues from the current position. Raises IndexError for an index outside
        the episode.
        """

    def close(self) -> None:
        """Close open files; the next call opens them again."""


@runtime_checkable
class SignalReader(Protocol):
    """A `FrameReader` that also reads actions, states or text."""

    def signals(self) -> Signals:
        """Signals of the whole episode. Raises EpisodeReadError."""


@runtime_checkable
class StatedDuration(Protocol):
    """A `FrameReader` whose metadata or file header states the episode's duration."""

    def stated_duration(self, fps: float | None) -> float | None:
        """Seconds, at `fps` frames per second where given; None if only counting the frames can answer.

        Raises EpisodeReadError.
        """


@runtime_checkable
class FileBacked(Protocol):
    """A `FrameReader` that reads local files which may change; frames pinned by a commit on the Hub do not."""

    def files(self, camera: str) -> tuple[Path, ...]:
        """The files that frames and signals of this episode are read from; they need not exist. Opens nothing."""


@dataclass(eq=False)
class CameraReaders(ABC):
    """Base of `FrameReader`s that open each camera with another reader, of a video or of a sequence of images.

    Readers are made when first needed. They are pickled along, with the frame counts they have already determined.
    """

    _readers: dict[str, FrameReader] = field(default_factory=dict, init=False, repr=False)

    @abstractmethod
    def open_camera(self, camera: str) -> FrameReader:
        """The reader of one camera, which that reader calls "". Raises EpisodeReadError."""

    def index(self, camera: str = "") -> FrameIndex:
        """Count and time the camera's frames. Raises EpisodeReadError."""
        return self._reader(camera).index("")

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order of `indices`. Raises EpisodeReadError and IndexError."""
        return self._reader(camera).frames("", indices)

    def files(self, camera: str = "") -> tuple[Path, ...]:
        """The local files of the camera, as `FileBacked.files`; none where its reader cannot be made."""
        try:
            reader = self._reader(camera)
        except EpisodeReadError:
            return ()
        return reader.files("") if isinstance(reader, FileBacked) else ()

    def close(self) -> None:
        """Close open files; the next call opens them again."""
        for reader in self._readers.values():
            reader.close()

    def _reader(self, camera: str) -> FrameReader:
        if camera not in self._readers:
            self._readers[camera] = self.open_camera(camera)
        return self._readers[camera]


@dataclass(slots=True)
class Episode:
    """One recorded episode: an id, one or more cameras, and a reader for pixels and signals.

    >>> episode = load_episodes("videos/", fps={"rt1_*": 3})[0]  # doctest: +SKIP
    >>> episode.frames("", [0, 2]).shape                         # doctest: +SKIP
    (2, 256, 320, 3)
    """

    id: str  # unique within its source: a path relative to the source's root, with "/" between folders
    reader: FrameReader  # reads the frames; signals too if it is a `SignalReader`
    cameras: tuple[str, ...] = ("",)  # camera names; plain video has one camera, named ""
    index: int | None = None  # the dataset's own index of the episode
    fps: float | None = None  # overrides the rate stated by the source: frame i is then at i / fps seconds
    text: str | None = None  # instruction, if it is known without opening the episode
    available_signals: tuple[str, ...] = ()  # those of `SIGNALS` that the source has for this episode
    dataset: str = ""  # name of the source, for balanced sampling and per-dataset statistics

    def frame_index(self, camera: str = "") -> FrameIndex:
        """The camera's frame count and times, with this episode's `fps` applied.

        Raises VideoDecodeError, and EpisodeReadError where neither the source nor `fps` gives a rate.
        """
        index = self.reader.index(camera)
        if self.fps is None:
            if isnan(index.fps):
                raise EpisodeReadError(self.id, "its source has no frame rate: give it with fps (--fps)")
            return index
        return replace(index, timestamps=np.arange(index.num_frames) / self.fps, fps=self.fps)

    def timestamps(self, camera: str = "") -> np.ndarray:
        """float64 (n,): seconds from the first frame."""
        return self.frame_index(camera).timestamps

    def num_frames(self, camera: str = "") -> int:
        """Number of frames that the camera recorded."""
        return self.reader.index(camera).num_frames

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB at full size, in the order of `indices`.

        Raises VideoDecodeError where a frame cannot be decoded, and IndexError for an index outside the episode.
        """
        return self.reader.frames(camera, indices)

    def signals(self) -> Signals:
        """Actions, states and texts, one row per frame, as far as the source has them. Raises EpisodeReadError."""
        if isinstance(self.reader, SignalReader):
            signals = self.reader.signals()
        else:
            signals = Signals(texts=None if self.text is None else (self.text,) * self.num_frames(self.cameras[0]))
        if signals.texts is None or all(map(is_storable, set(signals.texts))):
            return signals
        return replace(signals, texts=tuple(map(storable_text, signals.texts)))

    def files(self, camera: str = "") -> tuple[Path, ...]:
        """The local files that frames and signals are read from; none where the source does not name them."""
        return self.reader.files(camera) if isinstance(self.reader, FileBacked) else ()

    def close(self) -> None:
        """Close open files; the episode stays usable."""
        self.reader.close()


def first_of(names: Iterable[str], available: Iterable[str]) -> str | None:
    """The first of `names` that is among `available`.

    >>> first_of(ACTIONS, ["video", "action"])
    'action'
    """
    existing = set(available)
    return next((name for name in names if name in existing), None)


def is_storable(text: str) -> bool:
    r"""Whether a text or a file name can be stored as UTF-8.

    >>> is_storable("Tür"), is_storable("\udce9")
    (True, False)
    """
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def storable_text(text: str) -> str:
    r"""An instruction that can be stored as UTF-8: halves of characters, as JSON may hold them, become U+FFFD.

    >>> storable_text("pick \ud83d")
    'pick �'
    """
    return text if is_storable(text) else "".join(c if is_storable(c) else "\ufffd" for c in text)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key for natural order: img_9 before img_10.

    >>> sorted(["img_10.png", "img_9.png"], key=natural_key)
    ['img_9.png', 'img_10.png']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def numeric_rows(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """float32 (n, A): a column of numbers, or of equally long lists nested to any depth, flattened per row.

    Raises EpisodeReadError for missing values, lists of several lengths and non-numeric types.

    >>> import pyarrow as pa
    >>> numeric_rows(pa.chunked_array([[[1, 2], [3, 4]]]), "action").tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    import pyarrow as pa

    count = len(column)
    values = column.combine_chunks()
    # One level of nesting per turn, since nulls and unequal lengths can be on any level.
    while True:
        if values.null_count:
            raise EpisodeReadError(name, f"column {name!r} has missing values")
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
        elif pa.types.is_fixed_size_list(values.type):
            values = values.flatten()
        elif pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            lengths = np.unique(np.diff(values.offsets.to_numpy()))
            if len(lengths) > 1:
                raise EpisodeReadError(name, f"column {name!r} has rows of {lengths[0]} and of {lengths[-1]} numbers")
            values = values.flatten()
        else:
            break
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise EpisodeReadError(name, f"column {name!r} holds {kind}, not numbers")
    with np.errstate(over="raise"):
        try:
            return values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(count, -1)
        except FloatingPointError:
            raise EpisodeReadError(name, f"column {name!r} has numbers too large for float32") from None
