"""Worker processes of an export: they end with their parent, and one that dies ends the run with one line."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from lara_tokenizer._files import available_cores
from lara_tokenizer.errors import LaraTokenizerError

_AHEAD = 4  # tasks queued per worker: enough to keep it busy, few enough to hold in memory

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int | None = None
) -> Iterator[tuple[Task, Result]]:
    """Run `work` on each task and yield both, in any order; the first error ends the run.

    Args:
        work: a function at the top level of a module, called in another process.
        tasks: consumed lazily, a few tasks ahead of the workers.
        workers: processes; None uses one per core, 0 runs in this process.

    >>> sorted(run_tasks(abs, [-1, 2], workers=0))
    [(-1, 1), (2, 2)]
    """
    if workers is None:
        workers = available_cores()
    if workers == 0:
        for task in tasks:
            yield task, work(task)
        return
    # Spawned: readers may hold open decoders, which do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_exit_with_parent) as pool:
        running: dict[Future[Result], Task] = {}
        try:
            for task in tasks:
                running[pool.submit(work, task)] = task
                if len(running) >= workers * _AHEAD:
                    yield from _finished(running)
            while running:
                yield from _finished(running)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _exit_with_parent() -> None:
    """End this worker when its parent dies: after a kill it would go on writing, then wait for tasks forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


def _finished(running: dict[Future[Result], Task]) -> Iterator[tuple[Task, Result]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        task = running.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool:
            raise LaraTokenizerError(
                "a worker process died: out of memory, or killed. What is finished is kept: run the same command "
                "again, with fewer --workers."
            ) from None
        yield task, result
