"""Sources that change between runs, during a run and after it: no table mixes two contents of a file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lara_tokenizer.data import Episode, FrameIndex, VideoReader
from lara_tokenizer.encode.store import Store
from lara_tokenizer.encode.tasks import Encoded
from lara_tokenizer.errors import EpisodeReadError, JobMismatchError
from lara_tokenizer.table import merge_tokens, read_metadata, read_tokens
from lara_tokenizer.table.provenance import (
    FileState,
    change_of,
    content_sha256,
    file_states,
    joint_sha256,
    newer_files,
)

LENGTH = 24  # frames, of which 20 start a pair: three units


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr("lara_tokenizer.encode.plan.MAX_ANCHORS", 8)


@pytest.fixture(scope="module")
def films(tmp_path_factory, moving_square, write_video):
    """x: the clip of the source; other and shorter: what it is replaced by; y: its neighbour."""
    folder = tmp_path_factory.mktemp("films")
    for seed, (name, length) in enumerate({"x": LENGTH, "other": LENGTH, "shorter": 14, "y": LENGTH}.items()):
        write_video(folder / f"{name}.mp4", moving_square(length, seed=seed, step=seed + 2))
    return folder


@pytest.fixture
def source(tmp_path, films) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("x.mp4", "y.mp4"):
        shutil.copyfile(films / name, folder / name)
    return folder


@pytest.fixture
def encode_source(encode, source):
    """encode_source(out): the table's bytes, and the summary."""

    def run(out, **options):
        summary = encode(out, source=source, strides="4f", **options)
        return (Path(out).read_bytes() if Path(out).exists() else None), summary

    return run


@pytest.fixture
def undisturbed(encode_source, source, films, tmp_path_factory):
    """undisturbed("other"): the bytes of a table of the source with that film as x.mp4, without a kill."""

    def run(film: str | None):
        kept = (source / "x.mp4").read_bytes() if (source / "x.mp4").exists() else None
        if film is None:
            (source / "x.mp4").unlink(missing_ok=True)
        else:
            shutil.copyfile(films / f"{film}.mp4", source / "x.mp4")
        table, _ = encode_source(tmp_path_factory.mktemp("undisturbed") / "t.parquet")
        if kept is not None:
            (source / "x.mp4").write_bytes(kept)
        return table

    return run


class Stop(Exception):
    """Ends a run as a kill does: what was committed is there, nothing else happens."""


def after_unit(monkeypatch, number, act):
    """Call `act` after so many units were committed."""
    commit, done = Store.commit, []

    def counting(store, event):
        tasks = commit(store, event)
        if isinstance(event, Encoded):
            done.append(event)
            if len(done) == number:
                act()
        return tasks

    monkeypatch.setattr(Store, "commit", counting)


def stop():
    raise Stop


def replace_by(source, film):
    """A new file under the old name, as rsync and editors make it."""
    shutil.copyfile(film, source / "new")
    os.replace(source / "new", source / "x.mp4")


# In the middle of x, and when x is done and y nearly so.
@pytest.mark.parametrize(("film", "units"), [("other", 1), ("shorter", 5)])
def test_a_clip_replaced_between_runs_is_planned_again_and_others_are_not(
    encode_source, undisturbed, source, films, tmp_path, monkeypatch, caplog, film, units
):
    expected = undisturbed(film)
    out = tmp_path / "t.parquet"
    with monkeypatch.context() as patch:
        after_unit(patch, units, stop)
        with pytest.raises(Stop):
            encode_source(out)
    replace_by(source, films / f"{film}.mp4")
    encoded = []
    with monkeypatch.context() as patch:
        commit = Store.commit
        patch.setattr(Store, "commit", lambda store, event: encoded.append(event) or commit(store, event))
        table, summary = encode_source(out)
    assert table == expected
    assert (summary.failed, summary.encoded) == ({}, 2)
    assert "x.mp4: x.mp4 changed; all of it is encoded again" in caplog.text
    again = [(event.unit.episode, event.unit.first) for event in encoded if isinstance(event, Encoded)]
    assert [name for name, _ in again].count("y.mp4") == (3 if units == 1 else 1)


