"""The same work on many tasks, in processes of their own; memory stays flat however many tasks there are."""

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

Task = TypeVar("Task")
Result = TypeVar("Result")

_AHEAD = 4  # tasks handed out for each worker


def run_tasks(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int | None = None
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, in any order. An error ends all; what was yielded by then is done.

    Args:
        work: a function of a module, called in another process.
        tasks: asked for as they are needed.
        workers: processes; None takes one a core, 0 none but this one.

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
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_end_with_driver) as pool:
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


def _end_with_driver() -> None:
    """A driver that is killed takes its workers along: they would go on writing, and then wait for ever."""
    driver = multiprocessing.parent_process()
    assert driver is not None

    def watch() -> None:
        driver.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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
