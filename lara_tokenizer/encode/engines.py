"""Engines: where tasks are computed, in this process or in worker processes, with the model on CPU or GPU."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol, cast

from lara_tokenizer.encode.plan import EpisodePlan
from lara_tokenizer.encode.pool import ForkServer, WorkerDied, WorkerLimits, WorkerProcess, can_fork
from lara_tokenizer.encode.tasks import (
    Encoded,
    Event,
    Failure,
    FrameChunk,
    Heartbeat,
    Message,
    Task,
    TaskQueue,
    UnitTask,
    WorkerSetup,
)
from lara_tokenizer.errors import LaraTokenizerError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lara_tokenizer.encode.model_runner import EncodedPairs, Frame, Runner
    from lara_tokenizer.encode.pool.worker import Worker


# An episode on which so many worker processes died has failed.
_DEATHS = 2
# Pairs that must be waiting for another fresh interpreter, which takes seconds to load torch. Forks take none.
_WORTH_A_START = 1024


class Engine(Protocol):
    """Computes the tasks of a queue and yields events, in any order."""

    workers: int  # number of tasks that are worked on at a time

    def start(self) -> None:
        """Load the model. Raises LaraTokenizerError if that fails."""

    def run(self, tasks: TaskQueue) -> Iterator[Event]:
        """Yield events until every task is answered; tasks may be added in between."""

    def close(self) -> None:
        """Stop at once."""


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """Start an engine, and close it in any case."""
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


class InProcessEngine:
    """Runs everything in this process, on one thread: no start-up time, but a crashing decoder ends the job."""

    workers = 1

    def __init__(self, setup: WorkerSetup, load_runner: Callable[[], Runner]) -> None:
        self._setup = setup
        self._load_runner = load_runner
        self._worker: Worker | None = None

    def start(self) -> None:
        from lara_tokenizer.encode.pool.worker import Worker

        self._worker = Worker(self._setup, self._load_runner())

    def run(self, tasks: TaskQueue) -> Iterator[Event]:
        import torch

        assert self._worker is not None, "call start first"
        threads = torch.get_num_threads()
        episode: str | None = None
        while (task := tasks.pop(prefer_episode=episode)) is not None:
            episode = task.episode.id
            messages: list[Message] = []
            torch.set_num_threads(1)  # as in a worker process: sums in the same order
            try:
                self._worker.answer(task, messages.append)
            finally:
                torch.set_num_threads(threads)
            yield from cast("list[Event]", messages)  # only a worker without a model sends frames
            tasks.task_done()

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


class LocalEngine:
    """Worker processes on this machine, each served by a thread of this process.

    The first one starts at once, the others when there is work for them. Without `load_runner` each worker decodes and
    encodes on one thread. With it (on a GPU) the workers only decode, and one more thread of this process runs the
    model.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        workers: int,
        load_runner: Callable[[], Runner] | None = None,
        limits: WorkerLimits | None = None,
    ) -> None:
        assert setup.encodes == (load_runner is None), "either the workers have a model or the driver"
        self.workers = workers
        self._options = setup.options
        self._load_runner = load_runner
        self._runner: _OneThreadRunner | None = None
        limits = limits or WorkerLimits.fair(workers)
        self._server = ForkServer(setup) if can_fork() else None
        self._processes = [WorkerProcess(setup, limits, self._server) for _ in range(workers)]
        self._threads: list[Thread] = []
        self._tasks = TaskQueue([])
        self._deaths: Counter[str] = Counter()  # of worker processes, by the episode they were working on
        # (event, whether it answers a task), or an error for the main thread.
        self._events: queue.Queue[tuple[Event | BaseException, bool]] = queue.Queue()

    def start(self) -> None:
        # Both load their models at the same time.
        self._processes[0].start()
        if self._load_runner is not None:
            self._runner = _OneThreadRunner(self._load_runner())
        self._processes[0].wait_ready()

    def run(self, tasks: TaskQueue) -> Iterator[Event]:
        self._tasks = tasks
        self._threads = []
        while not tasks.is_finished:
            self._add_threads(tasks)
            event, is_answer = self._events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            # After the yield: the caller may have added tasks that follow from this one, so the queue is not empty yet.
            if is_answer:
                tasks.task_done()

    def _add_threads(self, tasks: TaskQueue) -> None:
        """Serve as many processes as there is work for."""
        while len(self._threads) < self.workers:
            if self._threads and not tasks.has_waiting(_WORTH_A_START if self._server is None else 1):
                return
            process = self._processes[len(self._threads)]
            self._threads.append(Thread(target=self._serve, args=(process, tasks), daemon=True))
            self._threads[-1].start()

    def close(self) -> None:
        # Killing a process ends the wait of its thread; only then may what both of them use be freed.
        self._tasks.close()
        for process in self._processes:
            process.kill()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.close()
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            self._runner.close()

    def _serve(self, process: WorkerProcess, tasks: TaskQueue) -> None:
        """Body of the thread that serves one process."""
        episode: str | None = None
        try:
            # Each worker goes on with the episode that it has open; another episode only starts when none of its
            # units is waiting, so that a video is not opened by many workers while others wait.
            while (task := tasks.pop(prefer_episode=episode)) is not None:
                episode = task.episode.id
                self._events.put((self._answer(process, task), True))
        except BaseException as error:  # the main thread raises it
            self._events.put((error, True))

    def _answer(self, process: WorkerProcess, task: Task) -> Event:
        """The answer of a worker. A task whose process dies is done again, once per episode.

        The kernel's choice of a process to kill for want of memory says little about the episode; an episode that kills
        a second one has failed.
        """
        while True:
            try:
                return self._answer_of(process, task)
            except WorkerDied as death:
                if death.code is not None:
                    self._deaths[task.episode.id] += 1
                    if self._deaths[task.episode.id] < _DEATHS:
                        continue
                return Failure(task.episode.id, str(death))

    def _answer_of(self, process: WorkerProcess, task: Task) -> Event:
        """Queue the heartbeats, return the answer. Raises WorkerDied."""
        try:
            if self._runner is not None and isinstance(task, UnitTask):
                return self._encode_here(process, task, self._runner)
            for message in process.ask(task):
                match message:
                    case Heartbeat():
                        self._events.put((message, False))
                    case EpisodePlan() | Encoded():
                        return message
                    case Failure(reason=reason):
                        # A worker that could not even unpickle the task does not know its episode.
                        return Failure(task.episode.id, reason)
            raise AssertionError("a worker's last message is an answer")
        except _NoFrames as error:
            return Failure(task.episode.id, str(error))

    def _encode_here(self, process: WorkerProcess, task: UnitTask, runner: _OneThreadRunner) -> Event:
        from lara_tokenizer.encode.pool.worker import encode_and_time, reason_of

        messages = process.ask(task)
        frames = _RemoteFrames(messages, lambda heartbeat: self._events.put((heartbeat, False)))
        try:
            return encode_and_time(task.unit, frames, runner, self._options)
        except ValueError as error:  # e.g. latents that are not finite: a failure of the episode, as in a worker
            for _ in messages:  # the worker goes on sending frames, and the next task's answer comes after them
                pass
            return Failure(task.episode.id, reason_of(error, task.episode.id))