def test_a_clip_that_was_only_touched_or_whose_source_moved_keeps_what_is_done(
    encode, undisturbed, source, tmp_path, monkeypatch
):
    expected = undisturbed("x")
    out = tmp_path / "t.parquet"
    after_unit(monkeypatch, 2, stop)
    with pytest.raises(Stop):
        encode(out, source=source, strides="4f")
    (source / "x.mp4").chmod(0o600)  # changes the ctime alone
    (tmp_path / "elsewhere").mkdir()
    moved = source.rename(tmp_path / "elsewhere" / source.name)
    units = []
    after_unit(monkeypatch, 1, lambda: None)
    commit = Store.commit
    monkeypatch.setattr(Store, "commit", lambda store, event: units.append(event) or commit(store, event))
    encode(out, source=moved, strides="4f")
    assert sum(isinstance(event, Encoded) for event in units) == 4
    assert out.read_bytes() == expected


def test_a_clip_deleted_between_runs_is_a_failure_once_and_then_gone(
    encode_source, undisturbed, source, films, tmp_path, monkeypatch
):
    expected = undisturbed(None)
    out = tmp_path / "t.parquet"
    with monkeypatch.context() as patch:
        after_unit(patch, 1, stop)
        with pytest.raises(Stop):
            encode_source(out)
    (source / "x.mp4").unlink()
    _, summary = encode_source(out)
    assert summary.failed == {"x.mp4": "x.mp4 is gone since the job was begun"}
    assert (summary.episodes, summary.encoded) == (2, 1)
    assert [json.loads(line)["episode"] for line in Path(f"{out}.failed.jsonl").read_text().splitlines()] == ["x.mp4"]
    assert set(read_tokens(out)["episode"].to_pylist()) == {"y.mp4"}
    table, summary = encode_source(out)  # it is no part of the source any more
    assert (table, summary.failed) == (expected, {})
    assert not Path(f"{out}.job").exists()


def test_a_file_that_comes_back_finds_what_was_done(encode, undisturbed, source, tmp_path, monkeypatch):
    expected = undisturbed("x")
    out = tmp_path / "t.parquet"
    with monkeypatch.context() as patch:
        after_unit(patch, 1, stop)
        with pytest.raises(Stop):
            encode(out, source=source, strides="4f")
    away = (source / "x.mp4").rename(tmp_path / "away.mp4")
    encode(out, source=source, strides="4f")
    away.rename(source / "x.mp4")
    units = []
    commit = Store.commit
    monkeypatch.setattr(Store, "commit", lambda store, event: units.append(event) or commit(store, event))
    assert encode(out, source=source, strides="4f").failed == {}
    assert sum(isinstance(event, Encoded) for event in units) == 2
    assert out.read_bytes() == expected


@pytest.mark.parametrize("change", ["replaced", "cut", "gone"])
def test_a_clip_that_changes_while_it_is_read_fails_and_is_tried_again(
    encode_source, undisturbed, source, films, tmp_path, monkeypatch, change
):
    def act():
        if change == "replaced":
            replace_by(source, films / "other.mp4")
        elif change == "cut":
            os.truncate(source / "x.mp4", 1000)
        else:
            (source / "x.mp4").unlink()

    out = tmp_path / "t.parquet"
    with monkeypatch.context() as patch:
        after_unit(patch, 1, act)
        _, summary = encode_source(out)
    verb = "is gone" if change == "gone" else "changed"
    assert summary.failed == {"x.mp4": f"x.mp4 {verb} while it was read"}
    assert set(read_tokens(out)["episode"].to_pylist()) == {"y.mp4"}
    shutil.copyfile(films / "other.mp4", source / "x.mp4")
    table, summary = encode_source(out)
    assert summary.failed == {}
    assert table == undisturbed("other")


def test_a_clip_that_changes_after_it_was_read_is_no_part_of_the_table(
    encode_source, undisturbed, source, films, tmp_path, monkeypatch
):
    out = tmp_path / "t.parquet"
    with monkeypatch.context() as patch:
        after_unit(patch, 5, lambda: replace_by(source, films / "other.mp4"))
        _, summary = encode_source(out)
    assert summary.failed == {"x.mp4": "x.mp4 changed while the job was running"}
    assert set(read_tokens(out)["episode"].to_pylist()) == {"y.mp4"}
    table, summary = encode_source(out)
    assert (table, summary.failed) == (undisturbed("other"), {})


