"""Sources resolve to a sorted list of episodes, without a file being opened."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lara_tokenizer.data import ImageFolderReader, Stride, load_episodes
from lara_tokenizer.errors import VideoDecodeError


@pytest.fixture
def tree(tmp_path):
    """Files that are no videos at all: listing must not look inside."""
    root = tmp_path / "videos"
    for name in ("rt1_2.mp4", "rt1_10.mp4", "kitchen/a.MKV", "kitchen/deep/b.webm", "notes.txt", ".hidden.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no video")
    (root / "thumb_1.jpg").write_bytes(b"a thumbnail beside videos")
    return root


def ids(source, **options):
    return [episode.id for episode in load_episodes(source, **options)]


ALL = ["kitchen/a.MKV", "kitchen/deep/b.webm", "rt1_10.mp4", "rt1_2.mp4"]


def test_a_folder_gives_all_videos_below_it_sorted_by_id(tree):
    assert ids(tree) == ids(str(tree)) == ids(f"{tree}/") == ids(f"video:{tree}") == ALL


def test_a_bad_file_fails_later_and_alone(tree):
    episodes = load_episodes(tree)
    with pytest.raises(VideoDecodeError, match=r"rt1_2.mp4: not a video"):
        episodes[-1].num_frames()


def test_a_file_a_glob_and_a_list(tree):
    assert ids(tree / "rt1_2.mp4") == ["rt1_2.mp4"]
    assert ids(f"{tree}/rt1_*.mp4") == ["rt1_10.mp4", "rt1_2.mp4"]
    assert ids(f"{tree}/*") == ALL
    assert ids(f"{tree}/**/*.webm") == ["kitchen/deep/b.webm"]
    assert ids(f"{tree}/kit*/deep") == ["kitchen/deep/b.webm"]
    assert ids([tree / "rt1_2.mp4", tree / "kitchen/deep"]) == ["kitchen/deep/b.webm", "rt1_2.mp4"]


def test_a_file_named_by_itself_or_by_its_ending_may_have_any_ending(tree):
    (tree / "clip.dat").write_bytes(b"x")
    assert ids(tree / "clip.dat") == ["clip.dat"]
    assert ids(f"{tree}/*.dat") == ["clip.dat"]
    assert ids(tree) == ALL


def test_what_two_sources_share_is_listed_once(tree):
    assert ids([tree, tree / "rt1_2.mp4", f"{tree}/*.mp4"]) == ALL


def test_equal_names_in_different_folders_stay_apart(tree):
    for name in ("one", "two"):
        (tree / name).mkdir()
        (tree / name / "front.mp4").write_bytes(b"x")
    assert ids([tree / "one/front.mp4", tree / "two/front.mp4"]) == ["one/front.mp4", "two/front.mp4"]
    assert ids(f"{tree}/*/front.mp4") == ["one/front.mp4", "two/front.mp4"]


def test_ids_do_not_depend_on_where_one_stands(tree, monkeypatch):
    monkeypatch.chdir(tree.parent)
    assert ids("videos") == ids("./videos/") == ALL


def test_links_are_followed_but_not_in_circles(tree):
    (tree / "kitchen/up").symlink_to(tree)
    elsewhere = tree.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "c.mp4").write_bytes(b"x")
    (tree / "link").symlink_to(elsewhere)
    assert ids(tree) == sorted([*ALL, "link/c.mp4"])


def test_the_limit_keeps_the_first_by_id(tree):
    assert ids(tree, limit=2) == ALL[:2]
    with pytest.raises(ValueError, match="limit 0"):
        load_episodes(tree, limit=0)


def test_one_rate_for_all_and_rates_by_glob(tree):
    rates = {e.id: e.fps for e in load_episodes(tree, fps={"rt1_*": 3, "kitchen/*": 5.0})}
    assert rates == {"kitchen/a.MKV": 5, "kitchen/deep/b.webm": 5, "rt1_10.mp4": 3, "rt1_2.mp4": 3}
    assert {e.fps for e in load_episodes(tree, fps=7)} == {7}
    by_name = {e.id: e.fps for e in load_episodes(tree, fps={"b.webm": 2})}
    assert by_name == {i: 2 if i.endswith("b.webm") else None for i in ALL}


def test_a_glob_that_matches_nothing_lists_what_there_is(tree):
    with pytest.raises(ValueError, match=r"'moto_\*' matches no episode. There are: kitchen/a.MKV, "):
        load_episodes(tree, fps={"moto_*": 3})
    assert ids(tree, fps={"rt1_2*": 3}, limit=1) == ALL[:1]


def test_two_globs_that_disagree_are_refused(tree):
    with pytest.raises(ValueError, match=r"'rt1_2\*' says 5 for rt1_2.mp4, another glob 3"):
        load_episodes(tree, fps={"rt1_*": 3, "rt1_2*": 5})
    assert len(load_episodes(tree, fps={"rt1_*": 3, "rt1_2*": 3})) == 4


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), {"rt1_*": 0}])
def test_a_rate_that_is_none_is_refused(tree, fps):
    with pytest.raises(ValueError, match="must be above 0 frames per second"):
        load_episodes(tree, fps=fps)


def test_an_empty_folder_lists_what_was_looked_for(tmp_path):
    with pytest.raises(
        ValueError, match=r"nothing readable in it. Looked for meta/info.json .*\.mp4.* numbered images"
    ):
        load_episodes(tmp_path)
    with pytest.raises(ValueError, match="no such file or folder"):
        load_episodes(f"{tmp_path}/gone")
    with pytest.raises(ValueError, match="nothing readable in it"):
        load_episodes(f"{tmp_path}/*.mp4")
    with pytest.raises(ValueError, match="no source given"):
        load_episodes([])


def test_an_unknown_format_lists_those_there_are():
    with pytest.raises(
        ValueError, match=r"there is no format 'ftp'. There are video, lerobot, rlds, ssv2, webdataset, datasets, list"
    ):
        load_episodes("ftp:lerobot/pusht")


def test_what_looks_like_a_hub_id_gets_a_hint():
    with pytest.raises(ValueError, match="If it is on the Hub, write 'lerobot:acme/pushes' or 'datasets:acme/pushes'"):
        load_episodes("acme/pushes")


def refuse_to_list(monkeypatch, name):
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith(name):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr("lara_tokenizer.data.folders.os.scandir", refuse)


def test_an_unreadable_folder_costs_itself_and_is_named(tree, monkeypatch):
    refuse_to_list(monkeypatch, "deep")
    episodes = load_episodes(tree)
    assert [episode.id for episode in episodes] == ["kitchen/a.MKV", "rt1_10.mp4", "rt1_2.mp4"]
    assert episodes.sources[0].notes == (
        "1 folders cannot be listed and are left out: kitchen/deep (Permission denied)",
    )
    with pytest.raises(ValueError, match=r"kitchen/deep cannot be listed: Permission denied"):
        load_episodes(tree / "kitchen/deep")


@pytest.fixture
def runs(tmp_path, numbered_frames):
    for run in ("runs/one", "runs/two"):
        (tmp_path / run).mkdir(parents=True)
        for t, pixels in enumerate(numbered_frames(6)):
            Image.fromarray(pixels).save(tmp_path / run / f"{t:03}.png")
    return tmp_path / "runs"


def test_folders_of_numbered_images_are_episodes(runs, numbered_frames):
    episodes = load_episodes(runs, fps={"one": 4, "two": 8})
    assert [(e.id, e.timestamps()[1]) for e in episodes] == [("one", 0.25), ("two", 0.125)]
    assert isinstance(episodes[0].reader, ImageFolderReader)
    np.testing.assert_array_equal(episodes[1].frames("", range(6)), numbered_frames(6))
    assert ids(runs / "one", fps=4) == ["one"]
    assert ids(f"{runs}/*", fps=4) == ["one", "two"]


def test_images_without_a_rate_ask_for_one(runs):
    with pytest.raises(ValueError, match=r"have no rate of their own.*--fps 'one=10'"):
        load_episodes(runs, fps={"two": 8})


def test_one_image_is_no_episode(runs):
    with pytest.raises(ValueError, match=r"one image is not an episode\. Name the folder"):
        load_episodes(runs / "one/000.png")
    with pytest.raises(ValueError, match="folders with numbered images"):
        load_episodes(f"{runs}/one/*.png")


def test_real_clips_are_listed_and_the_rt1_rate_is_put_right(shared_data):
    episodes = {e.id: e for e in load_episodes(shared_data / "videos", fps={"moto_oxe_*": 3, "lapa_rt1_*": 3})}
    assert len(episodes) == 9
    rt1 = episodes["moto_oxe_fractal20220817_eps_00084367.mp4"]
    assert rt1.num_frames() == 46
    np.testing.assert_allclose(rt1.timestamps(), np.arange(46) / 3)
    gap = {}
    for name in ("moto_oxe_fractal20220817_eps_00084367.mp4", "lapa_bridge_real_1.mp4", "opencv_box.mp4"):
        timestamps = episodes[name].timestamps()
        future = Stride.parse("0.6s").future_indices(timestamps, np.arange(len(timestamps)))
        gap[name] = float(timestamps[future[0]])
    assert list(gap.values()) == pytest.approx([2 / 3, 0.6, 0.6], abs=0.002)


def test_listing_and_indexing_load_neither_torch_nor_another_decoder(tmp_path, write_video, numbered_frames):
    write_video(tmp_path / "a.mp4", numbered_frames(3))
    code = (
        "import sys; from lara_tokenizer.data import load_episodes; "
        f"print(load_episodes({str(tmp_path)!r}, decoder='pyav')[0].num_frames()); "
        "print(sorted({'torch', 'decord', 'torchcodec'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:2] == ["3", "[]"]


def test_a_slice_of_episodes_knows_its_source(tree):
    some = load_episodes(tree, decoder="pyav")[:2]
    assert (len(some), some.sources[0].format, some.options["decoder"]) == (2, "video files", "pyav")


def test_each_folder_that_is_named_is_a_dataset_however_many_files_it_has(tmp_path, write_video, numbered_frames):
    clip = write_video(tmp_path / "a/one.mp4", numbered_frames(3))
    for name in ("b/one.mp4", "c/one.mp4", "c/two.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(clip.read_bytes())
    folders = load_episodes([tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    assert {episode.id: episode.dataset for episode in folders} == {
        "a/one.mp4": "a", "b/one.mp4": "b", "c/one.mp4": "c", "c/two.mp4": "c",
    }  # fmt: skip
    files = load_episodes([tmp_path / "a/one.mp4", tmp_path / "b/one.mp4"])
    assert {episode.dataset for episode in files} == {tmp_path.name}
