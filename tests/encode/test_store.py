"""The store: committed results survive, one run at a time, one job per folder."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from lara_tokenizer.encode.plan import EpisodePlan, Unit
from lara_tokenizer.encode.store import Store
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


def test_a_broken_database_says_what_to_do(tmp_path, episodes):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "units.sqlite").write_bytes(os.urandom(4096))
    with pytest.raises(OSError, match=r"cannot be used .*Delete the folder to start over"):
        Store(tmp_path / "job", FINGERPRINT, episodes)


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
