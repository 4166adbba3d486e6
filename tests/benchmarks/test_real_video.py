"""Lists of clips of real video: no pair across a cut, no scene on both sides, every clip in exactly one list."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import real_video

from lara_tokenizer.data import load_episodes

COLUMNS = ("clip", "repo", "path", "seconds", "fps", "cut_times", "still_fraction")


def _manifest(folder: Path, rows: list[tuple[object, ...]]) -> Path:
    folder.mkdir()
    with (folder / "MANIFEST.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return folder


def _row(
    clip: str, path: str = "a.mp4", *, repo: str = "big", seconds: float = 4.0, cuts: str = "", still: float = 0.1
):
    return (clip, repo, path, seconds, 30.0, cuts, still)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [_row(f"droid/{i}.mp4", f"visualizer/videos/lab/2023-01-{i // 5:02}/x/1.mp4") for i in range(100)]
    rows += [_row(f"small/{i}.mp4", f"{i}.mp4", repo="other", seconds=8.0) for i in range(12)]
    return _manifest(tmp_path / "clips", rows)


def _clips(out: Path, name: str) -> set[str]:
    return {episode.id.partition("#t=")[0] for episode in load_episodes(f"list:{out / name}.csv")}


def test_every_clip_is_in_one_list_and_a_scene_on_one_side(folder: Path, tmp_path: Path):
    real_video.write_lists(folder, tmp_path / "lists")
    train, heldout = (_clips(tmp_path / "lists", f"{side}_largest") for side in ("train", "heldout"))
    assert len(train) + len(heldout) == len(train | heldout) == 100
    scenes = [{int(Path(clip).stem) // 5 for clip in side} for side in (train, heldout)]
    assert not scenes[0] & scenes[1]
    assert 5 <= len(heldout) <= 10  # 8 % of 100, in scenes of 5
    assert len(_clips(tmp_path / "lists", "heldout_others")) == 1


def test_equal_manifests_give_equal_lists(folder: Path, tmp_path: Path):
    for out in ("a", "b"):
        real_video.write_lists(folder, tmp_path / out)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_the_largest_repository_is_a_source_of_its_own(folder: Path, tmp_path: Path):
    lists = real_video.write_lists(folder, tmp_path / "lists")
    assert [lists[f"{side}_largest.csv"][0] + lists[f"{side}_others.csv"][0] for side in ("train", "heldout")] == [
        lists["train_largest.csv"][0] + 11,
        lists["heldout_largest.csv"][0] + 1,
    ]
    sources = load_episodes([f"list:{tmp_path / 'lists' / name}" for name in ("train_largest.csv", "train_others.csv")])
    assert {episode.dataset for episode in sources} == {"train_largest.csv", "train_others.csv"}


def test_no_frame_next_to_a_cut_is_in_a_row(tmp_path: Path):
    clips = [_row("a/cut.mp4", seconds=12.0, cuts="5.37 5.4 11.5"), _row("b/other.mp4", repo="other")]
    real_video.write_lists(_manifest(tmp_path / "clips", clips), tmp_path)
    with (tmp_path / "train_largest.csv").open() as file:
        rows = [(float(row["start"]), float(row["end"])) for row in csv.DictReader(file)]
    # What is left after the last cut is too short for a row.
    assert rows == [(0.0, 5.337), (5.433, 11.467)]


def test_a_long_part_is_divided_evenly(tmp_path: Path):
    clip = real_video.Clip("a/long.mp4", "big", "a", 25.0, 30.0, (), 0.0)
    third = (pytest.approx(25 / 3), pytest.approx(50 / 3))
    assert clip.parts() == [(0.0, third[0]), third, (third[1], 25.0)]


def test_still_and_very_short_clips_are_left_out(tmp_path: Path):
    names = [str(i) for i in range(12)]
    clips = [_row("a/still.mp4", still=0.9), _row("a/short.mp4", seconds=0.5), *(_row(f"a/{i}.mp4") for i in names)]
    real_video.write_lists(_manifest(tmp_path / "clips", clips), tmp_path)
    kept = _clips(tmp_path, "train_largest") | _clips(tmp_path, "heldout_largest")
    assert kept == {f"clips/a/{i}.mp4" for i in names}


def test_a_bad_row_is_named_by_its_line(tmp_path: Path):
    folder = _manifest(tmp_path / "clips", [_row("a/good.mp4"), _row("a/bad.mp4", cuts="soon")])
    with pytest.raises(ValueError, match=r"MANIFEST\.csv, line 3: .*soon"):
        real_video.write_lists(folder, tmp_path)
