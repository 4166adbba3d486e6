"""Rows against the metadata: another rate, a jump or another instruction is said, and never becomes a wrong label."""

from __future__ import annotations

import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_files import edit_episodes, edit_info

from lara_tokenizer.data import load_episodes
from lara_tokenizer.data.dataset_files import LocalFiles
from lara_tokenizer.data.lerobot import reader as lerobot_reader
from lara_tokenizer.data.lerobot.cross_check import clock_remark, rate_remark, text_remark
from lara_tokenizer.data.lerobot.tasks import is_instruction, load_tasks
from lara_tokenizer.errors import EpisodeReadError

TOP = "observation.images.top"
LENGTHS = (8, 6, 7, 5)
EPISODES_V2, EPISODES_V3 = "meta/episodes.jsonl", "meta/episodes"


@pytest.fixture(params=["v3.0", "v2.1"])
def numbered(request):
    """The four episodes of `numbered_sets` to be changed, in one version after the other."""
    return request.getfixturevalue("set_v3" if request.param == "v3.0" else "set_v2")


@pytest.fixture(autouse=True)
def forgotten_remarks(monkeypatch):
    """Remarks that other tests have logged are logged again."""
    monkeypatch.setattr(lerobot_reader, "_said", set())


def set_times(root, change):
    """Replace each episode's timestamps by change(its timestamps, its index)."""
    for file in sorted((root / "data").rglob("*.parquet")):
        table = pq.read_table(file)
        owners = table["episode_index"].to_numpy()
        times = np.concatenate([change(np.arange(np.sum(owners == i)) / 10, i) for i in np.unique(owners)])
        pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", pa.array(times)), file)


def write_tasks(root, texts):
    """Replace the file of tasks by texts of task indices."""
    if (root / "meta/tasks.jsonl").exists():
        lines = [json.dumps({"task_index": index, "task": text}) for index, text in texts.items()]
        (root / "meta/tasks.jsonl").write_text("\n".join(lines))
    else:
        table = pa.table({"task_index": list(texts), "task": list(texts.values())})
        pq.write_table(table, root / "meta/tasks.parquet")
    load_tasks.cache_clear()


def notes(root):
    return [episode.frame_index(TOP).note for episode in load_episodes(root)]


def check_pixels_and_actions(root):
    """Frames and actions are those of the episode, whatever is said about texts and times."""
    for episode in load_episodes(root):
        first = sum(LENGTHS[: episode.index])
        assert episode.frames(TOP, range(LENGTHS[episode.index])).shape == (LENGTHS[episode.index], 48, 64, 3)
        assert episode.signals().actions[:, 0].tolist() == list(range(first, first + LENGTHS[episode.index]))


def test_rows_whose_task_is_none_of_the_episodes_have_no_text(numbered, caplog):
    write_tasks(numbered, {0: "drop it", 1: "lift it"})  # changed places
    where = EPISODES_V2 if (numbered / EPISODES_V2).exists() else EPISODES_V3
    for note, episode in zip(notes(numbered), load_episodes(numbered), strict=True):
        own, other = ("lift it", "drop it")[:: 1 - 2 * (episode.index % 2)]
        assert f"the rows' task_index is '{other}' in meta/tasks." in note
        assert f"the episode's tasks in {where} are '{own}'; the rows have no text" in note
        assert episode.signals().texts is None
    check_pixels_and_actions(numbered)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]  # said once for the dataset


def test_tasks_counted_from_one_are_never_taken_for_their_neighbours(set_v2):
    write_tasks(set_v2, {1: "lift it", 2: "drop it"})
    first, second, *_ = load_episodes(set_v2)
    with pytest.raises(EpisodeReadError, match="task_index 0 is not among the dataset's tasks"):
        first.signals()
    assert second.signals().texts is None
    assert "the rows' task_index is 'lift it'" in second.frame_index(TOP).note


@pytest.mark.parametrize(
    "tasks",
    [["valid", "lift it", "drop it"], ["Lift it ", "drop  it"], [], None, ["lift it", "drop it", ""], "lift it"],
)
def test_rows_whose_task_is_among_the_episodes_keep_their_text(set_v2, set_v3, tasks):
    for root in (set_v2, set_v3):
        edit_episodes(root, lambda rows: [row | {"tasks": tasks} for row in rows])
        assert notes(root)[0] == ""
        assert load_episodes(root)[0].signals().texts == ("lift it",) * 8


def test_an_empty_task_contradicts_nothing(numbered):
    write_tasks(numbered, {0: "", 1: "drop it"})
    assert notes(numbered) == [""] * 4
    assert load_episodes(numbered)[0].signals().texts == ("",) * 8


