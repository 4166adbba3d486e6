"""`WorkerProcess`: a process that may crash, hang or exhaust its memory without harm to the job.

Worker processes are fresh interpreters that never import the user's script, so a script needs no
`if __name__ == "__main__"`. Tasks and messages go through an inherited pipe (POSIX only).
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
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO

import psutil

from lara_tokenizer.encode.tasks import Failure, Message, Task, WorkerSetup, is_answer
from lara_tokenizer.errors import LaraTokenizerError, first_line

_TICK = 0.5  # seconds between checks of a silent worker

_SIGNALS = {each.value: each.name for each in signal.Signals}
_STARTS = 3  # of a worker that is killed before it is ready

# A worker ends with the driver, however that ends and whatever the worker is doing: it looks for its parent every
# second, and on Linux the kernel kills it, also in a decoder that never returns. A closed pipe is noticed too late,
# after the unit.
_END_WITH_DRIVER = """
import ctypes, json, os, sys, threading, time
driver = int(sys.argv[3])
def end_with_driver():
    while os.getppid() == driver:
        time.sleep(1)
    os._exit(1)
threading.Thread(target=end_with_driver, daemon=True).start()
if sys.platform == "linux":
    PR_SET_PDEATHSIG, SIGKILL = 1, 9
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
"""
# Then it gets the driver's module path, where custom readers live, before it imports the rest.
_BOOTSTRAP = f"""{_END_WITH_DRIVER}
sys.path[:] = json.loads(sys.argv[2])
from multiprocessing.connection import Connection
from lara_tokenizer.encode.worker import main
main(Connection(int(sys.argv[1])))
"""
# One thread per process: results do not depend on the number of cores, and processes do not compete for them.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# By default glibc returns memory to the kernel after each batch and requests it again for the next. Keeping it saves a
# tenth of the CPU time, and a long video peaks no higher than a short one.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20)}


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

    def __init__(self, setup: WorkerSetup, limits: WorkerLimits) -> None:
        self._setup = setup
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
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
        self._process = subprocess.Popen(
            # -P: never import from the working directory.
            [sys.executable, "-P", "-c", _BOOTSTRAP, str(remote.fileno()), json.dumps(sys.path), str(os.getpid())],
            pass_fds=[remote.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # ours may be the JSON of a command
            stderr=self._errors,
            env={**_KEEP_MEMORY, **os.environ, **_ONE_THREAD},
            process_group=0,  # Ctrl-C reaches the driver only, which stops its workers itself
        )
        remote.close()
        self._is_ready = False
        with suppress(ConnectionError):  # it is dead already: `wait_ready` notices
            self._connection.send(self._setup)

    def wait_ready(self) -> None:
        """Wait until the model is loaded; a process that is killed before that is replaced, twice at most.

        Raises LaraTokenizerError if the process cannot start.
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
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        self._end()
        return WorkerDied(f"the worker process died ({name})" + (f": {lines[-1].strip()}" if lines else ""), code)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self._connection.close()
            self._errors.close()
