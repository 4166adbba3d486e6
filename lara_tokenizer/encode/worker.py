"""What a worker does: answers tasks, one at a time, with events. In a process of its own it starts at `main`."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lara_tokenizer.data import Episode
from lara_tokenizer.encode.encode import EpisodeFrames, ModelRunner, Runner, UnitFrames, encode_unit
from lara_tokenizer.encode.plan import Job, Unit, plan_episode, unit_pairs
from lara_tokenizer.encode.tasks import (
    Beat,
    Encoded,
    Failed,
    FramePiece,
    FramesDone,
    FrameTimes,
    Message,
    NotReady,
    Planned,
    PlanTask,
    Ready,
    Task,
    UnitTask,
    WorkerSetup,
)
from lara_tokenizer.errors import EpisodeReadError, first_line
from lara_tokenizer.model import LatentActionProcessor, load_model

Send = Callable[[Message], object]


class Worker:
    """Answers tasks, and keeps the last episode open. Without a runner it only reads frames, for the driver."""

    def __init__(self, setup: WorkerSetup, runner: Runner | None) -> None:
        self._job, self._runner = setup.job, runner
        self._processor = load_processor(setup)
        self._open: Episode | None = None

    def answer(self, task: Task, send: Send) -> None:
        """Do a task; its last message is `Planned`, `Encoded`, `FramesDone` or `Failed`, whatever the data holds."""
        try:
            episode = self._episode(task.episode)
            match task:
                case PlanTask():
                    send(Planned(plan_episode(episode, self._job)))
                case UnitTask(unit=unit):
                    frames = _WatchedFrames(EpisodeFrames(episode, unit.camera, self._processor, self._job), send)
                    if self._runner is None:
                        self._give_frames(unit, frames, send)
                    else:
                        send(encode_and_time(unit, frames, self._runner, self._job))
        except Exception as error:  # a bad episode must not end the job
            self.close()
            send(Failed(task.episode.id, reason_of(error, task.episode.id)))

    def close(self) -> None:
        """Let go of the open episode."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _episode(self, episode: Episode) -> Episode:
        if self._open is None or self._open.id != episode.id:
            self.close()
            self._open = episode
        return self._open

    def _give_frames(self, unit: Unit, frames: _WatchedFrames, send: Send) -> None:
        send(FrameTimes(frames.timestamps, frames.signals))
        for piece in frames.read(unit_pairs(unit, frames.timestamps, self._job).needed):
            send(FramePiece(piece.numpy()))
        send(FramesDone(frames.decode_seconds))


class _WatchedFrames:
    """Frames that take their own time and give a sign of life with each piece."""

    def __init__(self, frames: EpisodeFrames, send: Send) -> None:
        self._frames, self._send = frames, send
        self.timestamps, self.signals = frames.timestamps, frames.signals
        self.decode_seconds = 0.0

    def read(self, indices: np.ndarray) -> Iterator[Tensor]:
        pieces = self._frames.read(indices)
        while True:
            start = time.perf_counter()
            piece = next(pieces, None)
            self.decode_seconds += time.perf_counter() - start
            if piece is None:
                return
            self._send(Beat(len(piece)))
            yield piece


def load_processor(setup: WorkerSetup) -> LatentActionProcessor:
    """The processor that was given, or the checkpoint's."""
    return setup.processor or LatentActionProcessor.from_pretrained(setup.folder)


def load_runner(setup: WorkerSetup, device: str = "cpu") -> ModelRunner:
    """The checkpoint's model in the job's dtype, on a device."""
    model = load_model(setup.folder)
    model.to(device, getattr(torch, setup.job.dtype))  # type: ignore[arg-type]  # their annotation loses the arguments
    return ModelRunner(model, load_processor(setup))


class TimedFrames(UnitFrames, Protocol):
    """`UnitFrames` that know how long decoding took so far."""

    decode_seconds: float


def encode_and_time(unit: Unit, frames: TimedFrames, runner: Runner, job: Job) -> Encoded:
    """`encode_unit`, packed for the store."""
    start = time.perf_counter()
    table = encode_unit(unit, frames, runner, job)
    seconds = time.perf_counter() - start - frames.decode_seconds
    return Encoded(unit, table.num_rows, to_ipc(table), frames.decode_seconds, seconds)


def to_ipc(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def reason_of(error: Exception, episode: str = "") -> str:
    """An error as one line for `failed.jsonl`: with the file it is about, where the episode's id does not name it."""
    if isinstance(error, EpisodeReadError):
        # A file's folders are this machine's affair; a dataset's own name for it is relative, and stays whole.
        place = os.path.basename(error.path) if os.path.isabs(error.path) else error.path
        named = episode.partition("#t=")[0].endswith(place)
        return error.reason if named else f"{place}: {error.reason}"
    if isinstance(error, MemoryError):
        return "more memory was asked for than there is"
    line = first_line(error)
    return line if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {line}"


def main(connection: Connection) -> None:
    """The life of a worker process: setup, `Ready`, then tasks until the driver hangs up."""
    torch.set_num_threads(1)
    try:
        setup = connection.recv()
        worker = Worker(setup, load_runner(setup) if setup.encodes else None)
    except Exception as error:  # the driver turns it into one line
        connection.send(NotReady(reason_of(error)))
        return
    connection.send(Ready())
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionError):
            return
        except Exception as error:  # say, a reader whose class only exists in the driver's script
            connection.send(Failed("", f"the episode cannot be sent to a worker process ({reason_of(error)})"))
            continue
        worker.answer(task, connection.send)
