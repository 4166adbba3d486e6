"""Links in a LeRobotDataset: what is within it is carried as files, and nothing from elsewhere is, in any export."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lara_tokenizer.export import export_groot, export_lerobot, undo_lerobot
from lara_tokenizer.export.lerobot.files import BROKEN, LOOP, NESTED, OUTSIDE, SPECIAL, list_files

TOP = "observation.images.top"
LENGTHS = (13, 9)
SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----"


@pytest.fixture(scope="module")
def plain(tmp_path_factory, write_lerobot):
    """Two episodes in each version."""
    images = np.random.default_rng(0).integers(0, 256, (sum(LENGTHS), 32, 32, 3), np.uint8)
    folder = tmp_path_factory.mktemp("lerobot")
    clips = {TOP: np.split(images, [LENGTHS[0]])}
    return {v: write_lerobot(folder / v, clips, version=v, tasks=["push", "pull"]) for v in ("v3.0", "v2.1")}


@pytest.fixture(params=["v3.0", "v2.1"])
def dataset(request, plain, tmp_path):
    """A copy of the dataset, in one version after the other."""
    return shutil.copytree(plain[request.param], tmp_path / "demos")


@pytest.fixture
def secret(tmp_path):
    """A folder elsewhere, with a file that nobody wants to publish."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/id_rsa").write_bytes(SECRET)
    return tmp_path / "home/id_rsa"


@pytest.fixture
def table(tmp_path, write_tokens):
    """Latents of episode 0."""
    name = "episode_000000"
    sizes = (4, 3, None)
    return write_tokens(tmp_path / "t.parquet", {name: 13}, cameras=(TOP,), sizes=sizes, indices={name: 0})


def _names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def _plant(dataset: Path, secret: Path) -> None:
    """Links to a file and to a folder elsewhere, absolute and relative, of names that look harmless."""
    (dataset / "images").mkdir()
    (dataset / "images/readme.png").symlink_to(secret)
    (dataset / "meta/notes.txt").symlink_to(os.path.relpath(secret, dataset / "meta"))
    (dataset / "videos/all").symlink_to(secret.parent)


def test_files_that_links_name_elsewhere_are_left_out_with_a_note(dataset, table, secret, tmp_path):
    before = _names(dataset)
    _plant(dataset, secret)
    summary = export_lerobot(table, dataset, tmp_path / "out")
    assert _names(tmp_path / "out") == before | {"label_manifest.json"}
    assert secret.stat().st_nlink == 1
    note = "left out: a link that leads out of the dataset: images/readme.png, meta/notes.txt, videos/all"
    assert note in summary.notes
    again = export_lerobot(table, dataset, tmp_path / "out")
    assert "complete already" in again.notes[-1]
    if "v2.1" in (dataset / "meta/info.json").read_text():
        assert note in export_groot(table, dataset, tmp_path / "groot").notes
        assert SECRET not in b"".join(file.read_bytes() for file in (tmp_path / "groot").rglob("*") if file.is_file())


def test_in_place_leaves_them_out_too_and_undo_brings_them_back(plain, table, secret, tmp_path):
    dataset = shutil.copytree(plain["v3.0"], tmp_path / "demos")
    _plant(dataset, secret)
    export_lerobot(table, dataset, in_place=True)
    assert not list_files(dataset).left_out
    assert undo_lerobot(dataset) == dataset
    assert (dataset / "videos/all").resolve() == secret.parent
    assert secret.read_bytes() == SECRET


def test_a_link_added_to_labels_in_place_is_a_change_that_undo_refuses_to_lose(plain, table, secret, tmp_path):
    dataset = shutil.copytree(plain["v3.0"], tmp_path / "demos")
    export_lerobot(table, dataset, in_place=True)
    (dataset / "mine").symlink_to(secret)
    with pytest.raises(ValueError, match=r"was changed since it was labelled \(mine\)"):
        undo_lerobot(dataset)


