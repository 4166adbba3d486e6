"""A worker: answers tasks, one at a time, with messages. A worker process starts at `prepare`."""

from __future__ import annotations

import io
import os
import pickle
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Protocol

import pyarrow as pa
import torch
from transformers.utils import logging

from lara_tokenizer.checkpoint import load_checkpoint
from lara_tokenizer.data import Episode
from lara_tokenizer.encode.encode import encode_unit
from lara_tokenizer.encode.model_runner import EpisodeFrames, ModelRunner, Runner, UnitFrames
from lara_tokenizer.encode.options import EncodeOptions
from lara_tokenizer.encode.plan import Unit, check_unchanged, plan_episode, unit_pairs
from lara_tokenizer.encode.tasks import (
    Encoded,
    Failure,
    FrameChunk,
    Heartbeat,
    Message,
    PlanTask,
    Refusal,
    Task,
    UnitTask,
    WorkerSetup,
)
from lara_tokenizer.errors import EpisodeReadError, first_line, printable
from lara_tokenizer.model import LatentActionProcessor

Send = Callable[[Message], object]


class Worker:
    """Answers tasks, and keeps the last episode open. Without a runner it only reads frames, for the driver."""

    def __init__(self, setup: WorkerSetup, runner: Runner | None) -> None:
        self._options = setup.options
        self._runner = runner
        self._processor = load_processor(setup)
        self._open: Episode | None = None

    def answer(self, task: Task, send: Send) -> None:
        """Run a task and send messages; whatever the data contains, the last one is an answer (`tasks.is_answer`)."""
        try:
            episode = self._episode(task.episode)
            match task:
                case PlanTask():
                    send(plan_episode(episode, self._options))
                case UnitTask(unit=unit, files=files):
                    check_unchanged(episode, files)
                    frames = EpisodeFrames(
                        episode,
                        unit.camera,
                        self._processor,
                        with_signals=self._options.needs_signals,
                        on_chunk=lambda count: send(Heartbeat(count)),
                    )
                    if self._runner is None:
                        last: Message = self._send_frames(unit, frames, send)
                    else:
                        last = encode_and_time(unit, frames, self._runner, self._options)
                    check_unchanged(episode, files)
                    send(last)
        except Exception as error:  # a bad episode must not end the job
            # A reader that failed may be in any state; the next task of the episode opens it again.
            self.close()
            send(Failure(task.episode.id, _reason_of_failure(error, task)))

    def close(self) -> None:
        """Close the open episode."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _episode(self, episode: Episode) -> Episode:
        if self._open is None or self._open.id != episode.id:
            self.close()
            self._open = episode
        return self._open

    def _send_frames(self, unit: Unit, frames: EpisodeFrames, send: Send) -> FrameChunk:
        """Send the frames of a unit, and return the last chunk, which ends it."""
        send(FrameChunk(timestamps=frames.timestamps, signals=frames.signals))
        for pixels in frames.read(unit_pairs(unit, frames.timestamps, self._options).needed):
            send(FrameChunk(pixels=pixels.numpy()))
        return FrameChunk(decode_seconds=frames.decode_seconds)


def load_processor(setup: WorkerSetup) -> LatentActionProcessor:
    """The given processor, or the checkpoint's."""
    return setup.processor or LatentActionProcessor.from_pretrained(setup.folder)


def load_runner(setup: WorkerSetup, device: str = "cpu") -> ModelRunner:
    """The checkpoint's model in the job's dtype, on a device."""
    model, processor = load_checkpoint(setup.folder, setup.processor)
    model.to(device, getattr(torch, setup.options.dtype))  # type: ignore[arg-type]  # transformers' annotation
    return ModelRunner(model, processor)


class TimedFrames(UnitFrames, Protocol):
    """`UnitFrames` with the seconds spent on decoding so far."""

    decode_seconds: float


def encode_and_time(unit: Unit, frames: TimedFrames, runner: Runner, options: EncodeOptions) -> Encoded:
    """Run `encode_unit` and pack its rows for the store."""
    start = time.perf_counter()
    table = encode_unit(unit, frames, runner, options)
    seconds = time.perf_counter() - start - frames.decode_seconds
    return Encoded(unit, table.num_rows, to_ipc(table), frames.decode_seconds, seconds)


def to_ipc(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _reason_of_failure(error: Exception, task: Task) -> str:
    """The reason of a failed task: if a file changed meanwhile that is the cause, whatever the decoder says of it."""
    try:
        check_unchanged(task.episode, task.files if isinstance(task, UnitTask) else ())
    except Exception as change:
        error = change
    return reason_of(error, task.episode.id)


def reason_of(error: Exception, episode: str = "") -> str:
    """An error as one line for `failed.jsonl`, with the file concerned unless the episode's id names it already.

    Names and texts in it may be anything: what is no valid text is escaped.
    """
    return printable(_plain_reason(error, episode))


def _plain_reason(error: Exception, episode: str) -> str:
    if isinstance(error, EpisodeReadError):
        # Absolute paths are private to this machine and lose their folders; a dataset's own name for a file is
        # relative, and stays whole.
        file = os.path.basename(error.path) if os.path.isabs(error.path) else error.path
        # An id is text already; a name that is not UTF-8 is escaped the same way.
        is_named = printable(episode.partition("#t=")[0]).endswith(printable(file))
        return error.reason if is_named else f"{file}: {error.reason}"
    if isinstance(error, MemoryError):
        return "more memory was requested than is available"
    line = first_line(error)
    return line if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {line}"


def prepare(pickled: bytes) -> Callable[[Connection], None]:
    """Load what a pickled `WorkerSetup` names, once for all workers that are forked; the result is the work of each."""
    # As in `InProcessEngine`: rows must not depend on the number of threads.
    torch.set_num_threads(1)
    logging.disable_progress_bar()  # nobody sees it, and it starts a thread
    try:
        setup = pickle.loads(pickled)
        runner = load_runner(setup) if setup.encodes else None
        load_processor(setup)
        if setup.options.needs_signals:
            pa.array([0])  # imports pandas where it is installed: now, and not in each worker
    except ValueError as error:  # of the checkpoint
        return partial(_send_once, Refusal(printable(str(error))))
    except Exception as error:  # the driver reports it in one line
        return partial(_send_once, Failure("", reason_of(error)))
    return partial(_work, setup, runner)


def _send_once(message: Message, connection: Connection) -> None:
    connection.send(message)


def _work(setup: WorkerSetup, runner: ModelRunner | None, connection: Connection) -> None:
    """Be a worker process: send a heartbeat when ready, then answer tasks until the pipe closes."""
    worker = Worker(setup, runner)
    connection.send(Heartbeat(0))
    while True:
        try:
            pickled = connection.recv_bytes()
        except (EOFError, ConnectionError):
            return
        try:
            task = pickle.loads(pickled)
        except Exception as error:  # e.g. a reader whose class only exists in the driver's script
            connection.send(Failure("", f"the episode cannot be sent to a worker process ({reason_of(error)})"))
            continue
        worker.answer(task, connection.send)
