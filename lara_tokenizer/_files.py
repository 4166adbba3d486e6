"""Files and folders: atomic replacement, folder swap, locks and digests.

The rule for the files this package writes: a reader sees the old file or the new one, complete, and what was reported
as written survives a power cut. So new content is written beside the target, synced to disk, renamed over it
(`os.replace` is atomic), and the folder that holds the name is synced too. The exception is `replace_folder` where the
system cannot exchange two folders: that takes two renames, so for a moment, and after a kill in between until the next
run, there is no folder of that name; the old one is then in `previous`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

try:
    import fcntl
except ImportError:  # Windows has no such locks; there the caller must take care
    fcntl = None  # type: ignore[assignment]

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_RENAME_SWAP = 2  # sys/stdio.h of macOS
# Seconds by which the time at which a process began may seem to change when the clock is set.
_CLOCK_DRIFT = 60


def write_atomically(file: Path, text: str) -> None:
    """Write a small UTF-8 text file, whole or not at all.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_atomically(folder / "job.json", "{}")
    >>> [path.name for path in folder.iterdir()]
    ['job.json']
    """
    unfinished = file.with_name(file.name + ".tmp")
    try:
        unfinished.write_text(text, encoding="utf-8")
        replace(unfinished, file)
    except BaseException:
        unfinished.unlink(missing_ok=True)  # on a full disk its bytes are needed
        raise


def append_line(file: Path, line: str) -> None:
    """Append a line to a UTF-8 text file, durably."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")
        stream.flush()
        os.fsync(stream.fileno())


def replace(unfinished: Path, target: Path, *, durable: bool = True) -> None:
    """Give a finished file or folder its name, replacing a file (or an empty folder) of that name.

    Args:
        unfinished: on the same file system as `target`; files in an unfinished folder are synced by who wrote them.
        target: its name from now on.
        durable: sync file and name to disk first; False for the many small files of a folder that is not yet in use.
    """
    if durable and unfinished.is_file():
        sync(unfinished)
    os.replace(unfinished, target)
    if durable:
        sync(target.parent)


def replace_folder(new: Path, target: Path, previous: Path) -> None:
    """Give folder `new` the name `target`; a folder of that name is removed.

    In one step where the system can exchange two folders. Else the old one is renamed to `previous` first, and between
    the two renames there is no `target`; where that must never happen, use `swap_folders`.
    """
    shutil.rmtree(previous, ignore_errors=True)
    if target.exists():
        try:
            swap_folders(new, target)
        except OSError:
            os.replace(target, previous)
        else:
            sync(target.parent)
            shutil.rmtree(new, ignore_errors=True)
            return
    replace(new, target)
    shutil.rmtree(previous, ignore_errors=True)


def swap_folders(one: Path, other: Path) -> None:
    """Exchange the names of two folders of one file system atomically: renameat2 on Linux, renamex_np on macOS.

    Raises:
        OSError: the system, or the file system, cannot do it in one step. There is no fallback: two renames would
            leave no folder of that name for a moment, and for good after a kill in between.
    """
    names = os.fsencode(one), os.fsencode(other)
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        failed = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE))
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(*names, ctypes.c_uint(_RENAME_SWAP))
    else:
        raise OSError(f"{sys.platform} cannot exchange two folders in one step")
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one), None, str(other))


def check_swap(parent: Path) -> None:
    """Try `swap_folders` on two empty folders in `parent`. Raises ValueError where it cannot be done there."""
    try:
        with scratch_folder(parent, "exchange-one") as one, scratch_folder(parent, "exchange-other") as other:
            swap_folders(one, other)
    except OSError as error:
        raise ValueError(
            f"{parent}: two folders cannot exchange their names in one step there ({error}), and in two steps a kill "
            "could leave no dataset. Write a new dataset with --out."
        ) from error


