"""Child processes that may crash, hang or eat memory without harm to the job.

They are started as fresh interpreters and never import the user's script, so that a script needs no
`if __name__ == "__main__"`. They take their orders through a pipe that is inherited, as POSIX systems have it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO

import psutil

from lara_tokenizer.encode.tasks import Encoded, Failed, FramesDone, Message, NotReady, Planned, Task, WorkerSetup
from lara_tokenizer.errors import LaraTokenizerError

_TICK = 0.5  # seconds between looks at a silent child

# The driver's module path, for readers of the user's own; no imports before it is in place.
_BOOTSTRAP = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from multiprocessing.connection import Connection
from lara_tokenizer.encode.worker import main
main(Connection(int(sys.argv[1])))
"""
# One thread a process: results then do not depend on the number of cores, and processes do not fight for them.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# glibc hands memory back to the kernel after each batch and asks for it again at the next: keeping it costs a tenth
# less CPU, and a long video peaks where a short one does.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20)}


def available_cores() -> int:
    """Of those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may do before it is ended: seconds without a sign of life, bytes of resident memory."""

    seconds: float
    memory: int

    @classmethod
    def fair(cls, workers: int) -> Limits:
        """Ten minutes, and an equal share of four fifths of the machine's memory."""
        return cls(seconds=600.0, memory=int(0.8 * psutil.virtual_memory().total / max(workers, 1)))


class ChildDied(Exception):
    """The child is gone; the text says why, for people."""


class Child:
    """One worker process, asked one task at a time and started again after a death."""

    def __init__(self, setup: WorkerSetup, limits: Limits) -> None:
        self._setup, self._limits = setup, limits
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection
        self._errors: IO[bytes]
        self._is_ready = False
        self._is_closed = False

    def start(self) -> None:
        """Start the process; it loads the model while the caller goes on."""
        if self._is_closed:
            raise ChildDied("stopped")
        self._connection, theirs = Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOTSTRAP, str(theirs.fileno()), json.dumps(sys.path)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env={**_KEEP_MEMORY, **os.environ, **_ONE_THREAD},
            process_group=0,  # Ctrl-C is for the driver, which ends its children itself
        )
        theirs.close()
        self._is_ready = False
        self._connection.send(self._setup)

    def wait_ready(self) -> None:
        """Wait until the model is loaded. Raises LaraTokenizerError where the process cannot start."""
        try:
            message = self._receive()
        except ChildDied as death:
            raise LaraTokenizerError(f"a worker process could not start: {death}") from None
        if isinstance(message, NotReady):
            raise LaraTokenizerError(f"a worker process could not start: {message.reason}")
        self._is_ready = True

    def ask(self, task: Task) -> Iterator[Message]:
        """Yield the child's messages about a task, up to the last one. Raises ChildDied."""
        if self._process is None:
            self.start()
        if not self._is_ready:
            self.wait_ready()
        try:
            self._connection.send(task)
        except ConnectionError:
            raise ChildDied(self._post_mortem()) from None
        message = None
        while not isinstance(message, (Planned, Encoded, Failed, FramesDone)):
            message = self._receive()
            yield message

    def kill(self) -> None:
        """End the process, at once and for good; whoever waits for its answer gets ChildDied."""
        self._is_closed = True
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """After `kill`, when nobody waits any more: free what is left."""
        self._end()

    def _receive(self) -> Message:
        silent_since = last_look = time.monotonic()
        while not self._connection.poll(_TICK):
            now = time.monotonic()
            if now - silent_since > self._limits.seconds:
                self._end()
                raise ChildDied(f"no progress for {self._limits.seconds:.0f} s")
            if now - last_look >= _TICK:
                last_look = now
                self._check_memory()
        self._check_memory()
        try:
            return self._connection.recv()
        except (EOFError, ConnectionError):
            raise ChildDied(self._post_mortem()) from None

    def _check_memory(self) -> None:
        assert self._process is not None
        try:
            used = psutil.Process(self._process.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return
        if used > self._limits.memory:
            self._end()
            raise ChildDied(
                f"took {used / 1e9:.1f} GB of memory, more than its share of {self._limits.memory / 1e9:.1f} GB"
            )

    def _post_mortem(self) -> str:
        """Why the process died: its signal or exit code, and the last thing it wrote."""
        assert self._process is not None
        code = self._process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        self._end()
        return f"the worker process died ({name})" + (f": {lines[-1].strip()}" if lines else "")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self._connection.close()
            self._errors.close()
