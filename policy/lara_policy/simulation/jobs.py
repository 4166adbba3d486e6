"""Jobs of many simulated episodes: worker processes that render, and the check that a folder holds the same job."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lara_policy.simulation.rendering import choose_gl_backend, gl_environment
from lara_tokenizer.errors import missing_extra


def require_metaworld() -> None:
    """Raise ImportError, naming the extra to install, if Meta-World or MuJoCo is missing."""
    for package in ("metaworld", "mujoco"):
        if find_spec(package) is None:
            raise missing_extra(package, "sim")


def check_same_job(folder: Path, holds: str, recorded: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """Raise ValueError, listing the differences, if a folder's recorded job is not this one.

    Args:
        folder: the folder of the results.
        holds: the kind of its results, e.g. "episodes".
        recorded, job: everything that decides the results, as JSON types.
    """
    differing = [key for key in {**job, **recorded} if recorded.get(key) != job.get(key)]
    if differing:
        was = "; ".join(f"{key} was {recorded.get(key)!r}, is {job.get(key)!r}" for key in differing)
        raise ValueError(f"{folder} holds {holds} of another job ({was}): use another folder, or remove it")


def run_rendering_jobs(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    workers: int | None,
    initializer: Callable[[], None] | None = None,
) -> Generator[Any, None, None]:
    """Yield `function(*job)` of each job, as they end in worker processes that can render; no job, no process.

    Args:
        function: a module-level function.
        workers: processes; None for one per core.
        initializer: called once in each process.

    Raises:
        OSError: no OpenGL backend works, or a process was killed.
    """
    if not jobs:
        return
    # Children read the backend from the environment before they import mujoco.
    os.environ.update(gl_environment(choose_gl_backend()))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    processes = min(workers or os.cpu_count() or 1, len(jobs))
    # Spawned, not forked: a forked child would share the parent's OpenGL state.
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=initializer)
    try:
        for future in as_completed([pool.submit(function, *job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise OSError(
            "a simulation process was killed (too little memory?): run the same command again, with fewer workers if "
            "need be; episodes that are in its output folder (--out) are not repeated"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C: jobs that have not started are dropped