@contextmanager
def exclusive(file: Path, what: str) -> Iterator[None]:
    """An exclusive lock on an existing `file` while the block runs; the system releases it if the process is killed.

    Raises OSError, naming `what`, where another process holds the lock, or has replaced or removed the file meanwhile.
    """
    with file.open("rb") as stream:
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(f"{what} is being written by another process. Wait for it.") from None
        # The other process may have finished, and replaced the file, between our open and our lock.
        if not file.exists() or not os.path.samestat(os.fstat(stream.fileno()), file.stat()):
            raise OSError(f"{what} was just written by another process.")
        yield


def check_new_folder(out: str | Path) -> None:
    """Raise ValueError for a file, or a folder with files."""
    if Path(out).exists() and not is_empty_folder(Path(out)):
        raise ValueError(f"{out} exists already and is not an empty folder. Name a new one with --out.")


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """A scratch folder beside `out` that takes its name when the block ends without an error, else is removed.

    Raises ValueError where `out` is a file or a folder with files.
    """
    out = Path(out)
    check_new_folder(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(out.parent, out.name) as scratch:
        yield scratch
        if out.exists():
            out.rmdir()
        replace(scratch, out)


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """A hidden folder in `parent` for unfinished files, removed at the end in any case.

    Those of the same `name` that killed processes of this machine left are removed first.
    """
    sweep(parent, name)
    scratch = parent / _scratch_name(name)
    scratch.mkdir()
    try:
        # A process in another container may have our number; the system knows who lives.
        with _held(scratch):
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder that nobody may find half removed: it loses its name first. Raises OSError if it cannot."""
    scratch = folder.with_name(_scratch_name(folder.name))
    os.replace(folder, scratch)
    shutil.rmtree(scratch, ignore_errors=True)


def sweep(parent: Path, name: str) -> None:
    """Remove the scratch folders of a name whose processes ran on this machine and are dead, and no others."""
    pattern = re.compile(rf"{re.escape(_scratch_prefix(name))}(\d+)\.(\d+)\.[0-9a-f]+\.partial")
    try:
        entries = [(path, match) for path in parent.iterdir() if (match := pattern.fullmatch(path.name))]
    except OSError:
        return
    for path, match in entries:
        started = _started(int(match[1]))
        if started is not None and abs(started - int(match[2])) < _CLOCK_DRIFT:
            continue
        with suppress(OSError), _held(path):
            shutil.rmtree(path, ignore_errors=True)


def _scratch_name(name: str) -> str:
    """A new name that says whose it is: machine, process and the second in which that began."""
    process = os.getpid()
    return f"{_scratch_prefix(name)}{process}.{_started(process)}.{secrets.token_hex(4)}.partial"


def _scratch_prefix(name: str) -> str:
    # A name has 255 bytes on most file systems.
    short = name if len(os.fsencode(name)) <= 100 else hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return f".{short}.{_machine()}."


def _machine() -> str:
    return re.sub(r"[^0-9A-Za-z-]", "-", platform.node())[:40]


def _started(process: int) -> int | None:
    """The second in which a process began; None if there is none of this number."""
    try:
        return int(psutil.Process(process).create_time())
    except psutil.Error:
        return None


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """A lock on a folder while the block runs, where the file system has locks. Raises BlockingIOError if held."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a network file system without locks of folders
            pass
        yield
    finally:
        os.close(descriptor)


def is_empty_folder(path: Path) -> bool:
    """Whether `path` is a folder without entries."""
    return path.is_dir() and not any(path.iterdir())


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(file: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_sha256(root: Path, files: Iterable[Path]) -> str:
    """Hex SHA-256 over names (relative to `root`) and contents of `files`, in sorted order."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()


def available_cores() -> int:
    """CPU cores that this process may use (its affinity mask, where the system has one)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def summarize_names(names: Iterable[str] | Mapping[str, object], shown: int = 4) -> str:
    """The first names of a list and the count of the others, for messages.

    >>> summarize_names("abcdef", 3), summarize_names("ab")
    ('a, b, c and 3 more', 'a, b')
    """
    names = list(names)
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
