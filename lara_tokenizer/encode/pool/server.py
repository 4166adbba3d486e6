"""The process that forks workers: it loads torch and the model once, then serves requests, on one thread.

A fork copies only the thread that calls it, and whatever locks others hold stay locked; so this process starts none.
(The memory allocator of pyarrow has one, and stops it while a process forks.)
The kernel shares its pages with the workers until they are written to.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

Serve = Callable[[Connection], None]
REQUEST = b"f"
DESCRIPTORS = 3  # of a request: the worker's pipe, the pipe for its process id and exit code, the file for its stderr
_PR_SET_PDEATHSIG = 1


def serve(descriptor: int, prepare: Callable[[bytes], Serve]) -> None:
    """Receive the setup, prepare for it, then fork a worker for each request, until the driver closes the socket.

    Args:
        descriptor: of a socket to the driver.
        prepare: makes, from the pickled setup, what a worker runs on its pipe.
    """
    control = socket.socket(fileno=descriptor)
    receiving = Connection(os.dup(descriptor))
    setup = receiving.recv_bytes()
    receiving.close()
    work = prepare(setup)
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    # A child's end writes to the pipe, and so ends the wait of `select`.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    workers: dict[int, Connection] = {}
    sources: list[Any] = [control, wake]
    while True:
        ready = select.select(sources, [], [])[0]
        if wake in ready:
            os.read(wake, 4096)
        _reap(workers, os.WNOHANG)
        if control in ready:
            request, descriptors, _, _ = socket.recv_fds(control, len(REQUEST), DESCRIPTORS)
            if not request:
                break
            pipe, status, errors = descriptors
            server = os.getpid()
            process = os.fork()
            if process == 0:
                control.close()
                for connection in workers.values():
                    connection.close()
                for each in (wake, waker, status):
                    os.close(each)
                _work(work, pipe, errors, server)
            workers[process] = Connection(status)
            workers[process].send(process)
            os.close(pipe)
            os.close(errors)
    for process in workers:
        os.kill(process, signal.SIGKILL)
    _reap(workers, 0)


def _reap(workers: dict[int, Connection], options: int) -> None:
    """Tell the driver the exit codes of the workers that have ended."""
    while workers:
        process, status = os.waitpid(-1, options)
        if process == 0:
            return
        pipe = workers.pop(process)
        with suppress(ConnectionError):  # the driver has lost interest
            pipe.send(os.waitstatus_to_exitcode(status))
        pipe.close()


def _work(work: Serve, pipe: int, errors: int, server: int) -> None:
    """Be a worker. Never returns: the frames above are the server's."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        threading.Thread(target=_end_with_server, args=(server,), daemon=True).start()
        os.dup2(errors, 2)
        os.close(errors)
        work(Connection(pipe))
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _end_with_server(server: int) -> None:
    while os.getppid() == server:
        time.sleep(1)
    os._exit(1)