class _NoFrames(Exception):
    """A worker could not read the frames; the text is the reason."""


class _RemoteFrames:
    """The frames of a unit as they arrive from a worker that decodes."""

    def __init__(self, messages: Iterator[Message], on_heartbeat: Callable[[Heartbeat], object]) -> None:
        self._messages = messages
        self._on_heartbeat = on_heartbeat
        self.decode_seconds = 0.0
        first = next(messages)
        if isinstance(first, Failure):
            raise _NoFrames(first.reason)
        assert isinstance(first, FrameChunk)
        assert first.timestamps is not None
        assert first.signals is not None
        self.timestamps = first.timestamps
        self.signals = first.signals

    def read(self, indices: np.ndarray) -> Iterator[Tensor]:
        """The worker derives from the unit which frames it needs: the same `indices`."""
        import torch

        for message in self._messages:
            match message:
                case FrameChunk(pixels=pixels) if pixels is not None:
                    yield torch.from_numpy(pixels)
                case FrameChunk(decode_seconds=seconds) if seconds is not None:
                    self.decode_seconds = seconds
                case Failure(reason=reason):
                    raise _NoFrames(reason)
                case Heartbeat():
                    self._on_heartbeat(message)


class _OneThreadRunner:
    """A `Runner` for many threads: a single thread runs the model, call after call."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._thread = ThreadPoolExecutor(1)

    def frame_features(self, frames_B3SS: Tensor) -> Tensor:
        return self._thread.submit(self._run, self._runner.frame_features, frames_B3SS).result()

    def future_features(self, now: Sequence[Frame], future: Sequence[Frame]) -> list[Tensor]:
        return self._thread.submit(self._run, self._runner.future_features, now, future).result()

    def encode(self, features: Sequence[Tensor], future_features: Sequence[Tensor]) -> EncodedPairs:
        return self._thread.submit(self._run, self._runner.encode, features, future_features).result()

    def close(self) -> None:
        self._thread.shutdown()

    @staticmethod
    def _run(function: Callable[..., Any], *args: Any) -> Any:
        import torch

        try:
            return function(*args)
        except torch.OutOfMemoryError as error:
            raise LaraTokenizerError("the GPU is out of memory: take a smaller --batch-size") from error
