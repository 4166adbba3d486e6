"""The store: committed results survive, one run at a time, one job per folder."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lara_tokenizer.encode.plan import EpisodePlan, Unit
from lara_tokenizer.encode.store import DamagedUnitError, Store
from lara_tokenizer.encode.tasks import Encoded, Failure, PlanTask, TaskQueue, UnitTask
from lara_tokenizer.errors import JobMismatchError, LaraTokenizerError

FINGERPRINT = {"strides": ["1f"], "model": {"id": "lam"}}


@pytest.fixture
def episodes(array_episode):
    return {name: array_episode(np.zeros((4, 8, 8, 3), np.uint8), id=name) for name in ("a", "b")}


def plan(name, count=2):
    units = tuple(Unit(name, "", 10 * k, 10 * k + 9) for k in range(count))
    return EpisodePlan(name, units, {"1f": 20}, 21, ("a note",))


def rows(unit):
    return Encoded(unit, 10, b"rows of " + repr(unit).encode(), 0.5, 1.5)


def test_a_new_job_plans_every_episode_and_then_does_its_units(tmp_path, episodes):
    with Store(tmp_path / "job", FINGERPRINT, episodes) as store:
        assert store.pending() == [PlanTask(episodes["a"]), PlanTask(episodes["b"])]
        tasks = store.commit(plan("a"))
        assert [task.unit.first for task in tasks] == [0, 10]
        store.commit(rows(tasks[0].unit))
        assert store.pending() == [tasks[1], PlanTask(episodes["b"])]


def test_what_is_committed_is_there_for_the_next_run(tmp_path, episodes):
    with Store(tmp_path / "job", FINGERPRINT, episodes) as store:
        first, second = (task.unit for task in store.commit(plan("a")))
        store.commit(rows(first))
    with Store(tmp_path / "job", FINGERPRINT, episodes) as store:
        assert store.done_units() == {first}
        assert store.pending() == [UnitTask(episodes["a"], second), PlanTask(episodes["b"])]
        assert store.plans() == {"a": plan("a")}
        assert store.num_rows() == 10
        assert (store.seconds().decode, store.seconds().model) == (0.5, 1.5)


def test_a_failed_episode_loses_its_units_and_is_retried_by_the_next_run(tmp_path, episodes):
    with Store(tmp_path / "job", FINGERPRINT, episodes) as store:
        first, second = (task.unit for task in store.commit(plan("a")))
        store.commit(rows(first))
        store.commit(Failure("a", "broken at frame 12"))
        store.commit(rows(second))  # it was under way
        store.commit(Failure("a", "and again"))
        assert store.failures() == {"a": "broken at frame 12"}
        assert store.plans() == {}
        assert store.done_units() == set()
    with Store(tmp_path / "job", FINGERPRINT, episodes) as store:
        assert store.failures() == {}
        assert store.pending() == [PlanTask(episodes["a"]), PlanTask(episodes["b"])]


def test_another_job_is_refused_with_both_values(tmp_path, episodes):
    with Store(tmp_path / "job", FINGERPRINT, episodes) as store:
        store.commit(rows(store.commit(plan("a"))[0].unit))
    other = {"strides": ["2f"], "model": {"id": "lam"}}
    with pytest.raises(JobMismatchError, match=r"strides was 1f and is 2f\. Repeat those options"):
        Store(tmp_path / "job", other, episodes)


def test_a_second_run_at_the_same_time_is_refused(tmp_path, episodes):
    with Store(tmp_path / "job", FINGERPRINT, episodes):
        with pytest.raises(LaraTokenizerError, match="in use by another run"):
            Store(tmp_path / "job", FINGERPRINT, episodes)
        # Another process sees the same lock.
        code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM job')"
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "job" / "units.sqlite")], capture_output=True, text=True
        )
        assert "locked" in other.stderr
    Store(tmp_path / "job", FINGERPRINT, episodes).__exit__()


def test_a_full_disk_is_one_plain_sentence_and_loses_nothing(tmp_path, episodes):
    with Store(tmp_path / "job", FINGERPRINT, episodes) as store:
        first, second = (task.unit for task in store.commit(plan("a")))
        store.commit(rows(first))
        pages = store._database.execute("PRAGMA page_count").fetchone()[0]
        store._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OSError, match="the disk is full or failing"):
            store.commit(Encoded(second, 10, bytes(10**6), 0.0, 0.0))
    with Store(tmp_path / "job", FINGERPRINT, episodes) as store:
        assert store.done_units() == {first}
        assert UnitTask(episodes["a"], second) in store.pending()


def test_a_full_disk_promises_to_keep_only_what_is_there(tmp_path, episodes):
    with Store(tmp_path / "job", FINGERPRINT, episodes) as store:
        pages = store._database.execute("PRAGMA page_count").fetchone()[0]
        long = replace(plan("a"), notes=("x" * 10**6,))
        store._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OSError, match=r"the disk is full or failing\. Make room and run the same again"):
            store.commit(long)
        store._database.execute(f"PRAGMA max_page_count = {pages + 2}")
        store.commit(plan("b"))
        with pytest.raises(OSError, match=r"the disk is full or failing\. What is done is kept; make room and run"):
            store.commit(long)
    assert (tmp_path / "job").exists()


@pytest.fixture
def job(tmp_path, episodes):
    """A job's folder: a with one unit of two done, b with all."""
    with Store(tmp_path / "job", FINGERPRINT, episodes) as store:
        store.commit(rows(store.commit(plan("a"))[0].unit))
        for task in store.commit(plan("b")):
            store.commit(rows(task.unit))
    return tmp_path / "job"