@pytest.mark.parametrize(
    "name", ["data", "data/chunk-000", "meta/tasks.parquet", "meta/episodes", "videos", f"videos/{TOP}"]
)
def test_a_needed_file_elsewhere_is_refused_before_anything_is_written(name, plain, table, tmp_path):
    dataset = shutil.copytree(plain["v3.0"], tmp_path / "demos")
    shutil.move(dataset / name, tmp_path / "elsewhere")
    (dataset / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"leads out of the dataset, and the dataset needs it. .*cp -rL"):
        export_lerobot(table, dataset, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_links_within_the_dataset_are_carried_as_files(plain, table, tmp_path):
    dataset = shutil.copytree(plain["v3.0"], tmp_path / "demos")
    shutil.move(dataset / "videos", dataset / "stored")
    (dataset / "videos").symlink_to("stored")
    (dataset / "README.md").symlink_to("meta/info.json")
    (dataset / "latest").symlink_to(".")
    (dataset / "data/up").symlink_to("..")
    (tmp_path / "link").symlink_to(dataset)
    export_lerobot(table, tmp_path / "link", tmp_path / "out")
    assert not any(file.is_symlink() for file in (tmp_path / "out").rglob("*"))
    (video,) = dataset.glob("videos/*/*/*.mp4")
    assert (tmp_path / "out" / video.relative_to(dataset)).samefile(video)
    assert (tmp_path / "out/README.md").read_text() == (dataset / "meta/info.json").read_text()


def test_a_snapshot_of_the_hubs_cache_is_carried_but_not_another_repositorys(plain, table, secret, tmp_path):
    repository = tmp_path / "hub/datasets--user--demos"
    snapshot = shutil.copytree(plain["v3.0"], repository / "snapshots/0123abcd")
    (repository / "blobs").mkdir()
    for index, name in enumerate(sorted(_names(snapshot))):
        blob = repository / "blobs" / f"{index:040x}"
        shutil.move(snapshot / name, blob)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    other = tmp_path / "hub/datasets--user--private/blobs/00"
    other.parent.mkdir(parents=True)
    other.write_bytes(SECRET)
    (snapshot / "notes.txt").symlink_to(other)
    summary = export_lerobot(table, snapshot, tmp_path / "out")
    assert _names(tmp_path / "out") == _names(plain["v3.0"]) | {"label_manifest.json"}
    assert not any(file.is_symlink() for file in (tmp_path / "out").rglob("*"))
    assert "out of the dataset: notes.txt" in summary.notes[0]
    with pytest.raises(ValueError, match=r"in the Hub's cache.* --out"):
        export_lerobot(table, snapshot, in_place=True)


def test_loops_end_and_every_kind_of_entry_has_a_reason(tmp_path):
    root = (tmp_path / "demos").resolve()
    (root / "data/deep").mkdir(parents=True)
    (root / "data/rows").touch()
    (root / "latest").symlink_to(".")
    (root / "data/up").symlink_to("..")
    (root / "data/deep/back").symlink_to("../../data")
    (root / "copy").symlink_to("data")
    (root / "data/deep/other").symlink_to("../../more")
    (root / "more").mkdir()
    (root / "gone").symlink_to("nothing")
    (root / "round").symlink_to("round")
    (root / "out").symlink_to("/")
    os.mkfifo(root / "pipe")
    found = list_files(root)
    assert found.names == {"data/rows", "copy/rows"}
    loops = ["latest", "data/up", "data/deep/back", "copy/up", "copy/deep/back"]
    assert found.left_out == {
        **dict.fromkeys(loops, LOOP),
        **dict.fromkeys(["gone", "round"], BROKEN),
        "copy/deep/other": NESTED,
        "out": OUTSIDE,
        "pipe": SPECIAL,
    }


def test_a_push_uploads_what_was_exported_and_nothing_else(plain, table, secret, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    uploaded: list = []

    class Api:
        def upload_folder(self, *, folder_path, ignore_patterns, **_):
            found = [file.relative_to(folder_path).as_posix() for file in folder_path.glob("**/*") if file.is_file()]
            uploaded.extend(filter_repo_objects(found, ignore_patterns=ignore_patterns))

        def __getattr__(self, name):
            return lambda *args, **options: None

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_test")
    out = tmp_path / "out"
    export_lerobot(table, plain["v3.0"], out)
    (out / "key").symlink_to(secret)
    (out / "folder").symlink_to(secret.parent)
    (out / "[a-z]*.txt").write_text("mine")
    summary = export_lerobot(table, plain["v3.0"], out, push="me/demos")
    assert set(uploaded) == _names(plain["v3.0"]) | {"label_manifest.json"}
    assert summary.notes[-2] == "not pushed, as this export did not write it: [a-z]*.txt, folder, key"
