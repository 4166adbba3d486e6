"""Tasks in processes of their own: every result once, and no process left behind by a kill."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from lara_tokenizer.export.folder import run_tasks


def test_every_task_comes_back_with_its_result():
    tasks = [str(number) for number in range(20)]
    expected = [(task, int(task)) for task in tasks]
    assert list(run_tasks(int, tasks, workers=0)) == expected
    assert sorted(run_tasks(int, tasks, workers=2), key=lambda pair: pair[1]) == expected


def test_an_error_ends_all_and_is_the_workers_own():
    for workers in (0, 1):
        with pytest.raises(ValueError, match="invalid literal"):
            list(run_tasks(int, ["1", "no number"], workers=workers))


def test_a_killed_driver_takes_its_workers_along():
    script = "import os\nfrom lara_tokenizer.export.folder import run_tasks\n"
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
