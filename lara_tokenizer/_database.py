"""An SQLite file as the state of a job: one writer at a time, damage noticed, errors in plain words."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lara_tokenizer.errors import LaraTokenizerError


class DatabaseError(OSError):
    """A job's database cannot be read or written; the message names its folder and says what to do."""


class DatabaseInUseError(LaraTokenizerError):
    """Another run holds the database."""


def make_folder(folder: Path, database: str, others: Collection[str]) -> None:
    """Make a job's folder, unless it is there.

    Args:
        folder: may hold a database, and files that match `others`, a list of globs.
        database: name of its file.
        others: names of what a killed run may leave.

    Raises OSError where it cannot be made, or holds files of somebody else, which would be deleted with it one day.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise OSError(f"cannot create the folder {folder}: {error.strerror}. Name another --out.") from error
    globs = (f"{database}*", *others)
    if foreign := [name for name in names if not any(fnmatchcase(name, glob) for glob in globs)]:
        raise OSError(f"{folder} is no job's folder: {foreign[0]} is in it. Move it away, or name another --out.")


def open_exclusively(file: Path) -> sqlite3.Connection:
    """Open a database, or create it, with a lock that is held until it is closed; the system ends it after a kill.

    There are no implicit transactions: see `transaction`. Raises what `translated_errors` translates.
    """
    # No waiting for the lock of another run.
    database = sqlite3.connect(file, isolation_level=None, timeout=0)
    try:
        # A damaged text is still to be read, so that its digest can tell.
        database.text_factory = lambda raw: raw.decode("utf-8", "replace")
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        # A power cut may lose the last commits, but never damages the database; a killed process loses nothing.
        database.execute("PRAGMA synchronous = NORMAL")
        with transaction(database):
            pass  # takes the lock
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block does, or none of it if it raises."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        # A full disk may have ended the transaction already.
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def check_intact(database: sqlite3.Connection, statements: Collection[str], folder: Path) -> None:
    """Raise DatabaseError for a database with damaged pages, or with other tables than these CREATE statements make.

    Indexes that do not agree with their tables are made again. Values in rows are not checked: see `row_sha256`.
    """
    tables = database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    if {sql for (sql,) in tables} != set(statements):
        raise damaged(folder, "its tables")
    ((answer, *_), *_) = database.execute("PRAGMA integrity_check(1)").fetchall()
    if answer != "ok":
        database.execute("REINDEX")
        ((answer, *_), *_) = database.execute("PRAGMA integrity_check(1)").fetchall()
    if answer != "ok":
        raise damaged(folder, str(answer).strip().splitlines()[-1])


def damaged(folder: Path, what: str) -> DatabaseError:
    """The error of a database that cannot be repaired."""
    return DatabaseError(f"{folder}: the job's database is damaged ({what}). Delete the folder to start over.")


def row_sha256(*values: Any, blob: Any = b"") -> str:
    """Hex SHA-256 of a row: of values of any type, as a damaged row may have them, and of bytes."""
    digest = hashlib.sha256(json.dumps(values, default=repr).encode())
    digest.update(blob if isinstance(blob, bytes) else repr(blob).encode())
    return digest.hexdigest()


@contextmanager
def translated_errors(folder: Path, *, has_results: bool = True) -> Iterator[None]:
    """Translate SQLite's errors: another run's lock, a full disk, an unusable file in `folder`.

    Args:
        has_results: whether the folder holds anything that the next run goes on with.
    """
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "locked" in text:
            raise DatabaseInUseError(
                f"{folder} is in use by another run. Wait for it to end, or name another --out."
            ) from error
        if "full" in text or "disk I/O" in text:
            kept = "What is done is kept; make room" if has_results else "Make room"
            raise DatabaseError(f"{folder}: the disk is full or failing. {kept} and run the same again.") from error
        raise DatabaseError(
            f"{folder}: the job's database cannot be used ({text}). Delete the folder to start over."
        ) from error
