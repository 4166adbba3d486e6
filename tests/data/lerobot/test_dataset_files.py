"""Files of a dataset by name: links are followed without end, and no name of the metadata leads out."""

from __future__ import annotations

import os

import pytest

from lara_tokenizer.data import load_episodes
from lara_tokenizer.data.dataset_files import LocalFiles
from lara_tokenizer.errors import EpisodeReadError


@pytest.fixture
def tree(tmp_path):
    """Two folders with a file each, beside a folder outside."""
    for name in ("set/data/a.parquet", "set/videos/top/b.mp4", "outside/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path / "set"


REAL = {"data/a.parquet", "videos/top/b.mp4"}


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ({"latest": "."}, REAL),
        ({"data/up": ".."}, REAL),
        ({"data/up": "../.."}, REAL),
        ({"self": "self"}, REAL | {"self"}),
        ({"x": "y", "y": "x"}, REAL | {"x", "y"}),
        ({"data/v": "../videos", "videos/d": "../data"},
         REAL | {"data/v/top/b.mp4", "videos/d/a.parquet"}),
        ({"aaa": "videos"}, REAL | {"aaa/top/b.mp4"}),
        ({"videos/wrist": "top"}, REAL | {"videos/wrist/b.mp4"}),
        ({"videos/side": "../../outside", "videos/rear": "../../outside"},
         REAL | {"videos/side/c.mp4", "videos/rear/c.mp4"}),
        ({"blob.mp4": "../outside/c.mp4"}, REAL | {"blob.mp4"}),
    ],
)  # fmt: skip
def test_every_file_is_named_and_no_circle_is_walked_twice(tree, links, expected):
    for name, target in links.items():
        (tree / name).symlink_to(target)
    assert LocalFiles(str(tree)).names() == expected


def test_many_links_to_each_other_end(tree):
    for i in range(12):
        (tree / f"d{i}").mkdir()
        for j in range(12):
            (tree / f"d{i}/l{j}").symlink_to(f"../d{j}")
    assert LocalFiles(str(tree)).names() >= REAL


def test_links_do_not_keep_a_dataset_from_being_read(set_v2, check_pairs):
    (set_v2 / "latest").symlink_to(".")
    (set_v2 / "data/up").symlink_to("..")
    assert [check_pairs(episode) for episode in load_episodes(set_v2)] == [""] * 4


def test_a_video_that_is_a_link_to_a_store_is_read(set_v3, check_pairs):
    video = set_v3 / "videos/observation.images.top/chunk-000/file-000.mp4"
    blob = set_v3.parent / "blob"
    video.rename(blob)
    video.symlink_to(os.path.relpath(blob, video.parent))
    assert [check_pairs(episode) for episode in load_episodes(set_v3)] == [""] * 4


@pytest.mark.parametrize(
    "name",
    ["../outside/c.mp4", "data/../../outside/c.mp4", "side/../../outside/c.mp4", "/etc/passwd", "", "a\0b", "..\\x"],
)
def test_a_name_that_leads_out_is_refused(tree, name):
    (tree / "side").symlink_to("../outside")
    files = LocalFiles(str(tree))
    with pytest.raises(EpisodeReadError, match="leads out of the dataset"):
        files.path(name)
    assert files.local(name) is None
    assert files.path(str(tree / "data/a.parquet")) == tree / "data/a.parquet"
    with pytest.raises(EpisodeReadError, match="it is missing"):
        files.path("n" * 5000)
