"""`Driver`: a command of `lara-tok` that can be killed, at a moment or at a named point, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
from fuzz.forked import Finished, Forked, command
from fuzz.video import end_session

_PATIENCE = 15.0  # seconds in which the processes of a dead driver have to end
Hook = Callable[[], None]


class Driver:
    """A running command, in a session of its own, with a temporary folder of its own.

    Args:
        arguments: of `lara-tok`.
        folder: where it works; `tmp` in it is its temporary folder.
        hook: called in the process before the command, to place a kill or a fault.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, hook: Hook | None = None) -> None:
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        self._child = Forked(_run, list(arguments), folder, hook)

    def signal_after(self, seconds: float, number: int) -> None:
        """Send a signal to the driver after some seconds, unless it has ended by then."""
        time.sleep(seconds)
        try:
            os.kill(self._child.process, number)
        except ProcessLookupError:
            return

    def kill_worker(self, seconds: float) -> bool:
        """Kill the first worker process that appears within `seconds`; whether there was one."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                children = psutil.Process(self._child.process).children(recursive=True)
                if children:
                    # On Linux the first is the process that forks the workers, the last a worker, once there is one.
                    children[-1].kill()
                    return True
            except psutil.Error:
                return False
            time.sleep(0.01)
        return False

    def wait(self) -> Finished:
        """Wait for the end; a command that takes two minutes hangs."""
        return self._child.wait(120)

    def orphans(self) -> int:
        """The processes of the session that are still there some seconds after the driver's end; they are killed."""
        deadline = time.monotonic() + _PATIENCE
        while (left := _in_session(self._child.process)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            end_session(self._child.process)
        return left


def run_real(arguments: Sequence[str], folder: Path, seconds: float, number: int) -> int | None:
    """`lara-tok` as a program of its own, to which a signal is sent after some seconds: its exit code."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "lara_tok", *arguments], cwd=folder, env=os.environ | {"TMPDIR": str(folder / "tmp")},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        return process.wait(60)
    finally:
        deadline = time.monotonic() + _PATIENCE
        while (left := _in_session(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            end_session(process.pid)
            raise RuntimeError(f"{left} orphans of lara-tok {' '.join(arguments)}")


def kill_at(point: str, call: int, number: int, *, after: bool) -> Hook:
    """A hook that sends the process a signal at a call of a function.

    Args:
        point: "module:function" or "module:Class.method".
        call: which one, from 1.
        number: the signal.
        after: once the function has returned, not before it is called.
    """
    return lambda: act_at(point, call, lambda: os.kill(os.getpid(), number), after=after)


def act_at(point: str, call: int, action: Callable[[], Any], *, after: bool) -> None:
    """Replace a function by itself with an `action` before, or after, one of its calls."""
    module, _, path = point.partition(":")
    holder = import_module(module)
    *owners, name = path.split(".")
    for owner in owners:
        holder = getattr(holder, owner)
    function, calls = getattr(holder, name), 0

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            action()
        result = function(*arguments, **keywords)
        if calls == call and after:
            action()
        return result

    setattr(holder, name, wrapped)


def _run(arguments: Sequence[str], folder: Path, hook: Hook | None) -> None:
    """Body of the child."""
    import tempfile

    tempfile.tempdir = str(folder / "tmp")
    os.environ["TMPDIR"] = tempfile.tempdir
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    if hook is not None:
        hook()
    command(arguments, folder)


def _in_session(session: int) -> int:
    """Living processes of a session."""
    count = 0
    for process in psutil.process_iter(["status"]):
        try:
            count += os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE
        except (OSError, psutil.Error):
            continue
    return count
