"""Atomic replacement, folder swap, locks and digests."""

from __future__ import annotations

import hashlib
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from lara_tokenizer import _files, _parse


def test_text_written_over_a_file_replaces_it_and_leaves_nothing_else(tmp_path):
    file = tmp_path / "job.json"
    file.write_text("old")
    _files.write_atomically(file, "new ü")
    assert file.read_text(encoding="utf-8") == "new ü"
    assert list(tmp_path.iterdir()) == [file]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "job.json"
    file.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        _files.write_atomically(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_new_folder_replaces_one_with_files(tmp_path):
    for name in ("new", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name)
    _files.replace_folder(tmp_path / "new", tmp_path / "target", tmp_path / "previous")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["new.txt"]


def test_swapping_two_folders_twice_changes_nothing(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    (one / "file").write_text("1")
    _files.swap_folders(one, other)
    assert not any(one.iterdir())
    _files.swap_folders(one, other)
    assert (one / "file").read_text() == "1"
    _files.check_swap(tmp_path)


def test_a_scratch_folder_takes_its_name_only_after_success(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OSError, match="part"), _files.new_folder(out) as scratch:
        (scratch / "part" / "half").write_text("there is no such folder")
    assert not any(tmp_path.iterdir())
    with _files.new_folder(out) as scratch:
        (scratch / "part").write_text("whole")
    assert (out / "part").read_text() == "whole"
    with pytest.raises(ValueError, match="not an empty folder"), _files.new_folder(out):
        pass


def test_a_folder_without_exchange_is_replaced_in_two_steps(tmp_path, monkeypatch):
    def cannot(*_):
        raise OSError("no such call")

    monkeypatch.setattr(_files, "swap_folders", cannot)
    test_a_new_folder_replaces_one_with_files(tmp_path)


# A process that is killed while it has unfinished folders.
KILLED = """
import os, signal, sys
from pathlib import Path
from lara_tokenizer import _files, _parse
with _files.scratch_folder(Path(sys.argv[1]), "out") as scratch, _files.scratch_folder(Path(sys.argv[1]), "x" * 200):
    (scratch / "file").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_scratch_folders_of_killed_processes_are_swept_and_no_others(tmp_path, monkeypatch):
    for _ in range(2):  # the second one sweeps what the first left
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
        left = sorted(path.name for path in tmp_path.iterdir())
        assert len(left) == 2
    foreign = tmp_path / left[0].replace(f".{_files._machine()}.", ".another-machine.")
    foreign.mkdir()
    (tmp_path / ".out.partial").mkdir()
    with _files.scratch_folder(tmp_path, "out") as alive:
        with _files.scratch_folder(tmp_path, "out") as other:
            assert {alive, other} < set(tmp_path.iterdir())
        # Of a process in another container, with a number that is not in use here: the lock tells that it lives.
        monkeypatch.setattr(_files, "_started", lambda _: None)
        _files.sweep(tmp_path, "out")
        assert alive.exists()
    _files.sweep(tmp_path, "x" * 200)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([foreign.name, ".out.partial"])


def test_a_removed_folder_is_gone_at_once(tmp_path, monkeypatch):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "file").touch()
    with monkeypatch.context() as patch:
        patch.setattr(_files.shutil, "rmtree", lambda *_, **__: None)  # as if killed here
        _files.remove_folder(tmp_path / "job")
    assert not (tmp_path / "job").exists()
    monkeypatch.setattr(_files, "_started", lambda _: None)
    _files.sweep(tmp_path, "job")
    assert not any(tmp_path.iterdir())


def _hold(file, held, release):
    with _files.exclusive(file, "out"):
        held.set()
        release.wait(30)


def test_a_second_process_is_refused_while_the_first_holds_the_lock(tmp_path):
    pytest.importorskip("fcntl")
    file = tmp_path / "lock"
    file.touch()
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(file, held, release))
    process.start()
    assert held.wait(30)
    with pytest.raises(BlockingIOError, match="out is being written by another process"), _files.exclusive(file, "out"):
        pass
    release.set()
    process.join()
    with _files.exclusive(file, "out"):
        pass


def test_digests_are_those_of_the_bytes_and_names(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    assert _files.file_sha256(tmp_path / "a") == hashlib.sha256(b"one").hexdigest()
    before = _files.folder_sha256(tmp_path, tmp_path.iterdir())
    (tmp_path / "b").rename(tmp_path / "c")
    assert _files.folder_sha256(tmp_path, tmp_path.iterdir()) != before


def test_the_header_of_a_safetensors_file_locates_its_numbers(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_file({"weight": values}, tmp_path / "x.safetensors", metadata={"format": "np"})
    entries, start = _parse.safetensors_header(tmp_path / "x.safetensors")
    assert entries["weight"]["shape"] == [2, 3]
    first, last = entries["weight"]["data_offsets"]
    raw = (tmp_path / "x.safetensors").read_bytes()[start + first : start + last]
    assert np.array_equal(np.frombuffer(raw, np.float32).reshape(2, 3), values)
