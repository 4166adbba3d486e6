"""Names of files, episodes and cameras on a terminal: whatever they hold, they move no cursor and forge no line."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import signal
import sys
import tarfile
import time
import unicodedata

import pytest
from lara_tok._app.messages import LogHandler
from token_tables import edited, write_table

from lara_tokenizer.table import read_tokens

FORGED = "error: forged"
NAMES = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    f"a\n{FORGED}",
    "\r\x1b[2Kdone",
    "\x9b31m",
    "\x7fdel",
    "\u202egpj",
    "\u2028line",
    "[bold]markup[/x]",
    "../../up",
    "/etc/passwd",
]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table whose episodes and camera have such names."""
    folder = tmp_path_factory.mktemp("names")
    return write_table(folder / "a.parquet", {(name, f"top{NAMES[2]}\x1b[1m", "2f"): 6 for name in NAMES})


def _check(ran) -> None:
    for text in (ran.out, ran.err):
        controls = {character for character in text if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp")}
        assert controls <= {"\n"}
        assert not any(line.startswith(FORGED) for line in text.split("\n"))


def test_tables_are_described_and_compared_without_control_characters(lara_tok, table, tmp_path):
    codes = [[(row[0] + 1) % 16, *row[1:]] if row[0] >= 0 else row for row in read_tokens(table)["codes"].to_pylist()]
    other = edited(table, tmp_path / "b\x1b[31m.parquet", {"codes": codes})
    for command in (
        ["info", table],
        ["tokens", "diff", table, other],
        ["tokens", "merge", table, other, "--out", tmp_path / "c.parquet"],
        ["info", table, "--json"],
        ["tokens", "diff", table, other, "--json"],
    ):
        ran = lara_tok(*command)
        _check(ran)
        assert ran.code in (0, 1, 2)
        assert "diff" not in command or "[bold]markup[/x]" in ran.out
        if command[-1] == "--json":
            assert "\\u001b" in ran.out or "\\x1b" in ran.out
            json.loads(ran.out)


def test_a_missing_episode_and_camera_are_named_in_one_line(lara_tok, table, clip_folder, tmp_path):
    for more in (["--camera", "\x1bno"], []):
        ran = lara_tok("export", "webdataset", table, clip_folder, "--out", tmp_path / "out", *more)
        assert ran.code == 2
        _check(ran)
        assert ran.err.count("\n") == 1


def test_shards_of_such_names_unpack_below_their_folder(lara_tok, clip_folder, tmp_path):
    source = tmp_path / "clips"
    names = [name.replace("/", "") for name in NAMES]
    names = [f"{name.lstrip('.')}.mp4" for name in names]
    source.mkdir()
    for name in names:
        shutil.copy(clip_folder / "two.mp4", source / name)
    tokens = write_table(tmp_path / "t.parquet", {(name, "", "5f"): 24 for name in names}, source=[])
    ran = lara_tok("export", "webdataset", tokens, source, "--out", tmp_path / "out", "--no-images")
    assert ran.code == 0, ran.err
    with tarfile.open(tmp_path / "out/train-000000.tar") as shard:
        members = {os.path.dirname(name) for name in shard.getnames()}
    assert len(members) == len(NAMES)
    assert all(name.isascii() and name.isprintable() and not name.startswith("/") for name in members)
    assert not any(".." in name.split("/") for name in members)


def test_failures_name_their_files_in_one_line_each(lara_tok, clip_folder, tiny_checkpoint, tmp_path):
    source = shutil.copytree(clip_folder, tmp_path / "clips")
    for name in NAMES[:9]:
        (source / f"{name.replace('/', '')}.mp4").write_bytes(b"junk")
    ran = lara_tok("encode", source, "--out", tmp_path / "t.parquet", "--model", tiny_checkpoint, "--dry-run")
    _check(ran)
    assert ran.out.count("  failed ") == 9


def test_arguments_in_usage_errors_are_escaped(lara_tok):
    for command in (
        ["\x1b[31m\nerror: forged"],
        ["info", "--\x1b[31m\nerror: forged"],
        ["encode", "x", "--limit", "\x1b"],
    ):
        ran = lara_tok(*command)
        assert ran.code == 2
        _check(ran)
    assert "Usage:" in lara_tok().out


@pytest.mark.parametrize(
    "error", [KeyError("\x1b[2J\nerror: forged"), RecursionError("deep"), MemoryError(), AssertionError("x")]
)
def test_a_fault_is_one_line_with_a_code_of_its_own(lara_tok, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("lara_tokenizer.table.describe", fail)
    ran = lara_tok("info", "x")
    assert ran.code == 70
    assert ran.err.startswith(f"error: unexpected {type(error).__name__}")
    assert ran.err.endswith("run it again as lara-tok --debug ... and report it\n")
    assert ran.err.count("\n") == 1
    _check(ran)
    debugged = lara_tok("--debug", "info", "x")
    assert debugged.code == 70
    assert "Traceback" in debugged.err
    assert "\x1b" not in debugged.err


def test_an_interrupted_command_ends_with_130_and_a_closed_pipe_is_quiet(lara_tok, monkeypatch):
    for error, code in ((KeyboardInterrupt(), 130), (BrokenPipeError(32, "Broken pipe"), 1)):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr("lara_tokenizer.table.describe", fail)
        ran = lara_tok("info", "x")
        assert (ran.code, ran.err) == (code, "")


def test_an_export_that_is_terminated_says_how_to_go_on(lara_tok, monkeypatch):
    def export(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr("lara_tokenizer.export.export_webdataset", export, raising=False)
    ran = lara_tok("export", "webdataset", "t.parquet", "clips", "--out", "out")
    assert (ran.code, ran.err) == (143, "interrupted; the same command continues from there\n")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_stream_that_lacks_characters_gets_them_escaped(lara_tok, monkeypatch, encoding):
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", written)
        assert lara_tok("info", os.fsdecode(b"/caf\xe9/Stra\xc3\x9fe")).code == 2
    written.seek(0)
    shown = written.read()
    assert r"caf\udce9" in shown
    assert ("Straße" if encoding == "utf-8" else r"Stra\xdfe") in shown


def test_log_records_are_one_line_each_once_and_those_of_other_libraries_are_for_debugging(capfd):
    record = {"level": logging.WARNING, "pathname": "", "lineno": 0, "exc_info": None}
    for debug, count in ((False, 1), (True, 2)):
        handler = LogHandler(debug=debug)
        for name in ("lara_tokenizer.data.load", "lara_tokenizer.data.load", "torch"):
            handler.handle(logging.LogRecord(name, msg="left out: %s", args=("\x1b\nERROR: x",), **record))
        ours, others = [r"warning: left out: \x1b\nERROR: x"], ["warning: torch: left out: \\x1b", "ERROR: x"]
        assert capfd.readouterr().err.splitlines() == count * ours + others * debug
