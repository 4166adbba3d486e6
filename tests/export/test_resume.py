"""Exports that were killed: stored parts are taken only if they are whole, and only for the source they are of."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lara_tokenizer.data import FrameReader, load_episodes
from lara_tokenizer.errors import EpisodeReadError, JobMismatchError
from lara_tokenizer.export import (
    export_groot,
    export_lapa,
    export_lerobot,
    export_moto,
    export_univla,
    export_webdataset,
    job,
)

TOP = "observation.images.top"
OF_CLIPS = {
    "lapa": (export_lapa, {}),
    "univla": (export_univla, {}),
    "webdataset": (export_webdataset, {"shard_size": 25}),
    "moto": (export_moto, {}),
    "calvin": (export_moto, {"style": "calvin"}),
}
OF_DATASET = {"lerobot": export_lerobot, "groot": export_groot}


@pytest.fixture(scope="module")
def demos(tmp_path_factory, write_lerobot):
    """Two episodes of 13 and 9 frames in LeRobot's format v2.1."""
    images = np.random.default_rng(0).integers(0, 256, (22, 32, 32, 3), np.uint8)
    root = tmp_path_factory.mktemp("lerobot") / "demos"
    return write_lerobot(root, {TOP: np.split(images, [13])}, version="v2.1", tasks=["push", "pull"])


@pytest.fixture
def labels(tmp_path, write_tokens):
    """Latents of both episodes of `demos`."""
    lengths = {"episode_000000": 13, "episode_000001": 9}
    indices = {name: index for index, name in enumerate(lengths)}
    return write_tokens(tmp_path / "l.parquet", lengths, cameras=(TOP,), sizes=(4, 3, None), indices=indices)


