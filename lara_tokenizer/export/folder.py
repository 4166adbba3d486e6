"""The folder of an export: it has its name once it is whole; one that was cut short is continued.

<out>.partial/          while the export runs
    job.json            which table, which options: only the same export may go on
    done.txt            names of finished parts, a line each
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.export.lock import locked
from lara_tokenizer.table.metadata import differences

_JOB, _DONE, _EXPORT = "job.json", "done.txt", "export"


class ExportFolder:
    """An export in progress. Parts (an episode's pictures, a shard) are made once, however often it is killed.

    Fields:
        path: where to write.
    """

    def __init__(self, partial: Path) -> None:
        self.path, self._done_file = partial / _EXPORT, partial / _DONE
        # The last line may be cut short by a kill; that part is made again. Without the folder nothing is done: it has
        # its own name already.
        is_begun = self.path.exists() and self._done_file.exists()
        self._done = set(self._done_file.read_text(encoding="utf-8").split("\n")[:-1]) if is_begun else set()
        self._done_file.write_text("".join(f"{name}\n" for name in sorted(self._done)), encoding="utf-8")
        self.path.mkdir(exist_ok=True)

    def is_done(self, part: str) -> bool:
        """Whether `part` was finished, by this run or an earlier one."""
        return _one_line(part) in self._done

    def mark_done(self, part: str) -> None:
        """Remember that `part` is whole: what was written for it is closed by now. (After a kill, that is; what a
        power cut takes with it is not known here.)"""
        name = _one_line(part)
        with self._done_file.open("a", encoding="utf-8") as stream:
            stream.write(f"{name}\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._done.add(name)


@contextmanager
def export_folder(out: str | os.PathLike[str], job: Mapping[str, Any]) -> Iterator[ExportFolder]:
    """A folder to write in, which becomes `out` when the block ends well. After an error, or a kill, what is there
    waits for the same call to go on.

    Args:
        out: a new folder.
        job: all that decides the bytes, as plain JSON: see `manifest.export_job`.

    Raises:
        ValueError: `out` exists. JobMismatchError: an unfinished export of something else waits there.
        OSError: another process is at it.
    """
    target = Path(os.path.realpath(out))
    partial = target.with_name(target.name + ".partial")
    _remove_leftover(partial)
    check_new(target)
    _check_replaceable(target)
    job_file = _begin(partial, job)
    with locked(job_file, str(target)):
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
            os.replace(folder.path, target)
            # The export is whole; what is left here, the next call removes, perhaps while we do.
            shutil.rmtree(partial, ignore_errors=True)
        except OSError as error:
            raise OSError(
                f"{target} cannot be written ({error.strerror or error}). What is finished waits in {partial}: run the "
                "same command again once that is mended, or delete it."
            ) from error


def _begin(partial: Path, job: Mapping[str, Any]) -> Path:
    """The job's file, written where there is none. Raises ValueError where `partial` is something else."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot write to {partial.parent}: {error.strerror}. Name another --out.") from error
    job_file, unfinished = partial / _JOB, partial / f"{_JOB}.tmp"
    if not job_file.exists():
        if any(entry != unfinished for entry in partial.iterdir()):
            raise ValueError(f"{partial} exists and is no unfinished export. Move it away, or name another --out.")
        unfinished.write_text(json.dumps(job, indent=2, sort_keys=True), encoding="utf-8")
        os.replace(unfinished, job_file)
    return job_file


def _remove_leftover(partial: Path) -> None:
    """What is left where a run was killed after its export had got its name."""
    done = partial / _DONE
    if (partial / _JOB).exists() and not (partial / _EXPORT).exists() and done.exists() and done.stat().st_size:
        shutil.rmtree(partial)


def _check_replaceable(target: Path) -> None:
    """Raises ValueError for an empty folder that cannot be replaced, before anything is written."""
    if target.is_dir() and (target.is_mount() or target == Path.cwd()):
        raise ValueError(f"{target} is a mount point or the working folder. Name a new folder in it.")


def check_new(out: Path) -> None:
    """Raises ValueError where `out` exists, but for an empty folder."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} exists already. Name a new --out, or delete it.")


def remove_unfinished(path: Path) -> None:
    """What a killed run left of one part."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _one_line(part: str) -> str:
    """A name as one line of a file."""
    return part.encode("unicode_escape").decode()
