"""The output folder of an export and the worker processes that fill it.

It gets its name once it is complete, and an interrupted export is continued:

<out>.partial/          while the export runs
    job.json            the table and all options: only the same export may continue
    done.txt            names of finished parts, one per line
    export/             becomes <out>
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lara_tokenizer._files import append_line, available_cores, exclusive, is_empty_folder, replace, write_atomically
from lara_tokenizer.errors import JobMismatchError, LaraTokenizerError
from lara_tokenizer.table.metadata import differences

_JOB, _DONE, _EXPORT = "job.json", "done.txt", "export"
_AHEAD = 4  # tasks queued per worker: enough to keep it busy, few enough to hold in memory

Progress = Callable[[int, int], object]  # called with (done, total) items
Task = TypeVar("Task")
Result = TypeVar("Result")


class PartTask(Protocol):
    """A task that produces one part of an export."""

    @property
    def part(self) -> str:
        """The name under which the export's folder records that the part is finished."""


Part = TypeVar("Part", bound=PartTask)


class ExportFolder:
    """An export in progress, whose parts (an episode's images, a shard) are produced once, however often it is killed.

    Attributes:
        path: the folder to write in.
    """

    def __init__(self, partial: Path) -> None:
        self.path = partial / _EXPORT
        self._done_file = partial / _DONE
        # The last line may be cut short by a kill; that part is produced again. If the folder is missing, it was
        # renamed already, and nothing of a new export is done.
        is_begun = self.path.exists() and self._done_file.exists()
        self._done = set(self._done_file.read_text(encoding="utf-8").split("\n")[:-1]) if is_begun else set()
        self._done_file.write_text("".join(f"{name}\n" for name in sorted(self._done)), encoding="utf-8")
        self.path.mkdir(exist_ok=True)

    def is_done(self, part: str) -> bool:
        """Check whether `part` was finished, by this run or an earlier one."""
        return _one_line(part) in self._done

    def mark_done(self, part: str) -> None:
        """Record that `part` is complete: all its files are closed.

        A killed run loses nothing that was recorded; a power cut may.
        """
        name = _one_line(part)
        append_line(self._done_file, name)
        self._done.add(name)

    def run_tasks(
        self,
        work: Callable[[Part], object],
        tasks: Iterable[Part],
        workers: int | None = None,
        on_done: Callable[[Part], object] | None = None,
    ) -> None:
        """Run `work` on every task whose part is not finished yet, and record those parts.

        Args:
            work: a function at the top level of a module, called in another process.
            tasks: consumed lazily.
            workers: processes; None uses one per core, 0 runs in this process.
            on_done: called with each task whose part is finished, by this run or an earlier one.

        Raises the first error of `work`; parts that are finished by then stay recorded.
        """

        def unfinished() -> Iterator[Part]:
            for task in tasks:
                if not self.is_done(task.part):
                    yield task
                elif on_done is not None:
                    on_done(task)

        for task, _ in run_tasks(work, unfinished(), workers):
            self.mark_done(task.part)
            if on_done is not None:
                on_done(task)


def counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """A function of the count of newly finished items that reports (done, total) to `progress`."""
    done = 0

    def show(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    return show


@contextmanager
def export_folder(out: str | os.PathLike[str], job: Mapping[str, Any]) -> Iterator[ExportFolder]:
    """A folder to write in that becomes `out` when the block ends without an error.

    After an error, or a kill, the unfinished folder remains, and the same call continues it.

    Args:
        out: a new folder.
        job: everything that decides the bytes, as plain JSON; see `job.ExportJob`.

    Raises:
        ValueError: `out` exists.
        JobMismatchError: there is an unfinished export of something else.
        OSError: another process is writing it, or it cannot be written.
    """
    target = Path(os.path.realpath(out))
    partial = target.with_name(target.name + ".partial")
    _remove_leftover(partial)
    check_new(target)
    _check_replaceable(target)
    job_file = _begin(partial, job)
    with exclusive(job_file, str(target)):
        changed = differences(json.loads(job_file.read_text(encoding="utf-8")), json.loads(json.dumps(job)))
        if changed:
            raise JobMismatchError(
                f"{partial} is the unfinished export of another job: {'; '.join(changed)}. Delete it, or name another "
                "--out."
            )
        try:
            folder = ExportFolder(partial)
            yield folder
            if target.exists():  # an empty folder
                target.rmdir()
            replace(folder.path, target)
            # The export is complete. If this removal is interrupted, the next call finishes it.
            shutil.rmtree(partial, ignore_errors=True)
        except OSError as error:
            raise OSError(
                f"{target} cannot be written ({error.strerror or error}). Finished parts are kept in {partial}: run "
                "the same command again once that is fixed, or delete it."
            ) from error


def check_new(out: Path) -> None:
    """Raises ValueError where `out` exists and is not an empty folder."""
    if out.exists() and not is_empty_folder(out):
        raise ValueError(f"{out} exists already. Name a new --out, or delete it.")


def _begin(partial: Path, job: Mapping[str, Any]) -> Path:
    """The job's file, written unless it exists. Raises ValueError where `partial` is something else."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot create the folder {partial}: {error.strerror}. Name another --out.") from error
    job_file, unfinished = partial / _JOB, partial / f"{_JOB}.tmp"
    if not job_file.exists():
        if any(entry != unfinished for entry in partial.iterdir()):
            raise ValueError(f"{partial} exists and is no unfinished export. Move it away, or name another --out.")
        write_atomically(job_file, json.dumps(job, indent=2, sort_keys=True))
    return job_file


def _remove_leftover(partial: Path) -> None:
    """Remove what a run left that was killed after its export had been renamed."""
    done = partial / _DONE
    if (partial / _JOB).exists() and not (partial / _EXPORT).exists() and done.exists() and done.stat().st_size:
        shutil.rmtree(partial)


def _check_replaceable(target: Path) -> None:
    """Raises ValueError for an empty folder that cannot be replaced, before anything is written."""
    if target.is_dir() and (target.is_mount() or target == Path.cwd()):
        raise ValueError(f"{target} is a mount point or the working folder. Name a new folder in it.")


def _one_line(part: str) -> str:
    """A part's name as one line of text."""
    return part.encode("unicode_escape").decode()


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
