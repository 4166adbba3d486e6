"""Folders as people leave them: links, odd names, recordings of other kinds, frames of several episodes."""

from __future__ import annotations

import glob
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lara_tokenizer.data import load_episodes
from lara_tokenizer.data.folders import LeftOut, find_paths
from lara_tokenizer.errors import EpisodeReadError


def listed(source, **options) -> list[str]:
    return [episode.id for episode in load_episodes(source, **options)]


def notes(source, **options) -> str:
    return str(load_episodes(source, **options).sources[0])


@pytest.fixture
def box(tmp_path) -> Path:
    """A folder with one.mp4 and sub/two.mp4, which nobody opens, beside a film that is not in it."""
    folder = tmp_path / "box"
    (folder / "sub").mkdir(parents=True)
    for name in ("box/one.mp4", "box/sub/two.mp4", "beside.mp4"):
        (tmp_path / name).write_bytes(b"no video")
    return folder


# --- links ----------------------------------------------------------------------------------------------------------


def test_links_neither_loop_nor_lead_out_and_are_counted(box):
    (box / "sub/up").symlink_to("..")
    (box / "sub/out").symlink_to("../..")
    (box / "self").symlink_to(".")
    (box / "gone.mp4").symlink_to("nowhere.mp4")
    for source in (box, f"{box}/**", f"{box}/**/*.mp4", f"{box.parent}/b*/**/*"):
        assert listed(source)[-1].endswith("sub/two.mp4")
        assert len(listed(source)) == 2
    assert "1 links lead nowhere and are left out: gone.mp4" in notes(box)
    assert "3 links lead to a folder around them and are not followed: self ..." in notes(box)


def test_two_links_to_a_film_are_two_episodes_and_a_folder_is_entered_once(box):
    (box / "again.mp4").symlink_to("one.mp4")
    (box / "twin").symlink_to("sub")
    assert listed(box) in (["again.mp4", "one.mp4", "sub/two.mp4"], ["again.mp4", "one.mp4", "twin/two.mp4"])


@pytest.mark.parametrize("pattern", ["**", "**/*.mp4", "sub/**", "**/sub/*", "*/**/two.mp4", "**/**", "no/**", "**/"])
def test_a_glob_finds_what_pythons_own_finds(box, pattern):
    found, expected = find_paths(f"{box}/{pattern}", LeftOut()), glob.glob(f"{box}/{pattern}", recursive=True)
    assert [path for path in found if os.path.isfile(path)] == sorted(
        {each for each in expected if os.path.isfile(each)}
    )


def test_a_named_pipe_is_no_film(box):
    os.mkfifo(box / "pipe.mp4")
    assert listed(box) == ["one.mp4", "sub/two.mp4"]


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_name_that_is_not_utf8_costs_nothing_and_is_escaped(tmp_path, film):
    try:
        shutil.copy(film, os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / os.fsdecode(b"d\xe9p")).mkdir()
    for name in (rb"caf\udce9.mp4", b"d\xe9p/x.mp4", b"bad\xe9.mp4"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"no video")
    episodes = {episode.id: episode for episode in load_episodes(tmp_path)}
    assert list(episodes) == [r"bad\udce9.mp4", r"caf\udce9.mp4", r"caf\udce9.mp4#2", r"d\udce9p/x.mp4"]
    assert episodes[r"caf\udce9.mp4#2"].num_frames() == 45  # the other file has this name without an escape
    with pytest.raises(EpisodeReadError) as caught:
        episodes[r"bad\udce9.mp4"].num_frames()
    assert str(caught.value).isascii()
    (tmp_path / "l.txt").write_bytes(b"caf\xe9.mp4\n")
    assert load_episodes(f"list:{tmp_path}/l.txt")[0].num_frames() == 45
    assert load_episodes(tmp_path / os.fsdecode(b"d\xe9p"))[0].dataset == r"d\udce9p"


def test_names_that_differ_only_in_their_unicode_form_are_two_films(box):
    for name in ("Tu\u0308r.mp4", "T\u00fcr.mp4"):
        (box / name).write_bytes(b"x")
    assert len(listed(box)) == 4


# --- suffixes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.MTS", "a.m2ts", "a.mod", "a.VOB", "a.3gp", "a.qt", "a.mxf", "a.ogm", "a.y4m"])
def test_films_of_camcorders_and_phones_are_listed(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    assert listed(tmp_path) == [name]


def test_recordings_that_are_not_read_are_counted_by_suffix(box):
    for name in ("a.insv", "sub/b.INSV", "c.h264", "d.LRV", "e.txt"):
        (box / name).write_bytes(b"x")
    assert listed(box) == ["one.mp4", "sub/two.mp4"]
    expected = "4 files with other suffixes were not looked at: .h264 (1), .insv (2), .lrv (1). A glob such as '*.h264'"
    assert expected in notes(box)
    assert listed(f"{box}/*.insv") == ["a.insv"]
    (box / "only").mkdir()
    (box / "only/x.insv").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"nothing readable in it. 1 files with other .*: .insv \(1\)"):
        load_episodes(box / "only")


