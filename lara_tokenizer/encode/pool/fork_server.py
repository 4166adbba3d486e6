"""`ForkServer`: the driver's side of the process that forks workers."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Lock
from typing import IO

import psutil

from lara_tokenizer.encode.pool.launch import launch
from lara_tokenizer.encode.pool.server import REQUEST
from lara_tokenizer.encode.tasks import WorkerSetup

_PATIENCE = 30.0  # seconds for a server to end, or to tell the end of a worker


def can_fork() -> bool:
    """True where workers are forked. On macOS system libraries break after a fork, and Windows has none."""
    return sys.platform == "linux"


class ForkServer:
    """A process that loads torch and the model once, and forks workers: N of them cost one start.

    It is a fresh interpreter and not the driver, which may have threads, CUDA and locks that no fork survives.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._lives: list[_Server] = []
        self._lock = Lock()  # workers are started by many threads

    def fork(self, pipe: Connection, errors: IO[bytes]) -> ForkedProcess:
        """Order a worker, which gets the pipe and the file for its stderr; a server that is dead is started again.

        Does not wait: the server may still be loading the model.
        """
        with self._lock:
            if not self._lives or self._lives[-1].process.poll() is not None:
                self._lives.append(_Server(self._setup))
            return self._lives[-1].fork(pipe, errors)

    def close(self) -> None:
        """End the server and all workers that are left."""
        while self._lives:
            self._lives.pop().close()


class _Server:
    """One life of a server."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._control, remote = socket.socketpair()
        # A file, not a pipe: a pipe that nobody reads would block a process that writes much.
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self.process = launch(remote.fileno(), self.errors, as_server=True)
        remote.close()
        sending = Connection(os.dup(self._control.fileno()))
        with suppress(ConnectionError):  # it has died: the closed pipes of its workers tell
            sending.send_bytes(pickle.dumps(setup))
        sending.close()

    def fork(self, pipe: Connection, errors: IO[bytes]) -> ForkedProcess:
        status, remote = Pipe(duplex=False)
        with suppress(ConnectionError):
            socket.send_fds(self._control, [REQUEST], [pipe.fileno(), remote.fileno(), errors.fileno()])
        remote.close()
        return ForkedProcess(self, status)

    def end(self) -> int:
        """Wait for its end, and return its exit code."""
        try:
            return self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def close(self) -> None:
        self._control.close()  # by which it ends
        self.end()
        self.errors.close()


class ForkedProcess:
    """A worker that a server has forked, or will; with the methods of a `Popen`."""

    def __init__(self, server: _Server, status: Connection) -> None:
        self._server = server
        self._status = status  # first its process id, then its exit code
        self._is_forked = False
        self._process: psutil.Process | None = None
        self._code: int | None = None
        self._lock = Lock()  # `kill` comes from another thread than the rest

    @property
    def pid(self) -> int:
        """Its process id; the server's, as long as that is loading the model."""
        self.poll()
        return self._server.process.pid if self._process is None else self._process.pid

    @property
    def server_errors(self) -> IO[bytes]:
        """The server's stderr, for a worker that was never forked."""
        return self._server.errors

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives."""
        with self._lock:
            while self._code is None and self._status.poll():
                try:
                    value = self._status.recv()
                except (EOFError, OSError):  # the server is dead, and so are its workers
                    self._code = self._server.end()
                    break
                if self._is_forked:
                    self._code = value
                else:
                    self._is_forked = True
                    with suppress(psutil.NoSuchProcess):  # its exit code is on the way
                        self._process = psutil.Process(value)
        return self._code

    def kill(self) -> None:
        """Kill it; before it is forked, its server."""
        if self.poll() is not None:
            return
        if self._process is not None:
            with suppress(psutil.NoSuchProcess):
                self._process.kill()
        elif not self._is_forked:
            self._server.process.kill()

    def wait(self, timeout: float = _PATIENCE) -> int:
        """Wait for its exit code. Raises subprocess.TimeoutExpired."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if (left := end - time.monotonic()) <= 0:
                raise subprocess.TimeoutExpired("worker", timeout)
            self._status.poll(left)
        return code

    def close(self) -> None:
        """Free the pipe, when the process has ended."""
        self._status.close()
