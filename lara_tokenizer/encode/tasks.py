"""Tasks for workers, their messages, and the queue between driver and workers. Imports no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING

import numpy as np

from lara_tokenizer.data import Episode, Signals
from lara_tokenizer.encode.options import EncodeOptions
from lara_tokenizer.encode.plan import EpisodePlan, Unit
from lara_tokenizer.table.provenance import FileState

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

# Tasks that `pop` searches for one of the preferred episode. A plan puts an episode's units at the front, in a row.
_LOOK_AHEAD = 256


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """Settings that a worker process receives before its first task."""

    folder: Path
    """Of the checkpoint."""
    options: EncodeOptions
    processor: LatentActionProcessor | None = None
    """Replaces the checkpoint's."""
    encodes: bool = True
    """False: the driver runs the model, and the worker only sends frames."""


@dataclass(frozen=True, slots=True)
class PlanTask:
    """Read an episode's frame times and cut it into units. The answer is an `EpisodePlan`, or `Failure`."""

    episode: Episode


@dataclass(frozen=True, slots=True)
class UnitTask:
    """Encode one unit. The answer is `Encoded`, the last `FrameChunk` of a worker without a model, or `Failure`."""

    episode: Episode
    unit: Unit
    files: tuple[FileState, ...] = ()
    """States of the episode's files when it was planned; they must still be so before and after reading."""


Task = PlanTask | UnitTask


@dataclass(frozen=True, slots=True)
class Encoded:
    """Answer to a `UnitTask`."""

    unit: Unit
    num_rows: int
    rows: bytes
    """As an Arrow IPC stream."""
    decode_seconds: float
    model_seconds: float


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sign of life of a worker. The first one follows its start."""

    frames: int
    """Read since the last one."""


@dataclass(frozen=True, slots=True)
class FrameChunk:
    """Part of a unit's frames, from a worker that only decodes.

    The first has the times and signals, the following ones pixels, the last the seconds spent.
    """

    timestamps: np.ndarray | None = None
    """float64 (n,), seconds, of all frames of the episode."""
    signals: Signals | None = None
    pixels: np.ndarray | None = None
    """uint8 (any number, 3, S, S)."""
    decode_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Answer to a task that failed."""

    episode: str
    """Its id; "" if a worker cannot start, or cannot read its task."""
    reason: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Sent by a worker instead of its first `Heartbeat`: the checkpoint cannot be loaded."""

    reason: str


Event = EpisodePlan | Encoded | Failure | Heartbeat
Message = Event | FrameChunk | Refusal


def is_answer(message: Message) -> bool:
    """True for the last message about a task."""
    if isinstance(message, FrameChunk):
        return message.decode_seconds is not None
    return not isinstance(message, Heartbeat)


class TaskQueue:
    """A queue that grows while it is worked off: a plan adds its units. Read by many threads, filled by one.

    A task is open from `add` until `task_done`; `pop` waits while the queue is empty and some task is open.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = deque(tasks)
        # Waiting tasks and those that are worked on: while there is one, more may be added.
        self._open = len(self._tasks)
        self._changed = Condition()

    @property
    def is_finished(self) -> bool:
        """True if all tasks are answered."""
        return self._open == 0

    def add(self, tasks: Iterable[Task]) -> None:
        """Put tasks at the front, in their order, so that an episode is finished before the next one is begun."""
        with self._changed:
            added = list(tasks)
            self._tasks.extendleft(reversed(added))
            self._open += len(added)
            self._changed.notify_all()

    def pop(self, prefer_episode: str | None = None) -> Task | None:
        """The next task, if possible of an episode that the caller has open; None when all tasks are answered."""
        with self._changed:
            while not self._tasks and self._open:
                self._changed.wait()
            if not self._open:
                return None
            window = min(len(self._tasks), _LOOK_AHEAD)
            index = next((i for i in range(window) if self._tasks[i].episode.id == prefer_episode), 0)
            task = self._tasks[index]
            del self._tasks[index]
            return task

    def task_done(self) -> None:
        """Count one task as answered."""
        with self._changed:
            self._open = max(self._open - 1, 0)  # it is 0 already after `close`
            self._changed.notify_all()

    def has_waiting(self, frames: int) -> bool:
        """True if tasks are waiting that start at least this many pairs in all; a plan counts as one."""
        with self._changed:
            waiting = 0
            for task in self._tasks:
                waiting += task.unit.last - task.unit.first + 1 if isinstance(task, UnitTask) else 1
                if waiting >= frames:
                    return True
            return False

    def cancel(self, episode: str) -> None:
        """Remove the waiting tasks of an episode that failed."""
        with self._changed:
            others = [task for task in self._tasks if task.episode.id != episode]
            self._open -= len(self._tasks) - len(others)
            self._tasks = deque(others)
            self._changed.notify_all()

    def close(self) -> None:
        """Remove all tasks; `pop` returns None from now on."""
        with self._changed:
            self._tasks.clear()
            self._open = 0
            self._changed.notify_all()