def test_a_task_index_that_is_a_list_costs_the_signals_alone(set_v2):
    file = set_v2 / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(file)
    column = table.column_names.index("task_index")
    pq.write_table(table.set_column(column, "task_index", pa.array([[1]] * 6)), file)
    assert notes(set_v2) == [""] * 4
    with pytest.raises(EpisodeReadError, match=r"episode_000001.parquet: column 'task_index' holds list<"):
        load_episodes(set_v2)[1].signals()


def test_one_row_of_another_task_is_enough(set_v2):
    file = set_v2 / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(file)
    column = table.column_names.index("task_index")
    pq.write_table(table.set_column(column, "task_index", pa.array([1, 1, 1, 0, 1, 1])), file)
    assert load_episodes(set_v2)[1].signals().texts is None
    assert "the rows' task_index is 'lift it'" in notes(set_v2)[1]


@pytest.mark.parametrize("rate", [5, 9.5, 20, 29.97])
def test_rows_at_another_rate_are_said(numbered, rate):
    set_times(numbered, lambda times, index: times * 10 / rate if index else times)
    assert notes(numbered) == ["", *[
        f"the rows' timestamps come at {rate:g} per second, meta/info.json says fps 10; times are counted at the "
        "latter, or --fps"
    ] * 3]  # fmt: skip
    assert np.allclose(load_episodes(numbered)[1].timestamps(TOP), np.arange(6) / 10)
    check_pixels_and_actions(numbered)


def test_a_rate_that_neither_rows_nor_video_have_is_said_of_both(set_v2):
    edit_info(set_v2, fps=29.97)
    for note in notes(set_v2):
        for subject in ("the video's frames", "the rows' timestamps"):
            assert f"{subject} come at 10 per second, meta/info.json says fps 29.97" in note


def test_a_video_at_another_rate_is_said(set_v2, numbered_frames, write_video):
    write_video(set_v2 / f"videos/chunk-000/{TOP}/episode_000000.mp4", numbered_frames(8), fps=30)
    assert notes(set_v2) == [
        "the video's frames come at 30 per second, meta/info.json says fps 10; times are counted at the latter, "
        "or --fps",
        *[""] * 3,
    ]


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (
            lambda times: times + 1.1 * (times > 0.25),
            "the rows' timestamp jumps from 0.2 s to 1.4 s after row 2; times",
        ),
        (lambda times: times + (times > 0.15) + (times > 0.35), "after row 1, the longest of 2 jumps; times"),
        (lambda times: np.abs(times - 0.2), "the rows' timestamp does not grow after row 0 (0.2 s, then 0.1 s); times"),
        (lambda times: times * 0, "the rows' timestamp does not grow after row 0 (0 s, then 0 s); times"),
        (lambda times: times + 0.3, "the rows' timestamp begins at 0.3 s; rows and frames are paired in order"),
    ],
)
def test_a_clock_of_rows_with_a_jump_is_said(numbered, change, note):
    set_times(numbered, lambda times, index: change(times) if index == 1 else times)
    found = notes(numbered)
    assert note in found.pop(1)
    assert found == [""] * 3
    check_pixels_and_actions(numbered)


def test_pictures_in_the_rows_are_checked_too(tmp_path, numbered_frames, write_lerobot):
    for version in ("v3.0", "v2.1"):
        root = write_lerobot(tmp_path / version, {TOP: [numbered_frames(8)]}, version=version, kind="image")
        set_times(root, lambda times, index: times * 2)
        assert "the rows' timestamps come at 5 per second" in notes(root)[0]


@pytest.mark.parametrize("fps", [10, 15, 29.97, 30, 59.94])
def test_times_that_are_the_datasets_leave_no_remark(fps):
    times = np.arange(20_000) / fps
    jitter = np.random.default_rng(0).uniform(-0.1, 0.1, len(times)) / fps
    begin_late = times + 1 / fps  # as GR00T's sets do
    single = times.astype(np.float32).astype(float)
    for same in (times, times[:1], times[:0], single, times * 1.001, np.round(times, 2), times * np.nan, begin_late):
        assert clock_remark(same, fps) == ""
    assert clock_remark(times + jitter, fps) == ""
    assert rate_remark(np.array([0.0, 1.005 / fps]), fps, "") == ""  # one inexact step is no rate
    assert text_remark([], ["open"], "a", "b") == text_remark(["open"], [], "a", "b") == ""


def test_rows_that_cannot_be_read_cost_no_frame(set_v2):
    file = set_v2 / "data/chunk-000/episode_000001.parquet"
    file.write_bytes(b"nothing")
    (set_v2 / "data/chunk-000/episode_000002.parquet").unlink()
    assert notes(set_v2) == [""] * 4
    for episode in load_episodes(set_v2)[1:3]:
        with pytest.raises(EpisodeReadError):
            episode.signals()


