"""`Store`: the state of a job on disk, `<out>.job/units.sqlite`. Each unit is committed as soon as it is done.

The driver is the only writer. SQLite's own lock, held for the whole run, excludes a second run. Rows are Arrow IPC
streams and plans are JSON, never pickles, so a later release can go on with a job.

Each plan and each unit's rows carry a digest, checked when a run begins and again when the table is written: Arrow
would take a flipped bit for data, or crash. An episode is planned again if its files are not those it was planned from.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from lara_tokenizer._database import (
    check_intact,
    damaged,
    make_folder,
    open_exclusively,
    row_sha256,
    transaction,
    translated_errors,
)
from lara_tokenizer._files import remove_folder, summarize_names
from lara_tokenizer.data import Episode
from lara_tokenizer.encode.plan import EpisodePlan, Unit
from lara_tokenizer.encode.tasks import Encoded, Event, Failure, Heartbeat, PlanTask, Task, UnitTask
from lara_tokenizer.errors import JobMismatchError, printable
from lara_tokenizer.table.metadata import differences
from lara_tokenizer.table.provenance import (
    StateCache,
    States,
    are_untouched,
    change_of,
    file_states,
    gone_of,
    states_from_json,
    states_to_json,
)

logger = logging.getLogger(__name__)

DATABASE = "units.sqlite"
_LEFTOVERS = ("table", "previous", "*.tmp")  # of the table that was being written
# Of the database, as PRAGMA user_version; 0 is that of releases without digests.
STORE_VERSION = 2
# Status of an episode: planned; failed, and tried again by the next run; lost: its files are gone, what is done is kept
# in case they come back. Status of a unit: pending, done.
_TABLES = (
    "CREATE TABLE job (fingerprint TEXT NOT NULL, sha256 TEXT NOT NULL)",
    "CREATE TABLE episodes (id TEXT PRIMARY KEY, status TEXT NOT NULL, pairs TEXT, frames INTEGER, notes TEXT, "
    "files TEXT, content TEXT, sha256 TEXT, error TEXT)",
    "CREATE TABLE units (episode TEXT NOT NULL, camera TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, "
    "episode_index INTEGER, status TEXT NOT NULL, num_rows INTEGER, rows BLOB, sha256 TEXT, decode_seconds REAL, "
    "model_seconds REAL, PRIMARY KEY (episode, camera, first))",
)
_MOST_REPAIRS = 3  # of rows that were damaged during a run
_UNIT = "episode, camera, first, last, episode_index"
_PLAN = "id, pairs, frames, notes, files, content"


class DamagedUnitError(Exception):
    """Rows of this unit are not those that were stored; all such units are pending again."""


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
        JobMismatchError: the folder has results of a job with another fingerprint, or of another release's format.
        LaraTokenizerError: another run holds the folder.
        OSError: the folder cannot be written, or what is in it cannot be read.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], episodes: Mapping[str, Episode]) -> None:
        self.folder = folder
        self._episodes = episodes
        # Planned episodes whose files may not be what they were: their plans count again once they are planned anew.
        self._suspects: set[str] = set()
        # Planned by earlier runs, not in the source any more, and their files are gone.
        self._vanished: set[str] = set()
        self._repairs = 0
        make_folder(folder, DATABASE, _LEFTOVERS)
        file = folder / DATABASE
        self._has_results = file.exists() and file.stat().st_size > 0
        with translated_errors(folder, has_results=self._has_results):
            self._database = open_exclusively(file)
            try:
                self._begin(fingerprint)
            except BaseException:
                self._database.close()
                raise

    def _begin(self, fingerprint: Mapping[str, Any]) -> None:
        self._open(json.dumps(fingerprint))
        with self._transaction():
            # What failed in an earlier run is tried again.
            self._database.execute("DELETE FROM episodes WHERE status NOT IN ('planned', 'lost')")
            self._drop_damaged()
            self._compare_files()
            self._has_results = bool(self._database.execute("SELECT EXISTS (SELECT 1 FROM episodes)").fetchone()[0])

    def _open(self, fingerprint: str) -> None:
        """Create the tables, or check that they are of this job. A job without any results makes way."""
        execute = self._database.execute
        tables = [name for (name,) in execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()]
        (version,) = execute("PRAGMA user_version").fetchone()
        if tables and version == STORE_VERSION:
            check_intact(self._database, _TABLES, self.folder)
            ((before, digest),) = execute("SELECT fingerprint, sha256 FROM job").fetchall() or [("", "")]
            if digest != row_sha256(before):
                raise damaged(self.folder, "its options")
            if not (changed := differences(json.loads(before), json.loads(fingerprint))):
                return
            if self._has_done_units():
                raise JobMismatchError(
                    f"{self.folder} was begun with other options: {'; '.join(changed)}. "
                    f"Repeat those options to go on, name another --out, or delete {self.folder} to start over."
                )
        elif tables and self._has_done_units():
            release = "a later" if version > STORE_VERSION else "an earlier"
            raise JobMismatchError(
                f"{self.folder} was begun by {release} release of lara-tokenizer (job format {version}, this one has "
                f"{STORE_VERSION}). End it with that release, or delete {self.folder} to start over."
            )
        with self._transaction():
            for name in tables:
                if not name.startswith("sqlite_"):
                    execute(f'DROP TABLE "{name}"')
            for statement in _TABLES:
                execute(statement)
            execute("INSERT INTO job VALUES (?, ?)", (fingerprint, row_sha256(fingerprint)))
            execute(f"PRAGMA user_version = {STORE_VERSION}")

    def _has_done_units(self) -> bool:
        try:
            row = self._database.execute("SELECT EXISTS (SELECT 1 FROM units WHERE status = 'done')").fetchone()
        except sqlite3.OperationalError:  # no such table: it is no job at all
            return False
        return bool(row[0])

    def _drop_damaged(self) -> None:
        """Delete plans, and rows of units, that are not what was stored: they are made again."""
        execute = self._database.execute
        units: dict[Any, list[tuple[Any, ...]]] = {}
        for row in execute(f"SELECT {_UNIT} FROM units ORDER BY 1, 2, 3"):
            units.setdefault(row[0], []).append(row)
        plans = execute(f"SELECT rowid, sha256, {_PLAN} FROM episodes WHERE status IN ('planned', 'lost')")
        episodes = [
            (rowid, plan[0]) for rowid, digest, *plan in plans if digest != row_sha256(*plan, units.get(plan[0], []))
        ]
        # One after the other: the rows of all units may not fit into memory.
        done = execute(f"SELECT rowid, sha256, {_UNIT}, num_rows, rows FROM units WHERE status = 'done'")
        rows = [(rowid, unit[0]) for rowid, digest, *unit, blob in done if digest != row_sha256(*unit, blob=blob)]
        self._database.executemany("DELETE FROM episodes WHERE rowid = ?", [(rowid,) for rowid, _ in episodes])
        execute("DELETE FROM units WHERE episode NOT IN (SELECT id FROM episodes)")
        self._database.executemany(
            "UPDATE units SET status = 'damaged' WHERE rowid = ?", [(rowid,) for rowid, _ in rows]
        )
        execute("UPDATE units SET status = 'pending', rows = NULL WHERE status NOT IN ('done', 'pending')")
        if names := dict.fromkeys(str(name) for _, name in (*episodes, *rows)):
            logger.warning(
                "%s: stored results of %s are damaged; encoding them again", self.folder, summarize_names(names)
            )

    def _compare_files(self) -> None:
        """Find the episodes whose files are not in the state that they were planned from, or are gone."""
        cache: StateCache = {}
        for name, status, text in self._database.execute("SELECT id, status, files FROM episodes").fetchall():
            files = states_from_json(text)
            if name in self._episodes:
                if not are_untouched(files, self._file_states(name, cache)):
                    self._suspects.add(name)
            elif status == "planned" and (gone := gone_of(files)):
                self._vanished.add(name)
                self._fail(name, f"{gone} is gone since the job was begun")
        again = [(name,) for name in self._episodes]
        self._database.executemany("UPDATE episodes SET status = 'planned' WHERE id = ? AND status = 'lost'", again)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(sqlite3.Error, OSError):
            # A run that ends before its first result leaves nothing behind.
            if self.folder.exists() and not self._query("SELECT EXISTS (SELECT 1 FROM episodes)")[0][0]:
                self.discard()
        self._database.close()

    def discard(self) -> None:
        """Delete the folder, while its lock still excludes other runs."""
        remove_folder(self.folder)

    @property
    def vanished(self) -> int:
        """Number of episodes of earlier runs that left the source, and whose files are gone: failures of this run."""
        return len(self._vanished)

    def pending(self) -> list[Task]:
        """Tasks to do, episode by episode, including episodes that failed in an earlier run, not in this one."""
        tasks: list[Task] = []
        known = {name: row for name, *row in self._query("SELECT id, status, files FROM episodes")}
        units = self._units("status = 'pending'")
        for name, episode in self._episodes.items():
            status, files = known.get(name, ("", None))
            if not status or name in self._suspects:
                tasks.append(PlanTask(episode))
            elif status == "planned":
                states = states_from_json(files)
                tasks += [UnitTask(episode, unit, states) for unit in units.get(name, [])]
        return tasks

    def commit(self, event: Event) -> list[Task]:
        """Store a result and return the tasks that follow from it. Raises OSError when the disk is full."""
        tasks: list[Task] = []
        with self._transaction():
            match event:
                case EpisodePlan(name, files=files):
                    units = self._commit_plan(event)
                    self._suspects.discard(name)
                    tasks = [UnitTask(self._episodes[name], unit, files) for unit in units]
                case Encoded(unit, num_rows, rows, decode_seconds, model_seconds):
                    # The units of an episode that failed meanwhile are deleted: then this updates no row.
                    digest = row_sha256(*astuple(unit), num_rows, blob=rows)
                    self._database.execute(
                        "UPDATE units SET status = 'done', num_rows = ?, rows = ?, sha256 = ?, decode_seconds = ?, "
                        "model_seconds = ? WHERE episode = ? AND camera = ? AND first = ?",
                        (num_rows, rows, digest, decode_seconds, model_seconds, unit.episode, unit.camera, unit.first),
                    )
                case Failure(episode, reason):
                    self._fail(episode, reason)
                    self._suspects.discard(episode)
                case Heartbeat():
                    return []
        self._has_results = True
        return tasks

    def _commit_plan(self, plan: EpisodePlan) -> list[Unit]:
        """Store a plan, and return its units that are to be done. Those of an earlier plan of the same content stay."""
        name, execute = plan.episode, self._database.execute
        before = self._plans("id = ? AND pairs IS NOT NULL", "episode = ?", name).get(name)
        done = self._units("status = 'done' AND episode = ?", name).get(name, [])
        change = "" if before is None else change_of(before.files, plan.files)
        if before is None or change or replace(before, files=()) != replace(plan, files=()):
            if done:
                logger.warning("%s: %s; all of it is encoded again", name, change or "its source changed")
            done = []
            execute("DELETE FROM units WHERE episode = ?", (name,))
            self._database.executemany(
                f"INSERT INTO units ({_UNIT}, status) VALUES (?, ?, ?, ?, ?, 'pending')", map(astuple, plan.units)
            )
        values = (
            name,
            json.dumps(plan.pairs),
            plan.frames,
            json.dumps(plan.notes),
            states_to_json(plan.files),
            plan.content,
        )
        digest = row_sha256(*values, sorted(map(astuple, plan.units)))
        execute("DELETE FROM episodes WHERE id = ?", (name,))
        execute(
            f"INSERT INTO episodes ({_PLAN}, sha256, status) VALUES (?, ?, ?, ?, ?, ?, ?, 'planned')", (*values, digest)
        )
        return [unit for unit in plan.units if unit not in set(done)]

    def _fail(self, episode: str, reason: str) -> None:
        """Mark an episode as failed. Its units are deleted, but not where files are gone that may come back."""
        row = self._database.execute("SELECT files FROM episodes WHERE id = ?", (episode,)).fetchone()
        is_lost = row is not None and bool(gone_of(states_from_json(row[0])))
        if not is_lost:
            self._database.execute("DELETE FROM units WHERE episode = ?", (episode,))
        # One failure per episode: the first counts.
        self._database.execute(
            "INSERT INTO episodes (id, status, error) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "status = excluded.status, error = excluded.error WHERE status = 'planned'",
            (episode, "lost" if is_lost else "failed", printable(reason)),
        )

    def fail_changed(self) -> list[str]:
        """Mark the episodes as failed whose files changed since they were read, and return their ids.

        Rows of files that are gone meanwhile are right, and stay.
        """
        cache: StateCache = {}
        changed = []
        for name, text in self._query("SELECT id, files FROM episodes WHERE status = 'planned' AND files != '[]'"):
            if name in self._episodes and name not in self._suspects:
                files = states_from_json(text)
                change = change_of(files, self._file_states(name, cache))
                if change and not gone_of(files):
                    self.commit(Failure(name, f"{change} while the job was running"))
                    changed.append(name)
        return changed

    def plans(self) -> dict[str, EpisodePlan]:
        """Plans of this run's episodes by id, in the order of the table; without those to be planned again."""
        plans = self._plans("status = 'planned'", "TRUE")
        return {name: plan for name, plan in plans.items() if name in self._episodes and name not in self._suspects}

    def failures(self) -> dict[str, str]:
        """Reasons of the episodes that failed in this run, by id, in the order of the table."""
        rows = self._query("SELECT id, error FROM episodes WHERE status IN ('failed', 'lost')")
        return {name: error for name, error in sorted(rows) if name in self._episodes or name in self._vanished}

    def done_units(self) -> set[Unit]:
        """The units whose rows are stored."""
        units = self._units("status = 'done'")
        return {unit for name in units.keys() & self._episodes.keys() - self._suspects for unit in units[name]}

    def rows(self, unit: Unit) -> pa.Table:
        """The rows of a unit that is done. Raises DamagedUnitError if they are not what was stored."""
        key = (unit.episode, unit.camera, unit.first)
        where = "WHERE episode = ? AND camera = ? AND first = ? AND status = 'done'"
        rows = self._query(f"SELECT {_UNIT}, num_rows, sha256, rows FROM units {where}", key)
        for *columns, count, digest, blob in rows:
            if digest == row_sha256(*columns, count, blob=blob) and Unit(*columns) == unit:
                table = pa.ipc.open_stream(blob).read_all()
                assert table.num_rows == count, f"{unit} has {table.num_rows} rows, not {count}"
                return table
        with self._transaction():
            self._drop_damaged()
        self._repairs += 1
        if self._repairs > _MOST_REPAIRS:
            raise damaged(self.folder, "its rows, again and again: the disk or the memory is failing")
        raise DamagedUnitError(unit)

    def num_rows(self) -> int:
        """Rows of all units that are done, of episodes that did not fail."""
        rows = self._query(
            "SELECT episode, num_rows FROM units JOIN episodes ON episode = id "
            "WHERE episodes.status = 'planned' AND units.status = 'done'"
        )
        return sum(count for name, count in rows if name in self._episodes)

    def seconds(self) -> Seconds:
        """Worker time of all units that are done."""
        return Seconds(*self._query("SELECT total(decode_seconds), total(model_seconds) FROM units")[0])

    def _plans(self, condition: str, units_condition: str, *values: str) -> dict[str, EpisodePlan]:
        """Plans by episode, in the order of the table."""
        units = self._units(units_condition, *values)
        plans = {}
        for name, pairs, *figures in sorted(self._query(f"SELECT {_PLAN} FROM episodes WHERE {condition}", values)):
            frames, notes, files, content = figures
            plans[name] = EpisodePlan(
                name,
                units=tuple(units.get(name, ())),
                pairs=json.loads(pairs),
                frames=frames,
                notes=tuple(json.loads(notes)),
                files=states_from_json(files),
                content=content,
            )
        return plans

    def _units(self, condition: str, *values: str) -> dict[str, list[Unit]]:
        """Units by episode, sorted by camera and frame."""
        units: dict[str, list[Unit]] = {}
        for row in self._query(f"SELECT {_UNIT} FROM units WHERE {condition} ORDER BY 1, 2, 3", values):
            units.setdefault(row[0], []).append(Unit(*row))
        return units

    def _file_states(self, episode: str, cache: StateCache) -> States:
        """States of an episode's files; none where its reader fails, as it does for the worker that plans it again."""
        try:
            return file_states(self._episodes[episode], cache)
        except Exception:
            return ()

    def _query(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with translated_errors(self.folder, has_results=self._has_results):
            return self._database.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with translated_errors(self.folder, has_results=self._has_results), transaction(self._database):
            yield
