"""Ordinary scheduling around an encoder that takes real-time priority."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ordinary_scheduling() -> Iterator[None]:
    """Restore the scheduling of the calling thread after the block.

    libsvtav1, run by root, gives the thread that opens it real-time priority, for good and for all of its child
    processes: a test run then starves whatever else the machine does.
    """
    if not hasattr(os, "sched_getscheduler"):  # only Linux has it
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)
