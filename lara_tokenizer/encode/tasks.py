"""What workers are asked, what they answer, and the queue between them. Imports no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING

import numpy as np

from lara_tokenizer.data import Episode, Signals
from lara_tokenizer.encode.plan import EpisodePlan, Job, Unit

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor


@dataclass(frozen=True, slots=True)
class PlanTask:
    """Look at an episode's frame times and cut it into units."""

    episode: Episode


@dataclass(frozen=True, slots=True)
class UnitTask:
    """Encode one unit."""

    episode: Episode
    unit: Unit


Task = PlanTask | UnitTask


@dataclass(frozen=True, slots=True)
class Planned:
    """The answer to a `PlanTask`."""

    plan: EpisodePlan


@dataclass(frozen=True, slots=True)
class Encoded:
    """The answer to a `UnitTask`: its rows as an Arrow IPC stream, and the seconds spent."""

    unit: Unit
    num_rows: int
    rows: bytes
    decode_seconds: float
    model_seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The other answer to any task: the reason, for people."""

    episode: str
    reason: str


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life in the middle of a unit: so many more frames were read."""

    frames: int


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker needs before its first task. It crosses to the worker process.

    `processor` replaces the one in the checkpoint's folder. With `encodes` false the model stays with the driver,
    and the worker only gives it frames.
    """

    folder: Path
    job: Job
    processor: LatentActionProcessor | None = None
    encodes: bool = True


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has loaded what it needs."""


@dataclass(frozen=True, slots=True)
class NotReady:
    """The worker cannot start, for this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """First answer of a worker that only decodes: float64 (n,), seconds, and what else the rows need."""

    timestamps: np.ndarray
    signals: Signals


@dataclass(frozen=True, slots=True)
class FramePiece:
    """Some of the frames that a unit needs, in order: uint8 (any number, 3, S, S)."""

    pixels: np.ndarray


@dataclass(frozen=True, slots=True)
class FramesDone:
    """Last answer of a worker that only decodes."""

    decode_seconds: float


# How far a taker looks for a task of its own episode. A plan puts an episode's units at the front, side by side.
_LOOK_AHEAD = 256

Event = Planned | Encoded | Failed | Beat
Message = Event | Ready | NotReady | FrameTimes | FramePiece | FramesDone


class TaskQueue:
    """Work that grows while it is done: a plan adds its units. Taken from by many threads, filled by one.

    A task counts as open from `add` until `done`; takers wait while there is none to take but some are open.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = deque(tasks)
        self._open = len(self._tasks)
        self._changed = Condition()

    @property
    def is_finished(self) -> bool:
        """All tasks are answered."""
        return self._open == 0

    def add(self, tasks: Iterable[Task]) -> None:
        """Put tasks at the front, in their order: what was begun is ended first."""
        with self._changed:
            added = list(tasks)
            self._tasks.extendleft(reversed(added))
            self._open += len(added)
            self._changed.notify_all()

    def take(self, near: str | None = None) -> Task | None:
        """The next task, by preference of episode `near`, whose file the taker has open. None when all is over."""
        with self._changed:
            while not self._tasks and self._open:
                self._changed.wait()
            if not self._open:
                return None
            window = min(len(self._tasks), _LOOK_AHEAD)
            place = next((i for i in range(window) if self._tasks[i].episode.id == near), 0)
            task = self._tasks[place]
            del self._tasks[place]
            return task

    def done(self) -> None:
        """One task that was taken is answered."""
        with self._changed:
            self._open = max(self._open - 1, 0)  # it is 0 already after `close`
            self._changed.notify_all()

    def drop(self, episode: str) -> None:
        """Forget the waiting tasks of an episode that failed."""
        with self._changed:
            kept = [task for task in self._tasks if task.episode.id != episode]
            self._open -= len(self._tasks) - len(kept)
            self._tasks = deque(kept)
            self._changed.notify_all()

    def close(self) -> None:
        """Forget everything; takers get None."""
        with self._changed:
            self._tasks.clear()
            self._open = 0
            self._changed.notify_all()