def test_a_clip_that_changes_while_the_table_is_written_is_left_out(
    encode_source, source, films, tmp_path, monkeypatch
):
    from lara_tokenizer.table import write

    out, write_file, written = tmp_path / "t.parquet", write._write_file, []

    def replacing(*arguments):
        write_file(*arguments)
        if not written:
            replace_by(source, films / "other.mp4")
        written.append(arguments)

    monkeypatch.setattr(write, "_write_file", replacing)
    _, summary = encode_source(out)
    assert len(written) == 2
    assert summary.failed == {"x.mp4": "x.mp4 changed while the job was running"}
    assert set(read_tokens(out)["episode"].to_pylist()) == {"y.mp4"}


def test_a_clip_that_changes_stops_a_run_that_is_to_fail(encode_source, source, tmp_path, monkeypatch):
    after_unit(monkeypatch, 5, lambda: os.utime(source / "x.mp4"))
    with pytest.raises(EpisodeReadError, match=r"x\.mp4 changed while the job was running"):
        encode_source(tmp_path / "t.parquet", on_error="fail")
    assert not (tmp_path / "t.parquet").exists()


def test_a_finished_table_notices_that_its_files_changed(encode_source, source, films, tmp_path, monkeypatch):
    out = tmp_path / "t.parquet"
    before, _ = encode_source(out)
    monkeypatch.setattr("lara_tokenizer.table.provenance._CLOCK_STEP_NS", 0)
    with monkeypatch.context() as patch:
        patch.setattr("lara_tokenizer.encode.job.EncodeJob.engine", None)  # nothing is newer: nothing is read
        assert encode_source(out)[1].already_complete
    os.utime(source / "x.mp4")
    assert encode_source(out)[1].already_complete  # the same content
    replace_by(source, films / "other.mp4")
    with pytest.raises(JobMismatchError, match=r"made from other files; changed since: x\.mp4\. Name another --out"):
        encode_source(out)
    (source / "x.mp4").write_bytes(b"")
    with pytest.raises(JobMismatchError, match=r"changed since: x\.mp4: the file is empty"):
        encode_source(out)
    assert out.read_bytes() == before


def test_tables_of_other_contents_are_not_joined(encode, source, films, tmp_path):
    encode(tmp_path / "2f.parquet", source=source, strides="2f")
    encode(tmp_path / "4f.parquet", source=source, strides="4f")
    merge_tokens([tmp_path / "2f.parquet", tmp_path / "4f.parquet"], tmp_path / "both.parquet")
    options = {"source": source, "strides": ["2f", "4f"]}
    assert encode(tmp_path / "both.parquet", **options).already_complete
    replace_by(source, films / "other.mp4")
    with pytest.raises(JobMismatchError, match="made from other files"):
        encode(tmp_path / "both.parquet", **options)
    encode(tmp_path / "other.parquet", source=source, strides="4f")
    with pytest.raises(
        ValueError, match=r"2f\.parquet and .*other\.parquet have the same episodes, made from files of"
    ):
        merge_tokens([tmp_path / "2f.parquet", tmp_path / "other.parquet"], tmp_path / "mixed.parquet")


def test_two_copies_of_a_folder_give_equal_tables_and_know_each_other(encode_source, encode, source, tmp_path):
    out = tmp_path / "t.parquet"
    table, _ = encode_source(out)
    copy = shutil.copytree(source, tmp_path / "copy" / source.name, copy_function=shutil.copyfile)
    encode(tmp_path / "copy.parquet", source=copy, strides="4f")
    assert (tmp_path / "copy.parquet").read_bytes() == table
    assert encode(out, source=copy, strides="4f").already_complete
    assert len(read_metadata(out)["episodes"]["content_sha256"]) == 64


def test_a_table_without_local_files_is_as_before(encode, array_episode, moving_square, tmp_path):
    encode(tmp_path / "t.parquet", source=[array_episode(moving_square(24))], strides="4f")
    assert set(read_metadata(tmp_path / "t.parquet")["episodes"]) == {"count", "failed", "ids_sha256"}


