"""The output folder of an export: complete or absent, continued after a kill, filled by workers that end with it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time

import psutil
import pytest

from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.export import export_univla
from lara_tokenizer.export.folder import export_folder
from lara_tokenizer.export.tasks import run_tasks


def test_an_export_gets_its_name_when_complete_and_continues_where_it_stopped(tmp_path):
    out, job = tmp_path / "out", {"format": "lapa", "seed": 0}

    def is_killed():
        with export_folder(out, job) as folder:
            (folder.path / "one").write_text("1")
            folder.mark_done("one\nof two lines", [folder.path / "one"])
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        is_killed()
    assert not out.exists()
    with pytest.raises(JobMismatchError, match="seed was 0 and is 1"), export_folder(out, {**job, "seed": 1}):
        pass
    with export_folder(out, job) as folder:
        assert folder.is_done("one\nof two lines", [folder.path / "one"])
        assert not folder.is_done("two", [])
    assert [file.name for file in out.iterdir()] == ["one"]
    with pytest.raises(ValueError, match="exists already"), export_folder(out, job):
        pass


def test_a_kill_after_the_rename_leaves_no_claim_on_the_name(tmp_path):
    out, partial = tmp_path / "out", tmp_path / "out.partial"

    def is_killed():
        with export_folder(out, {}) as folder:
            (folder.path / "one").write_text("1")
            folder.mark_done("one", [folder.path / "one"])
            folder.path.rename(out)
            raise RuntimeError("killed before the scratch was removed")

    with pytest.raises(RuntimeError):
        is_killed()
    with pytest.raises(ValueError, match="exists already"), export_folder(out, {}):
        pass
    assert not partial.exists()
    out.rename(tmp_path / "elsewhere")
    with export_folder(out, {}) as folder:
        assert not folder.is_done("one", [folder.path / "one"])
    assert out.is_dir()
    assert not partial.exists()


def test_a_kill_before_the_job_is_written_is_harmless(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/job.json.tmp").write_text('{"for')
    with export_folder(tmp_path / "out", {}) as folder:
        (folder.path / "one").write_text("1")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["one"]
    (tmp_path / "other.partial").mkdir()
    (tmp_path / "other.partial/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no unfinished export"), export_folder(tmp_path / "other", {}):
        pass


def test_two_runs_of_one_export_exclude_each_other(tmp_path):
    code = (
        "import sys; from lara_tokenizer.export.folder import export_folder\nwith export_folder(sys.argv[1], {}): pass"
    )
    with export_folder(tmp_path / "out", {}) as folder:
        (folder.path / "one").write_text("1")
        second = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True)
    assert "is being written by another process" in second.stderr
    assert (tmp_path / "out/one").read_text() == "1"


def test_a_link_to_an_empty_folder_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    with export_folder(tmp_path / "out", {}) as folder:
        (folder.path / "one").write_text("1")
    assert (tmp_path / "real/one").exists()
    assert (tmp_path / "out").is_symlink()


def test_a_line_that_a_kill_cut_short_is_ignored(tmp_path):
    def is_killed():
        with export_folder(tmp_path / "out", {}) as folder:
            folder.mark_done("whole", [])
            with (folder.path.parent / "done.txt").open("a") as stream:
                stream.write("episode_1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        is_killed()
    with export_folder(tmp_path / "out", {}) as folder:
        assert folder.is_done("whole", [])
        assert not folder.is_done("episode_1", [])


def test_a_finished_export_is_complete_and_another_one_is_refused(tmp_path, tokens, clips):
    out = tmp_path / "out"
    first = export_univla(tokens, clips, out, images=False)
    written = (out / "train.jsonl").stat().st_mtime_ns
    again = export_univla(tokens, clips, out, images=False)
    assert (again.pairs, again.settings, again.left_out) == (first.pairs, first.settings, first.left_out)
    assert "complete already" in again.notes[-1]
    assert (out / "train.jsonl").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="exists already"):
        export_univla(tokens, clips, out, images=False, seed=1)


def test_a_full_disk_is_reported_with_what_to_do(tmp_path):
    def is_full():
        with export_folder(tmp_path / "out", {}):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"out cannot be written \(No space .* run the same command again"):
        is_full()
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match=r"cannot create the folder .*Name another --out"),
        export_folder(tmp_path / "file/out", {}),
    ):
        pass


def test_every_task_comes_back_with_its_result():
    tasks = [str(index) for index in range(20)]
    expected = [(task, int(task)) for task in tasks]
    assert list(run_tasks(int, tasks, workers=0)) == expected
    assert sorted(run_tasks(int, tasks, workers=2), key=lambda pair: pair[1]) == expected


def test_an_error_ends_all_and_is_the_workers_own():
    for workers in (0, 1):
        with pytest.raises(ValueError, match="invalid literal"):
            list(run_tasks(int, ["1", "no number"], workers=workers))


def test_a_killed_driver_takes_its_workers_along():
    script = "import os\nfrom lara_tokenizer.export.tasks import run_tasks\n"
    script += (
        "for task, pid in run_tasks(eval, ['__import__(\"os\").getpid()', '__import__(\"time\").sleep(60)'], 1):\n"
    )
    script += "    print(pid, flush=True)"
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert driver.stdout is not None
    worker = psutil.Process(int(driver.stdout.readline()))
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 20
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
