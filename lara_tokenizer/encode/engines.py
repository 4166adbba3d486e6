"""Where units are computed. An engine takes tasks from a queue and gives events back, in any order."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol, cast

from lara_tokenizer.encode.pool import Child, ChildDied, Limits
from lara_tokenizer.encode.tasks import (
    Beat,
    Encoded,
    Event,
    Failed,
    FramePiece,
    FramesDone,
    FrameTimes,
    Message,
    Planned,
    Task,
    TaskQueue,
    UnitTask,
    WorkerSetup,
)
from lara_tokenizer.errors import LaraTokenizerError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lara_tokenizer.encode.encode import EncodedPairs, Frame, Runner
    from lara_tokenizer.encode.worker import Worker


class Engine(Protocol):
    """Computes what a queue holds. `start` loads the model, so that the first task finds it ready."""

    workers: int  # how many tasks are worked on at a time

    def start(self) -> None:
        """Get ready to work. Raises LaraTokenizerError where that fails."""

    def run(self, tasks: TaskQueue) -> Iterator[Event]:
        """Yield events until every task has its answer; tasks may be added in between."""

    def close(self) -> None:
        """Stop at once."""


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """An engine that is started, and closed whatever happens."""
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


class InProcessEngine:
    """Everything in this process, on one thread: no child to start, but what crashes the decoder crashes the job."""

    workers = 1

    def __init__(self, setup: WorkerSetup, load_runner: Callable[[], Runner]) -> None:
        self._setup, self._load_runner = setup, load_runner
        self._worker: Worker | None = None

    def start(self) -> None:
        from lara_tokenizer.encode.worker import Worker

        self._worker = Worker(self._setup, self._load_runner())

    def run(self, tasks: TaskQueue) -> Iterator[Event]:
        import torch

        assert self._worker is not None, "start comes first"
        threads = torch.get_num_threads()
        near: str | None = None
        while (task := tasks.take(near)) is not None:
            near = task.episode.id
            messages: list[Message] = []
            torch.set_num_threads(1)  # as in a worker process: the same sums in the same order
            try:
                self._worker.answer(task, messages.append)
            finally:
                torch.set_num_threads(threads)
            yield from cast("list[Event]", messages)  # a worker with a runner gives nothing else
            tasks.done()

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


class LocalEngine:
    """Child processes on this machine.

    Without `load_runner` each child decodes and encodes on one thread. With it (on a GPU) the children only decode,
    and one thread of this process runs the model.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        workers: int,
        load_runner: Callable[[], Runner] | None = None,
        limits: Limits | None = None,
    ) -> None:
        assert setup.encodes == (load_runner is None), "either the children have a model or the driver"
        self.workers = workers
        self._job = setup.job
        self._load_runner = load_runner
        self._runner: _OneThreadRunner | None = None
        self._children = [Child(setup, limits or Limits.fair(workers)) for _ in range(workers)]
        self._threads: list[Thread] = []
        self._tasks = TaskQueue([])
        self._events: queue.Queue[tuple[Event | BaseException, bool]] = queue.Queue()

    def start(self) -> None:
        for child in self._children:
            child.start()
        if self._load_runner is not None:
            self._runner = _OneThreadRunner(self._load_runner())
        for child in self._children:
            child.wait_ready()

    def run(self, tasks: TaskQueue) -> Iterator[Event]:
        self._tasks = tasks
        self._threads = [Thread(target=self._serve, args=(child, tasks), daemon=True) for child in self._children]
        for thread in self._threads:
            thread.start()
        while not tasks.is_finished:
            event, is_last = self._events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if is_last:
                tasks.done()

    def close(self) -> None:
        self._tasks.close()
        for child in self._children:
            child.kill()
        for thread in self._threads:
            thread.join()
        for child in self._children:
            child.close()
        if self._runner is not None:
            self._runner.close()

    def _serve(self, child: Child, tasks: TaskQueue) -> None:
        """The life of the thread that belongs to one child."""
        near: str | None = None
        try:
            while (task := tasks.take(near)) is not None:
                near = task.episode.id
                self._events.put((self._answer(child, task), True))
        except BaseException as error:  # the main thread raises it
            self._events.put((error, True))

    def _answer(self, child: Child, task: Task) -> Event:
        """Put the signs of life, return the answer. A dead child is the failure of its episode."""
        try:
            if self._runner is not None and isinstance(task, UnitTask):
                return self._encode_here(child, task, self._runner)
            for message in child.ask(task):
                match message:
                    case Beat():
                        self._events.put((message, False))
                    case Planned() | Encoded():
                        return message
                    case Failed(reason=reason):
                        # A child that could not even read the task does not know its episode.
                        return Failed(task.episode.id, reason)
            raise AssertionError("a child's last message is an answer")
        except (ChildDied, _NoFrames) as error:
            return Failed(task.episode.id, str(error))

    def _encode_here(self, child: Child, task: UnitTask, runner: _OneThreadRunner) -> Event:
        from lara_tokenizer.encode.worker import encode_and_time, reason_of

        messages = child.ask(task)
        frames = _RemoteFrames(messages, lambda beat: self._events.put((beat, False)))
        try:
            return encode_and_time(task.unit, frames, runner, self._job)
        except ValueError as error:  # say, latents that are no numbers: the episode's failure, as in a child
            for _ in messages:  # the child goes on sending frames: the next task's answers come after them
                pass
            return Failed(task.episode.id, reason_of(error, task.episode.id))


class _NoFrames(Exception):
    """A child could not read the frames; the text says why."""


class _RemoteFrames:
    """The frames of a unit as they come from a child that decodes."""

    def __init__(self, messages: Iterator[Message], beat: Callable[[Beat], object]) -> None:
        self._messages, self._beat = messages, beat
        self.decode_seconds = 0.0
        first = next(messages)
        if isinstance(first, Failed):
            raise _NoFrames(first.reason)
        assert isinstance(first, FrameTimes)
        self.timestamps, self.signals = first.timestamps, first.signals

    def read(self, indices: np.ndarray) -> Iterator[Tensor]:
        """The child works out by itself which frames the unit needs: the same `indices`."""
        import torch

        for message in self._messages:
            match message:
                case FramePiece(pixels):
                    yield torch.from_numpy(pixels)
                case FramesDone(seconds):
                    self.decode_seconds = seconds
                case Failed(reason=reason):
                    raise _NoFrames(reason)
                case Beat():
                    self._beat(message)


class _OneThreadRunner:
    """A `Runner` for many threads: one thread runs the model, call after call."""

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
