"""`run_forked` and `run_command`: a function or a command in a forked child.

A crash, a hang or a memory bomb costs that call alone. The parent has imported torch and the project once; a fork takes
milliseconds where a new interpreter takes seconds.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SECONDS = 60.0  # longer is a hang
MEMORY = 3 * 2**30  # address space beyond what the parent has mapped; a child that wants more gets MemoryError


@dataclass(frozen=True, slots=True)
class Finished:
    """A child that ended.

    Attributes:
        code: exit code; negative for a signal; None for one that was killed after `SECONDS`.
        output: stdout and stderr together.
        peak: resident bytes.
        inherited: of these, bytes that the parent had resident when it forked.
        value: returned by the function; None if it did not return.
    """

    code: int | None
    output: str
    peak: int
    seconds: float
    value: Any = None
    inherited: int = 0


class Forked:
    """`function(*arguments)` running in a child, in a session of its own; `wait` for it.

    Args:
        memory: bytes of address space beyond what the parent has mapped.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any, memory: int = MEMORY) -> None:
        self._output, self._result = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self.started = time.monotonic()
        self._inherited = psutil.Process().memory_info().rss
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = os.fork()
        if self.process == 0:
            _be_child(function, arguments, self._output.fileno(), self._result.fileno(), memory)

    def wait(self, seconds: float = SECONDS) -> Finished:
        """Wait for the end, and kill the child once it has run for `seconds`."""
        status, usage = self._wait(self.started + seconds)
        with self._output as output, self._result as result:
            output.seek(0)
            result.seek(0)
            printed, pickled = output.read(), result.read()
        return Finished(
            code=None if status is None else os.waitstatus_to_exitcode(status),
            output=printed.decode("utf-8", "replace"),
            peak=usage.ru_maxrss * 1024,
            seconds=time.monotonic() - self.started,
            value=pickle.loads(pickled) if pickled else None,
            inherited=self._inherited,
        )

    def _wait(self, deadline: float) -> tuple[int | None, resource.struct_rusage]:
        """Exit status and resources; the status is None if the child had to be killed."""
        while True:
            ended, status, usage = os.wait4(self.process, os.WNOHANG)
            if ended:
                return status, usage
            if time.monotonic() > deadline:
                os.killpg(self.process, signal.SIGKILL)
                _, _, usage = os.wait4(self.process, 0)
                return None, usage
            time.sleep(0.005)


def run_forked(function: Callable[..., Any], *arguments: Any, seconds: float = SECONDS) -> Finished:
    """Call `function(*arguments)` in a child and wait for it; what it prints and returns comes back."""
    return Forked(function, *arguments).wait(seconds)


def run_command(arguments: Sequence[str], folder: Path) -> Finished:
    """`lara-tok ARGUMENTS` in `folder`, in a forked child: the real app, its real exit code, what it printed."""
    return run_forked(command, arguments, folder)


def command(arguments: Sequence[str], folder: Path) -> None:
    """Body of a child: `lara-tok ARGUMENTS` in `folder`."""
    from lara_tok.__main__ import main

    os.chdir(folder)
    sys.argv = ["lara-tok", *arguments]
    main()


def _be_child(function: Callable[..., Any], arguments: Sequence[Any], output: int, result: int, memory: int) -> None:
    """Body of the child; never returns."""
    code = 1
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # pytest has put its own there
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (mapped + memory, mapped + memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        value = function(*arguments)
        os.write(result, pickle.dumps(value))
        code = 0
    except SystemExit as stop:  # as the interpreter ends
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