def test_no_rows_are_fetched_to_time_frames(set_v3, monkeypatch, caplog):
    set_times(set_v3, lambda times, index: times * 2)
    episodes = load_episodes(set_v3)
    with monkeypatch.context() as changed:
        changed.setattr(LocalFiles, "local", lambda self, name: None)  # as files on the Hub are
        changed.setattr(LocalFiles, "path", _without_rows(LocalFiles.path))
        assert [episode.frame_index(TOP).note for episode in episodes] == [""] * 4
    for episode in episodes:
        episode.signals()
    (record,) = caplog.records
    assert "episode 0: the rows' timestamps come at 5 per second" in record.getMessage()


def _without_rows(path):
    def checked(self, name):
        assert not name.startswith("data/")
        return path(self, name)

    return checked


ODD = [{"a": "lift it"}, 1, [1], [["lift it"]], True, 1.5, "['lift it']", '["lift it"]', "{'a': 'lift it'}", "[]",
       "array(['lift it'], dtype=object)", ["['lift it']"], ["lift it", 3], "('lift it',)", "[3]"]  # fmt: skip


@pytest.mark.parametrize("tasks", ODD, ids=map(repr, ODD))
def test_a_cell_that_is_no_text_becomes_no_instruction(set_v2, tasks):
    edit_episodes(set_v2, lambda rows: [rows[0] | {"tasks": tasks}, *rows[1:]])
    episodes = load_episodes(set_v2)
    assert [episode.text for episode in episodes] == [None, "drop it", "lift it", "drop it"]
    assert episodes[0].signals().texts == ("lift it",) * 8
    (note,) = episodes.sources[0].notes
    assert note.startswith("meta/episodes.jsonl, line 1: tasks is ")
    assert note.endswith(", not a text or a list of texts; it gives no instruction")


def test_printed_lists_in_parquet_become_no_instruction(set_v3):
    edit_episodes(set_v3, lambda rows: [row | {"tasks": str(row["tasks"])} for row in rows])
    episodes = load_episodes(set_v3)
    assert [episode.text for episode in episodes] == [None] * 4
    assert "row 3: tasks is \"['drop it']\", not a text" in episodes.sources[0].notes[-1]


def test_a_printed_list_in_the_file_of_tasks_is_no_text(numbered):
    write_tasks(numbered, {0: "['lift it']", 1: "drop it"})
    first, second, *_ = load_episodes(numbered)
    assert first.signals().texts is None
    assert "task_index 0 is no instruction in meta/tasks." in first.frame_index(TOP).note
    assert second.signals().texts == ("drop it",) * 6
    check_pixels_and_actions(numbered)


@pytest.mark.parametrize(
    "text", ["(1) open it", "[left arm] open it", "open [it]", "{cup}", "(open it)", "1", "", "[", "]", "'open'"]
)
def test_brackets_in_an_instruction_are_its_own(text):
    assert is_instruction(text)


def test_a_missing_file_of_tasks_is_said(numbered):
    (tasks,) = (numbered / "meta").glob("tasks.*")
    tasks.unlink()
    episodes = load_episodes(numbered)
    assert f"meta/{tasks.name} is missing: the rows' task_index has no texts" in episodes.sources[0].notes
    assert episodes[0].text == "lift it"
    check_pixels_and_actions(numbered)


def test_totals_given_as_texts_are_numbers(set_v2):
    edit_info(set_v2, total_episodes="4", total_frames=26.0)
    assert load_episodes(set_v2).sources[0].notes == ()
    edit_info(set_v2, total_episodes="5")
    assert "promises '5' episodes, 4 are listed" in str(load_episodes(set_v2).sources[0])


def test_no_camera_and_no_list_name_the_dataset_and_the_reason(set_v2):
    info = json.loads((set_v2 / "meta/info.json").read_text())
    edit_info(set_v2, video_path="http://127.0.0.1/{episode_index}.mp4")
    with pytest.raises(ValueError, match=f"^set: it has no camera: meta/info.json names camera '{TOP}', but there are"):
        load_episodes(set_v2)
    edit_info(set_v2, features={TOP: info["features"][TOP] | {"dtype": ["video"]}})
    with pytest.raises(ValueError, match=r"^set: it has no camera: no feature in meta/info.json has the dtype 'video'"):
        load_episodes(set_v2)
    (set_v2 / EPISODES_V2).unlink()
    with pytest.raises(ValueError, match=r"^set: a LeRobotDataset v2.1, but meta/episodes.jsonl: it is missing"):
        load_episodes(set_v2)