def edit(job, *statements):
    database = sqlite3.connect(job / "units.sqlite")
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()


@pytest.mark.parametrize(
    ("damage", "pending"),
    [
        ("UPDATE units SET rows = rows || x'00' WHERE episode = 'b' AND first = 0", [("b", 0)]),
        ("UPDATE units SET rows = NULL WHERE episode = 'b' AND first = 10", [("b", 10)]),
        ("UPDATE units SET num_rows = 11 WHERE episode = 'b' AND first = 10", [("b", 10)]),
        ("UPDATE units SET status = 'dond' WHERE episode = 'b'", [("b", 0), ("b", 10)]),
        ("UPDATE units SET status = 'done' WHERE episode = 'a'", []),
        ("UPDATE units SET first = 11 WHERE episode = 'b' AND first = 10", ["b"]),
        ("UPDATE units SET last = 8 WHERE episode = 'b' AND first = 0", ["b"]),
        ("UPDATE units SET camera = 'x' WHERE episode = 'b' AND first = 0", ["b"]),
        ("UPDATE units SET episode = 'c' WHERE episode = 'b' AND first = 0", ["b"]),
        ("DELETE FROM units WHERE episode = 'b' AND first = 0", ["b"]),
        ("UPDATE episodes SET pairs = '{\"1f\": 21}' WHERE id = 'b'", ["b"]),
        ("UPDATE episodes SET notes = CAST(x'5bff5d' AS TEXT) WHERE id = 'b'", ["b"]),
        ("UPDATE episodes SET files = '[[' WHERE id = 'b'", ["b"]),
        ("UPDATE episodes SET id = 'c' WHERE id = 'b'", ["b"]),
        ("UPDATE episodes SET status = 'planneD' WHERE id = 'b'", ["b"]),
    ],
)
def test_what_is_not_as_it_was_stored_is_done_again_and_nothing_else(job, episodes, caplog, damage, pending):
    edit(job, damage)
    with Store(job, FINGERPRINT, episodes) as store:
        tasks = [each for each in store.pending() if each != UnitTask(episodes["a"], Unit("a", "", 10, 19))]
        assert len(store.pending()) == len(tasks) + 1
    found = [task.episode.id if isinstance(task, PlanTask) else (task.episode.id, task.unit.first) for task in tasks]
    assert found == pending
    assert not pending or f"{job}: stored results of " in caplog.text or "status" in damage