@dataclass
class Backed:
    """A reader of a file that it names."""

    reader: FrameReader
    file: Path

    def __getattr__(self, name: str) -> Any:
        if name in ("reader", "file") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.reader, name)

    def files(self, camera: str) -> tuple[Path, ...]:
        return (self.file,)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _is_killed(monkeypatch, export, *arguments, **options):
    """Run an export up to its last step."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "write_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            export(*arguments, **options)


def _damage(folder: Path, how: str) -> int:
    """Damage every file that is not one of the source's; returns their count."""
    damaged = 0
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_nlink == 1:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            if how == "removed":
                path.unlink()
            else:
                path.write_bytes(content if how == "bit flip" else content[: len(content) // 2])
            damaged += 1
    return damaged


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(("lapa", "cut"), ("univla", "removed"), ("webdataset", "bit flip"), ("webdataset", "cut")),
        *(("moto", "bit flip"), ("calvin", "cut")),
    ],
)
def test_damaged_parts_of_a_killed_export_are_made_again(name, how, tokens, clips, tmp_path, monkeypatch):
    export, options = OF_CLIPS[name]
    export(tokens, clips, tmp_path / "whole", workers=0, **options)
    out = tmp_path / "out"
    _is_killed(monkeypatch, export, tokens, clips, out, workers=0, **options)
    assert _damage(tmp_path / "out.partial/export", how)
    export(tokens, clips, out, workers=0, **options)
    assert _files(out) == _files(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(("name", "how"), [("lerobot", "bit flip"), ("lerobot", "removed"), ("groot", "cut")])
def test_damaged_files_of_a_killed_labelled_dataset_are_made_again(name, how, labels, demos, tmp_path, monkeypatch):
    export = OF_DATASET[name]
    (demos / "README.md").write_text("copied, not linked")
    export(labels, demos, tmp_path / "whole")
    _is_killed(monkeypatch, export, labels, demos, tmp_path / "out")
    assert _damage(tmp_path / "out.partial/export", how)
    for scratch in (tmp_path / "out.partial/scratch").iterdir():
        scratch.write_bytes(b"PAR1")
    export(labels, demos, tmp_path / "out")
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")


@pytest.mark.parametrize(("content", "message"), [(b"{", "not JSON"), (b"[]", "not the job"), (b"\xff", "not JSON")])
def test_a_damaged_job_says_so_in_one_line(content, message, tokens, clips, tmp_path, monkeypatch):
    _is_killed(monkeypatch, export_univla, tokens, clips, tmp_path / "out", images=False)
    (tmp_path / "out.partial/job.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        export_univla(tokens, clips, tmp_path / "out", images=False)
    assert "\n" not in str(error.value)


def test_a_damaged_list_of_finished_parts_costs_no_more_than_time(tokens, clips, tmp_path, monkeypatch):
    export_univla(tokens, clips, tmp_path / "whole", workers=0)
    _is_killed(monkeypatch, export_univla, tokens, clips, tmp_path / "out", workers=0)
    (tmp_path / "out.partial/done.txt").write_bytes(b"\xff\x00 nonsense\n" + b"a" * 500)
    export_univla(tokens, clips, tmp_path / "out", workers=0)
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")


def test_an_export_does_not_go_on_with_another_file_of_the_same_name(tokens, clips, tmp_path, monkeypatch):
    source = shutil.copytree(clips, tmp_path / "clips")

    def episodes():
        loaded = load_episodes(source)
        for episode in loaded:
            episode.reader = Backed(episode.reader, source / episode.id)
        return loaded

    out = tmp_path / "out"
    _is_killed(monkeypatch, export_univla, tokens, episodes(), out, workers=0)
    before = (source / "a.mp4").stat()
    os.utime(source / "a.mp4", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(JobMismatchError, match=r"begun before its source changed: a.mp4. Delete it"):
        export_univla(tokens, episodes(), out, workers=0)
    os.utime(source / "a.mp4", ns=(before.st_atime_ns, before.st_mtime_ns))
    export_univla(tokens, episodes(), out, workers=0)
    export_univla(tokens, clips, tmp_path / "whole", workers=0)
    assert _files(out)["train.jsonl"] == _files(tmp_path / "whole")["train.jsonl"]


def test_a_file_that_changes_while_it_is_exported_ends_the_export(tokens, clips, tmp_path):
    source = shutil.copytree(clips, tmp_path / "clips")
    loaded = load_episodes(source)
    for episode in loaded:
        episode.reader = Backed(episode.reader, source / episode.id)

    def touch(done, total):
        if done == total:  # while frames are still read, the reader notices
            os.utime(source / "b/left.mp4", ns=(0, 1))

    with pytest.raises(EpisodeReadError, match=r"b/left.mp4: left.mp4 changed while it was exported"):
        export_univla(tokens, loaded, tmp_path / "out", workers=0, progress=touch)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "file", "how"),
    [
        *(("lapa", "train.jsonl", "cut"), ("univla", "images/a.mp4/img_00000.jpg", "removed")),
        *(("webdataset", "train-000001.tar", "cut"), ("moto", "lmdb/lara/train/data.mdb", "removed")),
        *(
            ("moto", "video/lara/image/train_eps_00000001.mp4", "emptied"),
            ("lapa", "images/a.mp4/img_00003.jpg", "cut"),
        ),
    ],
)
def test_complete_already_is_not_said_of_files_that_are_gone_or_cut(name, file, how, tokens, clips, tmp_path):
    export, options = OF_CLIPS[name]
    export(tokens, clips, tmp_path / "out", workers=0, **options)
    assert "complete already" in export(tokens, clips, tmp_path / "out", workers=0, **options).notes[-1]
    path = tmp_path / "out" / file
    content = path.read_bytes()
    path.unlink()
    if how != "removed":
        path.write_bytes(content[: len(content) - 9] if how == "cut" else b"")
    with pytest.raises(ValueError, match=rf"out was changed since it was exported: {file}. Delete it"):
        export(tokens, clips, tmp_path / "out", workers=0, **options)


def test_complete_already_is_said_of_the_same_source_and_whole_files_alone(
    tokens, clips, labels, demos, tmp_path, write_video, moving_square
):
    source = shutil.copytree(clips, tmp_path / "clips")
    export_univla(tokens, source, tmp_path / "out", images=False)
    assert "complete already" in export_univla(tokens, source, tmp_path / "out", images=False).notes[-1]
    write_video(source / "a.mp4", moving_square(20))
    with pytest.raises(ValueError, match=r"has 20 frames in the source"):
        export_univla(tokens, source, tmp_path / "out", images=False)
    export_lerobot(labels, demos, tmp_path / "labelled")
    (tmp_path / "labelled/meta/info.json").write_text("{}")
    with pytest.raises(ValueError, match=r"labelled was changed since it was exported: meta/info.json"):
        export_lerobot(labels, demos, tmp_path / "labelled")
    (tmp_path / "labelled/label_manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="not the manifest of an export"):
        export_lerobot(labels, demos, tmp_path / "labelled")