def test_a_raw_stream_needs_a_rate(box):
    (box / "c.h264").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"c.h264 is a raw stream, which states no times. .*--fps 'c.h264=30'"):
        load_episodes(box / "c.h264")
    assert load_episodes(f"{box}/*.h264", fps=30)[0].fps == 30
    (box / "clips.csv").write_text("path,start,end\nc.h264,1,2\n")
    with pytest.raises(ValueError, match=r"c.h264 is a raw stream"):
        load_episodes(f"list:{box}/clips.csv")
    assert len(load_episodes(f"list:{box}/clips.csv", fps={"c.h264": 30})) == 1


# --- depth beside colour --------------------------------------------------------------------------------------------


def test_depth_beside_its_colour_film_is_left_out_and_said(tmp_path):
    films = ["1/rgb.mp4", "1/depth.mp4", "2/left.mp4", "2/left_mask.mp4", "2/rightDepth.mp4"]
    films += ["mask_making.mp4", "depth.mp4", "左.mp4"]
    for name in films:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "rgb.txt").write_text("no film")
    kept = ["1/rgb.mp4", "2/left.mp4", "2/rightDepth.mp4", "depth.mp4", "mask_making.mp4", "左.mp4"]
    assert listed(tmp_path) == kept  # of the right view there is no colour film
    assert re.search(r"2 recordings of depth or masks beside their colour film are left out: [12]/", notes(tmp_path))
    assert listed(tmp_path / "1/depth.mp4") == listed(f"{tmp_path}/1/depth*") == ["depth.mp4"]


def test_a_folder_of_depth_images_beside_colour_is_left_out(tmp_path):
    for name in ("a/rgb", "a/depth"):
        (tmp_path / name).mkdir(parents=True)
        write_images(tmp_path / name, ["1.png", "2.png"])
    assert listed(tmp_path, fps=5) == ["a/rgb"]
    assert "beside their colour film are left out: a/depth" in notes(tmp_path, fps=5)
    assert listed(tmp_path / "a/depth", fps=5) == ["depth"]


# --- frames of several episodes in one folder -----------------------------------------------------------------------


def write_images(folder: Path, names: list[str]) -> list[str]:
    """Images of 8x8 pixels; image i has the brightness i."""
    folder.mkdir(exist_ok=True)
    for brightness, name in enumerate(names):
        Image.fromarray(np.full((8, 8, 3), brightness, np.uint8)).save(folder / name)
    return names


@pytest.mark.parametrize(
    ("pattern", "first", "second"),
    [
        ("ep{0}_{1:04d}.png", "ep0", "ep1"),
        ("img_{0:03d}_{1:05d}.png", "img_000", "img_001"),
        ("ep{0:03d}_frame{1:05d}.png", "ep000", "ep001"),
        ("cam{0}-{1}.png", "cam0", "cam1"),
        ("run_{0}_frame_{1}_rgb.png", "run_0", "run_1"),
    ],
)
def test_a_flat_folder_of_two_episodes_is_two(tmp_path, pattern, first, second):
    write_images(tmp_path / "flat", [pattern.format(episode, t) for episode in (0, 1) for t in range(9, 12 + episode)])
    episodes = load_episodes(tmp_path / "flat", fps=10)
    assert [episode.id for episode in episodes] == [f"flat/{first}", f"flat/{second}"]
    values = [episode.frames("", range(episode.num_frames()))[:, 0, 0, 0].tolist() for episode in episodes]
    assert values == [[0, 1, 2], [3, 4, 5, 6]]
    assert len(episodes[1].files()) == 4


@pytest.mark.parametrize(
    "names",
    [
        [f"frame_{t:04d}_cam{camera}.png" for t in range(3) for camera in (1, 2)],
        [f"{t:04d}_{camera}.png" for t in range(3) for camera in (1, 2)],
        ["ep1_0001.png", "ep2_0001.png"],
        [f"{side}_{t}.png" for side in ("left", "right") for t in range(3)],
        [f"{second}_{nano}.png" for second, nano in ((1, 17), (1, 58), (1, 91), (2, 3), (2, 44), (2, 97))],
    ],
)
def test_what_may_be_several_films_is_none(tmp_path, names):
    write_images(tmp_path / "flat", names)
    (episode,) = load_episodes(tmp_path / "flat", fps=10)
    with pytest.raises(EpisodeReadError, match=r"several sequences .*; an episode is one folder with one sequence"):
        episode.num_frames()


@pytest.mark.parametrize(
    "names",
    [
        [f"frame_{t:03d}_{1700 + 33 * t + t % 2}.png" for t in range(5)],  # number and time
        ["1305031102.175304.png", "1305031102.211214.png", "1305031103.043215.png", "1305031103.1.png"],
        [f"2024-01-02_10-{minute}-{second}.png" for minute, second in ((33, 58), (33, 59), (34, "00"), (34, "01"))],
        [f"frame_{t}_cam1.png" for t in range(4)],
    ],
)
def test_stamped_and_numbered_images_stay_one_film(tmp_path, names):
    write_images(tmp_path / "flat", names)
    (episode,) = load_episodes(tmp_path / "flat", fps=10)
    assert episode.num_frames() == len(names)


def test_of_split_episodes_one_with_a_gap_fails_alone(tmp_path):
    names = [f"ep{episode}_{t}.png" for episode in (0, 1) for t in range(6) if (episode, t) != (1, 3)]
    write_images(tmp_path / "flat", names)
    whole, holed = load_episodes(tmp_path / "flat", fps=10)
    assert whole.num_frames() == 6
    with pytest.raises(EpisodeReadError, match=r"no number 3 between ep1_2.png and ep1_4.png"):
        holed.num_frames()
