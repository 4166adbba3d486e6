"""`WorkerProcess`: one worker as the driver sees it, and the limits beyond which it is killed."""

from __future__ import annotations

import pickle
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO

import psutil

from lara_tokenizer.encode.pool.fork_server import ForkedProcess, ForkServer
from lara_tokenizer.encode.pool.launch import launch
from lara_tokenizer.encode.tasks import Failure, Message, Refusal, Task, WorkerSetup, is_answer
from lara_tokenizer.errors import LaraTokenizerError, first_line

_TICK = 0.5  # seconds between checks of a silent worker

_SIGNALS = {each.value: each.name for each in signal.Signals}
_STARTS = 3  # of a worker that is killed before it is ready


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """Limits beyond which a worker process is killed."""

    seconds: float
    """Without any message."""
    memory: int
    """Resident memory, in bytes."""

    @classmethod
    def fair(cls, workers: int) -> WorkerLimits:
        """Ten minutes, and an equal share of four fifths of the machine's memory."""
        return cls(seconds=600.0, memory=int(0.8 * psutil.virtual_memory().total / max(workers, 1)))


class WorkerDied(Exception):
    """The worker process is gone; the text is the reason.

    Attributes:
        code: its exit code, negative for a signal; None where the driver ended it, for its silence or its memory.
    """

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.code = code


class WorkerProcess:
    """One worker process, which does one task at a time and is restarted after it died."""

    def __init__(self, setup: WorkerSetup, limits: WorkerLimits, server: ForkServer | None = None) -> None:
        self._setup = setup
        self._limits = limits
        self._server = server  # None: it is started as a fresh interpreter
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None
        self._connection: Connection
        self._errors: IO[bytes]
        self._is_ready = False
        self._is_closed = False

    def start(self) -> None:
        """Start the process; it loads the model while the caller goes on."""
        if self._is_closed:
            raise WorkerDied("stopped")
        self._connection, remote = Pipe()
        # A file, not a pipe: a pipe that nobody reads would block a worker that writes much.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._is_ready = False
        if self._server is not None:
            self._process = self._server.fork(remote, self._errors)
        else:
            self._process = launch(remote.fileno(), self._errors, as_server=False)
            with suppress(ConnectionError):  # it is dead already: `wait_ready` notices
                self._connection.send_bytes(pickle.dumps(self._setup))
        remote.close()
        if self._is_closed:  # meanwhile, by the thread that closes the engine
            self.kill()

    def wait_ready(self) -> None:
        """Wait until the model is loaded; a process that is killed before that is replaced, twice at most.

        Raises LaraTokenizerError if the process cannot start, and ValueError for a checkpoint that cannot be loaded.
        """
        for attempt in range(1, _STARTS + 1):
            try:
                if self._process is None:
                    self.start()
                message = self._receive()
            except WorkerDied as death:
                # Killed from outside, most likely for want of memory; an error of its own would come again.
                if death.code is not None and death.code < 0 and attempt < _STARTS:
                    continue
                raise LaraTokenizerError(f"a worker process could not start: {death}") from None
            if isinstance(message, Refusal):
                raise ValueError(message.reason)
            if isinstance(message, Failure):
                raise LaraTokenizerError(f"a worker process could not start: {message.reason}")
            self._is_ready = True
            return

    def ask(self, task: Task) -> Iterator[Message]:
        """Yield the messages about a task, up to its answer. Raises WorkerDied."""
        if self._process is not None and self._process.poll() is not None:
            self._end()  # it died while it had nothing to do: that is no fault of this task
        if self._process is None:
            self.start()
        if not self._is_ready:
            self.wait_ready()
        try:
            self._connection.send(task)
        except ConnectionError:
            raise self._post_mortem() from None
        except Exception as error:  # pickling runs the code of custom readers; nothing was sent yet
            reason = f"{type(error).__name__}: {first_line(error)}"
            yield Failure(task.episode.id, f"the episode cannot be sent to a worker process ({reason})")
            return
        while True:
            message = self._receive()
            yield message
            if is_answer(message):
                return

    def kill(self) -> None:
        """Kill the process for good; a thread that waits for its answer gets WorkerDied."""
        self._is_closed = True
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """Free the resources, after `kill`, when no thread waits any more."""
        self._end()

    def _receive(self) -> Message:
        silent_since = last_check = time.monotonic()
        while not self._connection.poll(_TICK):
            now = time.monotonic()
            if now - silent_since > self._limits.seconds:
                self._end()
                raise WorkerDied(f"no progress for {self._limits.seconds:.0f} s")
            if now - last_check >= _TICK:
                last_check = now
                self._check_memory()
        self._check_memory()
        try:
            return self._connection.recv()
        except (EOFError, ConnectionError):
            raise self._post_mortem() from None
        except Exception as error:  # a library has written to the pipe, or memory is damaged
            self._end()
            raise WorkerDied(f"the worker process sent what cannot be read ({first_line(error)})") from None

    def _check_memory(self) -> None:
        # Resident memory, not a limit on the address space, of which torch reserves far more than it uses.
        assert self._process is not None
        try:
            used = psutil.Process(self._process.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return
        if used > self._limits.memory:
            self._end()
            raise WorkerDied(
                f"took {used / 1e9:.1f} GB of memory, more than its share of {self._limits.memory / 1e9:.1f} GB"
            )

    def _post_mortem(self) -> WorkerDied:
        """The death of a process that has closed its end of the pipe: signal or exit code, and last line of stderr."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:  # it closed the pipe, and hangs
            self._process.kill()
            code = self._process.wait()
        name = f"exit code {code}" if code >= 0 else _SIGNALS.get(-code, f"signal {-code}")
        lines = _lines(self._errors)
        if not lines and isinstance(self._process, ForkedProcess):
            lines = _lines(self._process.server_errors)
        self._end()
        return WorkerDied(f"the worker process died ({name})" + (f": {lines[-1].strip()}" if lines else ""), code)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            if isinstance(process, ForkedProcess):
                process.close()
            self._connection.close()
            self._errors.close()


def _lines(errors: IO[bytes]) -> list[str]:
    errors.seek(0)
    return errors.read().decode(errors="replace").strip().splitlines()