def test_frames_without_compression_are_told_apart_by_their_bytes(write_video, moving_square, tmp_path):
    digests = []
    for seed in (0, 1):
        path = tmp_path / str(seed) / "raw.avi"
        write_video(path, moving_square(40, seed=seed), codec="rawvideo", pix_fmt="bgr24")
        episode = Episode("raw.avi", VideoReader(path))
        digests.append(content_sha256(episode, {"": FrameIndex(np.arange(40) / 10, 10.0)}))
    assert (tmp_path / "0" / "raw.avi").stat().st_size == (tmp_path / "1" / "raw.avi").stat().st_size
    assert digests[0] != digests[1]


class ManyFiles:
    """A reader of a folder of images."""

    def __init__(self, folder):
        self.folder = folder

    def files(self, camera):
        return tuple(sorted(self.folder.iterdir()))


def test_many_files_have_one_state_that_no_change_escapes(tmp_path):
    for index in range(40):
        (tmp_path / f"{index:03}.png").write_bytes(b"pixels")
    episode = Episode("folder", ManyFiles(tmp_path))
    (before,) = file_states(episode)
    assert change_of([before], file_states(episode)) == ""
    os.utime(tmp_path / "017.png", ns=(1, 1))
    assert change_of([before], file_states(episode)) == f"{tmp_path.name} changed"
    assert newer_files([episode], before.changed_ns + 10**12) == []
    assert newer_files([episode], before.changed_ns - 1) == ["folder"]


def test_changes_are_named():
    one, two, gone = FileState("a/1.mp4", 5, 6, 7), FileState("a/2.mp4", 5, 6, 8), FileState("a/1.mp4", -1, -1, -1)
    assert change_of([one], [two]) == ""  # another place and another ctime
    assert change_of([one, two], [one]) == "2.mp4 is gone"
    assert change_of([one], [one, two]) == "2.mp4 was added"
    assert change_of([one], [gone]) == "1.mp4 is gone"
    assert change_of([gone], [gone]) == ""
    assert (
        joint_sha256({"a": "1", "b": "2"}) == joint_sha256({"b": "2", "a": "1"}) != joint_sha256({"a": "12", "b": ""})
    )


def test_a_set_of_episodes_may_shrink_and_grow_between_runs(encode, source, films, tmp_path, monkeypatch):
    shutil.copyfile(films / "other.mp4", source / "z.mp4")
    encode(tmp_path / "whole.parquet", source=source, strides="4f")
    encode(tmp_path / "two.parquet", source=source, strides="4f", limit=2)
    out = tmp_path / "t.parquet"
    with monkeypatch.context() as patch:
        after_unit(patch, 7, stop)  # x and y are done, z is begun
        with pytest.raises(Stop):
            encode(out, source=source, strides="4f")
    with monkeypatch.context() as patch:
        patch.setattr("lara_tokenizer.encode.job.EncodeJob.engine", None)  # nothing is left to do for these two
        patch.setattr(Store, "discard", lambda _: None)
        assert encode(out, source=source, strides="4f", limit=2).failed == {}
    assert out.read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert encode(out, source=source, strides="4f").resumed == 2
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_names_that_are_no_text_cost_their_episode_at_most(encode, array_episode, moving_square, films, tmp_path):
    (tmp_path / "clips").mkdir()
    names = [b"caf\xe9.mp4", b"two\nlines.mp4", b"\x1b[31mred.mp4"]
    for name in names:
        shutil.copyfile(films / "x.mp4", os.path.join(os.fsencode(tmp_path / "clips"), name))
    with open(os.path.join(os.fsencode(tmp_path / "clips"), b"bad\xff.mp4"), "wb"):
        pass
    summary = encode(tmp_path / "t.parquet", source=tmp_path / "clips", strides="4f")
    assert (summary.encoded, len(summary.failed)) == (3, 1)
    (reason,) = summary.failed.values()
    assert "empty" in reason
    assert "bad" not in reason  # the episode's name is said once, before the reason
    assert read_tokens(tmp_path / "t.parquet").num_rows == 3 * 20
    frames = moving_square(LENGTH)
    episodes = [array_episode(frames, id="a", cameras=("\ud800",)), array_episode(frames, id="b")]
    summary = encode(tmp_path / "cameras.parquet", source=episodes, strides="4f")
    assert summary.failed == {"a": r"camera '\ud800': its name is not valid text"}
