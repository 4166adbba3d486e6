"""The output folder of an export.

It gets its name once it is complete, and an interrupted export is continued:

<out>.partial/          while the export runs
    job.json            the table, all options and the state of the source: only the same export may continue
    done.txt            digests and names of finished parts, one per line
    scratch/            for what only the export itself reads
    export/             becomes <out>
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lara_tokenizer._files import (
    append_line,
    exclusive,
    is_empty_folder,
    replace,
    summarize_names,
    write_atomically,
)
from lara_tokenizer._parse import read_json
from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.export.tasks import run_tasks
from lara_tokenizer.table.metadata import differences

_JOB, _DONE, _SCRATCH, _EXPORT = "job.json", "done.txt", "scratch", "export"
_CHUNK = 2**20  # bytes
_SOURCE = "source_state"  # entry of the job's file

Progress = Callable[[int, int], object]  # called with (done, total) items


class PartTask(Protocol):
    """A task that produces one part of an export."""

    @property
    def part(self) -> str:
        """The name under which the export's folder records that the part is finished."""

    @property
    def files(self) -> list[Path]:
        """The files that the part consists of."""


Part = TypeVar("Part", bound=PartTask)


class ExportFolder:
    """An export in progress, whose parts (an episode's images, a shard) are produced once, however often it is killed.

    A part that an earlier run finished is taken only if its files are still those that were written: a power cut may
    have emptied them, and a disk may have changed them.

    Attributes:
        path: the folder to write in.
        scratch: a folder for files that are not exported; it is removed with the last part.
    """

    def __init__(self, partial: Path) -> None:
        self.path, self.scratch = partial / _EXPORT, partial / _SCRATCH
        self._root = partial
        self._done_file = partial / _DONE
        # Digest by part. If the folder is missing, it was renamed already, and nothing of a new export is done.
        is_begun = self.path.exists() and self._done_file.exists()
        self._done = _read_done(self._done_file) if is_begun else {}
        self._seen: set[str] = set()  # those of this run, and those of earlier ones whose files were compared
        lines = "".join(f"{digest} {name}\n" for name, digest in sorted(self._done.items()))
        write_atomically(self._done_file, lines)
        self.path.mkdir(exist_ok=True)
        self.scratch.mkdir(exist_ok=True)

    def is_done(self, part: str, files: Iterable[Path]) -> bool:
        """Check whether `part` was finished, by this run or an earlier one, and its files are as they were."""
        name = _one_line(part)
        if name in self._done and name not in self._seen:
            if files_digest(self._root, files) == self._done[name]:
                self._seen.add(name)
            else:
                del self._done[name]
        return name in self._done

    def mark_done(self, part: str, files: Iterable[Path]) -> None:
        """Record that `part` is complete: all its files are closed.

        A killed run loses nothing that was recorded; a power cut may.
        """
        digest = files_digest(self._root, files)
        assert digest is not None, part
        self._record(part, digest)

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
        # The workers compare the files of earlier runs, too.
        known = ((task, self._done.get(_one_line(task.part))) for task in tasks)
        for (task, before), digest in run_tasks(partial(_finish, work, self._root), known, workers):
            if digest != before:
                self._record(task.part, digest)
            self._seen.add(_one_line(task.part))
            if on_done is not None:
                on_done(task)

    def _record(self, part: str, digest: str) -> None:
        name = _one_line(part)
        append_line(self._done_file, f"{digest} {name}")
        self._done[name] = digest
        self._seen.add(name)


def files_digest(root: Path, files: Iterable[Path]) -> str | None:
    """Hex SHA-256 over names, sizes and contents of files below `root` in the given order; None if one is missing."""
    digest, inside = hashlib.sha256(), len(os.fsencode(root))
    try:
        for file in files:
            digest.update(b"%d %b\0" % (file.stat().st_size, os.fsencode(file)[inside:]))
            with file.open("rb", buffering=0) as stream:  # thousands of small files: a buffer for each takes time
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return digest.hexdigest()


def _finish(work: Callable[[Part], object], root: Path, known: tuple[Part, str | None]) -> str:
    """The digest of a task's part, after `work` where its files are not those of the digest that is known."""
    task, before = known
    if before is None or files_digest(root, task.files) != before:
        work(task)
        before = files_digest(root, task.files)
        assert before is not None, task.part
    return before


def _read_done(file: Path) -> dict[str, str]:
    """The digest of each finished part. The last line may be cut short by a kill; that part is produced again."""
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return {name: digest for digest, _, name in (line.partition(" ") for line in lines)}


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
def export_folder(
    out: str | os.PathLike[str], job: Mapping[str, Any], source: Mapping[str, str] | None = None
) -> Iterator[ExportFolder]:
    """A folder to write in that becomes `out` when the block ends without an error.

    After an error, or a kill, the unfinished folder remains, and the same call continues it.

    Args:
        out: a new folder.
        job: everything that decides the bytes, as plain JSON; see `job.ExportJob`.
        source: the state of each episode that is read, by name; see `source_state`.

    Raises:
        ValueError: `out` exists.
        JobMismatchError: there is an unfinished export of something else, or of the source before it changed.
        OSError: another process is writing it, or it cannot be written.
    """
    target = Path(os.path.realpath(out))
    partial = target.with_name(target.name + ".partial")
    _remove_leftover(partial)
    check_new(target)
    _check_replaceable(target)
    content = json.loads(json.dumps({**job, _SOURCE: dict(source or {})}))
    job_file = _begin(partial, content)
    with exclusive(job_file, str(target)):
        _check_same_job(job_file, content)
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


def _check_same_job(job_file: Path, job: dict[str, Any]) -> None:
    """Raises JobMismatchError where the file is of another job, ValueError where it is damaged."""
    partial = job_file.parent
    recorded = read_json(job_file)
    if not isinstance(recorded, dict) or not isinstance(recorded.get(_SOURCE), dict):
        raise ValueError(f"{job_file}: not the job of an unfinished export. Delete {partial}, or name another --out.")
    before, now = recorded.pop(_SOURCE), dict(job)
    source = now.pop(_SOURCE)
    if changed := differences(recorded, now):
        raise JobMismatchError(
            f"{partial} is the unfinished export of another job: {'; '.join(changed)}. Delete it, or name another "
            "--out."
        )
    if changed := sorted(name for name in {*before, *source} if before.get(name) != source.get(name)):
        raise JobMismatchError(
            f"{partial} is an unfinished export that was begun before its source changed: {summarize_names(changed)}. "
            "Delete it, or name another --out."
        )


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
