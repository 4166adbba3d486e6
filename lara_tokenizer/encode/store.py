"""`Store`: the state of a job on disk, `<out>.job/units.sqlite`. Each unit is committed as soon as it is done.

The driver is the only writer. SQLite's own lock, held for the whole run, excludes a second run. Rows are Arrow IPC
streams and plans are JSON, never pickles, so a later release can go on with a job.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lara_tokenizer.data import Episode
from lara_tokenizer.encode.plan import EpisodePlan, Unit
from lara_tokenizer.encode.tasks import Encoded, Event, Failure, Heartbeat, PlanTask, Task, UnitTask
from lara_tokenizer.errors import JobMismatchError, LaraTokenizerError
from lara_tokenizer.table.metadata import differences

_TABLES = """
CREATE TABLE IF NOT EXISTS job (fingerprint TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS episodes (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, pairs TEXT, frames INTEGER, notes TEXT, error TEXT
);
CREATE TABLE IF NOT EXISTS units (
    episode TEXT NOT NULL, camera TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    episode_index INTEGER, status TEXT NOT NULL, num_rows INTEGER, rows BLOB, decode_seconds REAL, model_seconds REAL,
    PRIMARY KEY (episode, camera, first)
);
"""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Seconds spent by all workers together, over all runs of the job."""

    decode: float
    model: float


class Store:
    """The state of one job. It is a context manager; leaving closes it, only `discard` deletes it.

    Args:
        folder: `<out>.job`; created if absent.
        fingerprint: options and weights that the rows depend on.
        episodes: of this run, by id. Stored results of other episodes are not touched, and enter no table.

    Raises:
        JobMismatchError: the folder belongs to a job with another fingerprint.
        LaraTokenizerError: another run holds the folder.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], episodes: Mapping[str, Episode]) -> None:
        self.folder = folder
        self._episodes = episodes
        folder.mkdir(parents=True, exist_ok=True)
        with _translated_errors(folder):
            # Explicit transactions, and no waiting for the lock of another run.
            self._database = sqlite3.connect(folder / "units.sqlite", isolation_level=None, timeout=0)
        try:
            with _translated_errors(folder):
                self._begin(fingerprint)
        except BaseException:
            self._database.close()
            raise

    def _begin(self, fingerprint: Mapping[str, Any]) -> None:
        execute = self._database.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        # A power cut may lose the last units, but never damages the database; a killed process loses nothing.
        execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(_TABLES)
        row = execute("SELECT fingerprint FROM job").fetchone()
        if row is None:
            execute("INSERT INTO job VALUES (?)", (json.dumps(fingerprint),))
        elif changed := differences(json.loads(row[0]), fingerprint):
            raise JobMismatchError(
                f"{self.folder} was begun with other options: {'; '.join(changed)}. "
                f"Repeat those options to go on, name another --out, or delete {self.folder} to start over."
            )
        # What failed in an earlier run is tried again.
        with self._transaction():
            execute("DELETE FROM units WHERE episode IN (SELECT id FROM episodes WHERE status = 'failed')")
            execute("DELETE FROM episodes WHERE status = 'failed'")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def discard(self) -> None:
        """Delete the folder, while its lock still excludes other runs."""
        shutil.rmtree(self.folder)

    def pending(self) -> list[Task]:
        """Tasks to do, episode by episode, including the failed episodes of an earlier run."""
        tasks: list[Task] = []
        planned = {name for (name,) in self._query("SELECT id FROM episodes")}
        units = self._units("status = 'pending'")
        for name, episode in self._episodes.items():
            if name in planned:
                tasks += [UnitTask(episode, unit) for unit in units.get(name, [])]
            else:
                tasks.append(PlanTask(episode))
        return tasks

    def commit(self, event: Event) -> list[Task]:
        """Store a result and return the tasks that follow from it. Raises OSError when the disk is full."""
        with _translated_errors(self.folder), self._transaction():
            match event:
                case EpisodePlan(name, units):
                    self._commit_plan(event)
                    return [UnitTask(self._episodes[name], unit) for unit in units]
                case Encoded(unit, num_rows, rows, decode_seconds, model_seconds):
                    # The units of an episode that failed meanwhile are deleted: then this updates no row.
                    self._database.execute(
                        "UPDATE units SET status = 'done', num_rows = ?, rows = ?, decode_seconds = ?, "
                        "model_seconds = ? WHERE episode = ? AND camera = ? AND first = ?",
                        (num_rows, rows, decode_seconds, model_seconds, unit.episode, unit.camera, unit.first),
                    )
                case Failure(episode, reason):
                    # An episode enters the table with all its units or not at all.
                    self._database.execute("DELETE FROM units WHERE episode = ?", (episode,))
                    self._database.execute(
                        "INSERT INTO episodes (id, status, error) VALUES (?, 'failed', ?) ON CONFLICT (id) "
                        "DO UPDATE SET status = 'failed', error = excluded.error WHERE status != 'failed'",
                        (episode, reason),
                    )
                case Heartbeat():
                    pass
        return []

    def _commit_plan(self, plan: EpisodePlan) -> None:
        self._database.execute(
            "INSERT INTO episodes (id, status, pairs, frames, notes) VALUES (?, 'planned', ?, ?, ?)",
            (plan.episode, json.dumps(plan.pairs), plan.frames, json.dumps(plan.notes)),
        )
        self._database.executemany(
            "INSERT INTO units (episode, camera, first, last, episode_index, status) VALUES (?, ?, ?, ?, ?, 'pending')",
            [(unit.episode, unit.camera, unit.first, unit.last, unit.episode_index) for unit in plan.units],
        )

    def plans(self) -> dict[str, EpisodePlan]:
        """Plans of this run's episodes by id, in the order of the table."""
        units = self._units("TRUE")
        rows = self._query("SELECT id, pairs, frames, notes FROM episodes WHERE status = 'planned'")
        return {
            name: EpisodePlan(name, tuple(units.get(name, ())), json.loads(pairs), frames, tuple(json.loads(notes)))
            for name, pairs, frames, notes in sorted(rows)
            if name in self._episodes
        }

    def failures(self) -> dict[str, str]:
        """Reasons of the episodes that failed in this run, by id, in the order of the table."""
        rows = self._query("SELECT id, error FROM episodes WHERE status = 'failed'")
        return {name: error for name, error in sorted(rows) if name in self._episodes}

    def done_units(self) -> set[Unit]:
        """The units whose rows are stored."""
        units = self._units("status = 'done'")
        return {unit for name in units.keys() & self._episodes.keys() for unit in units[name]}

    def rows(self, unit: Unit) -> pa.Table:
        """The rows of a unit that is done."""
        ((blob,),) = self._query(
            "SELECT rows FROM units WHERE episode = ? AND camera = ? AND first = ? AND status = 'done'",
            (unit.episode, unit.camera, unit.first),
        )
        return pa.ipc.open_stream(blob).read_all()

    def num_rows(self) -> int:
        """Rows of all units that are done."""
        rows = self._query("SELECT episode, num_rows FROM units WHERE status = 'done'")
        return sum(count for name, count in rows if name in self._episodes)

    def seconds(self) -> Seconds:
        """Worker time of all units that are done."""
        return Seconds(*self._query("SELECT total(decode_seconds), total(model_seconds) FROM units")[0])

    def _units(self, condition: str) -> dict[str, list[Unit]]:
        """Units by episode, sorted by camera and frame."""
        columns = "episode, camera, first, last, episode_index"
        units: dict[str, list[Unit]] = {}
        for row in self._query(f"SELECT {columns} FROM units WHERE {condition} ORDER BY 1, 2, 3"):
            units.setdefault(row[0], []).append(Unit(*row))
        return units

    def _query(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with _translated_errors(self.folder):
            return self._database.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN")
        try:
            yield
        except BaseException:
            # A full disk may have ended the transaction already.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


@contextmanager
def _translated_errors(folder: Path) -> Iterator[None]:
    """Translate SQLite's errors: another run's lock, a full disk, an unusable folder."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "locked" in text:
            raise LaraTokenizerError(
                f"{folder} is in use by another run. Wait for it to end, or name another --out."
            ) from error
        if "full" in text or "disk I/O" in text:
            raise OSError(
                f"{folder}: the disk is full or failing. What is done is kept; make room and run the same again."
            ) from error
        raise OSError(
            f"{folder}: the job's database cannot be used ({text}). Delete the folder to start over."
        ) from error