@pytest.mark.parametrize("damage", ["garbage", "cut", "page", "schema", "options"])
def test_a_database_that_cannot_be_read_names_its_folder_and_says_what_to_do(job, episodes, damage):
    file = job / "units.sqlite"
    content = file.read_bytes()
    if damage == "garbage":
        file.write_bytes(os.urandom(4096))
    elif damage == "cut":
        file.write_bytes(content[:-4096])
    elif damage == "page":
        file.write_bytes(content[:4096] + bytes(4096) + content[8192:])
    elif damage == "schema":
        edit(job, "ALTER TABLE units RENAME COLUMN rows TO rowz")
    else:
        edit(job, "UPDATE job SET fingerprint = replace(fingerprint, '1f', '2f')")
    with pytest.raises(OSError, match=r"job: the job's database .*Delete the folder to start over") as error:
        Store(job, FINGERPRINT, episodes)
    assert str(job) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_index_that_disagrees_with_its_table_is_made_again(job, episodes):
    content = (job / "units.sqlite").read_bytes()
    database = sqlite3.connect(job / "units.sqlite")
    (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_units_1'").fetchone()
    database.close()
    index = content[(page - 1) * 4096 : page * 4096]
    at = (page - 1) * 4096 + index.rindex(b"b\x0a\x04")  # the entry (b, "", 10) of the fourth row
    (job / "units.sqlite").write_bytes(content[: at + 1] + b"\x0b" + content[at + 2 :])
    with Store(job, FINGERPRINT, episodes) as store:
        assert store.pending() == [UnitTask(episodes["a"], Unit("a", "", 10, 19))]


def test_rows_that_are_damaged_during_a_run_are_not_given_out(job, episodes):
    unit = Unit("b", "", 0, 9)
    with Store(job, FINGERPRINT, episodes) as store:
        store._database.execute("UPDATE units SET rows = x'00' WHERE episode = 'b' AND first = 0")
        with pytest.raises(DamagedUnitError):
            store.rows(unit)
        assert UnitTask(episodes["b"], unit) in store.pending()
        assert len(store.pending()) == 2


@pytest.mark.parametrize("version", [0, 99])
def test_a_folder_of_another_format_is_refused_unless_it_has_no_results(job, episodes, version):
    edit(job, f"PRAGMA user_version = {version}")
    with pytest.raises(JobMismatchError, match=rf"release of lara-tokenizer \(job format {version}, .*delete .*job to"):
        Store(job, FINGERPRINT, episodes)
    edit(job, "DELETE FROM units")
    with Store(job, FINGERPRINT, episodes) as store:
        assert store.pending() == [PlanTask(episodes["a"]), PlanTask(episodes["b"])]


def test_a_start_that_failed_blocks_nobody(tmp_path, episodes):
    Store(tmp_path / "job", FINGERPRINT, episodes).__exit__()
    assert not (tmp_path / "job").exists()
    with Store(tmp_path / "job", FINGERPRINT, episodes) as store:
        store.commit(plan("a"))
    other = {"strides": ["2f"], "model": {"id": "lam"}}
    with Store(tmp_path / "job", other, episodes) as store:
        assert store.pending() == [PlanTask(episodes["a"]), PlanTask(episodes["b"])]
        store.commit(plan("b"))
    (tmp_path / "job" / "units.sqlite").write_bytes(b"")
    with Store(tmp_path / "job", other, episodes) as store:
        assert len(store.pending()) == 2


def test_a_folder_with_somebody_else_s_files_is_left_alone(tmp_path, episodes):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "notes.txt").write_text("mine")
    with pytest.raises(OSError, match=r"is no job's folder: notes\.txt is in it\. Move it away, or name another --out"):
        Store(tmp_path / "job", FINGERPRINT, episodes)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot create the folder .*file: File exists"):
        Store(tmp_path / "file", FINGERPRINT, episodes)


def test_reasons_may_contain_anything(tmp_path, episodes):
    with Store(tmp_path / "job", FINGERPRINT, episodes) as store:
        store.commit(Failure("a", "caf\udce9\x1b[31m\n\x00"))
        assert store.failures() == {"a": r"caf\udce9\x1b[31m\n\x00"}


def test_episodes_that_left_the_source_stay_out_of_the_result(tmp_path, episodes):
    with Store(tmp_path / "job", FINGERPRINT, episodes) as store:
        for task in store.commit(plan("b")):
            store.commit(rows(task.unit))
    with Store(tmp_path / "job", FINGERPRINT, {"a": episodes["a"]}) as store:
        assert store.plans() == {}
        assert store.num_rows() == 0
        assert store.done_units() == set()


def test_the_store_is_plain_sqlite(tmp_path, episodes):
    with Store(tmp_path / "job", FINGERPRINT, episodes) as store:
        store.commit(plan("a"))
    database = sqlite3.connect(tmp_path / "job" / "units.sqlite")
    assert database.execute("SELECT status, count(*) FROM units GROUP BY 1").fetchall() == [("pending", 2)]
    database.close()


def test_a_queue_prefers_the_taker_s_own_episode_and_ends_when_all_is_answered(episodes):
    queue = TaskQueue([PlanTask(episodes["a"]), PlanTask(episodes["b"])])
    assert queue.pop().episode.id == "a"
    unit = Unit("a", "", 0, 9)
    queue.add([UnitTask(episodes["a"], unit)])
    assert queue.pop(prefer_episode="b").episode.id == "b"
    assert queue.pop(prefer_episode="b").unit is unit
    for _ in range(3):
        assert not queue.is_finished
        queue.task_done()
    assert queue.is_finished
    assert queue.pop() is None


def test_a_queue_forgets_a_failed_episode(episodes):
    queue = TaskQueue([PlanTask(episodes["a"]), PlanTask(episodes["b"])])
    queue.cancel("a")
    assert queue.pop().episode.id == "b"
    queue.task_done()
    assert queue.pop() is None
