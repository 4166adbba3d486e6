"""Metadata as converters, editors and strangers leave it: read right, or one line that says what is wrong."""

from __future__ import annotations

import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_files import edit_episodes, edit_info

from lara_tokenizer.data import load_episodes
from lara_tokenizer.data.lerobot.tasks import load_tasks
from lara_tokenizer.errors import EpisodeReadError

TOP = "observation.images.top"
INFO, EPISODES, TASKS = "meta/info.json", "meta/episodes.jsonl", "meta/tasks.jsonl"


def notes_of(root):
    return "; ".join(load_episodes(root).sources[0].notes)


def features_of(root):
    return json.loads((root / INFO).read_text())["features"]


@pytest.mark.parametrize("tasks", ["lift it", ["lift it"], ["lift it", None], [None, "lift it"], ("lift it",)])
def test_tasks_of_an_episode_are_a_text_or_a_list(set_v2, set_v3, tasks):
    for root in (set_v2, set_v3):
        edit_episodes(root, lambda rows: [row | {"tasks": tasks} for row in rows])
        assert load_episodes(root)[0].text == "lift it"


def test_tasks_may_be_absent(set_v2):
    edit_episodes(set_v2, lambda rows: [{key: row[key] for key in ("episode_index", "length")} for row in rows])
    assert [episode.text for episode in load_episodes(set_v2)] == [None] * 4
    assert load_episodes(set_v2)[0].signals().texts == ("lift it",) * 8


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_byte_order_mark_and_any_line_ending_are_read(set_v2, check_pairs, ending):
    for name in (INFO, EPISODES, TASKS):
        text = (set_v2 / name).read_text()
        (set_v2 / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", ending).encode())
    episodes = load_episodes(set_v2)
    assert len(episodes) == 4
    assert [check_pairs(episode) for episode in episodes] == [""] * 4


def test_a_cut_off_last_line_costs_its_episode_and_its_task_alone(set_v2, check_pairs):
    for name in (EPISODES, TASKS):
        (set_v2 / name).write_text((set_v2 / name).read_text()[:-12])
    episodes = load_episodes(set_v2)
    assert [episode.index for episode in episodes] == [0, 1, 2]
    assert "meta/episodes.jsonl, line 4 cannot be read; that episode is left out" in notes_of(set_v2)
    assert check_pairs(episodes[0]) == check_pairs(episodes[2]) == ""
    with pytest.raises(EpisodeReadError, match="task_index 1 is not among the dataset's tasks"):
        episodes[1].signals()


TEXTS = pa.array(["lift it", "drop it"])
INDEX = pa.array([0, 1])
RANGE = {"index_columns": [{"kind": "range", "name": None, "start": 0, "stop": 2, "step": 1}]}


@pytest.mark.parametrize(
    "columns",
    [
        {"task_index": INDEX, "task": TEXTS},
        {"task": TEXTS, "task_index": INDEX},
        {"task_index": INDEX, "__index_level_0__": TEXTS},
        {"task_description": pa.array(["up", "down"]), "task_index": INDEX, "task": TEXTS},
        {"robot": pa.array(["a", "b"]), "task_index": INDEX, "__index_level_0__": TEXTS},
        {"task_index": INDEX, "task": TEXTS.dictionary_encode()},
        {"task_index": INDEX, "task": TEXTS.cast(pa.large_string())},
        {"task_index": INDEX, "task": TEXTS.cast(pa.string_view())},
        {"task_index": INDEX, "sentence": TEXTS},
        {"task_index": pa.array([1, 0]), "task": TEXTS[::-1]},
        {"task": TEXTS, "__index_level_0__": INDEX},
        {"task": TEXTS},
    ],
)
def test_texts_and_indices_are_told_apart_in_the_table_of_tasks(set_v3, check_pairs, columns):
    table = pa.table(columns)
    if "task_index" not in columns:
        table = table.replace_schema_metadata({"pandas": json.dumps(RANGE)})
    pq.write_table(table, set_v3 / "meta/tasks.parquet")
    load_tasks.cache_clear()
    assert [check_pairs(episode) for episode in load_episodes(set_v3)] == [""] * 4


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"task_index": INDEX}, "no column of texts in it"),
        ({"task": TEXTS}, "no column 'task_index' in it"),
        ({"task_index": pa.array([0, 0]), "task": TEXTS}, "task_index 0 is two tasks, 'lift it' and 'drop it'"),
    ],
)
def test_a_table_of_tasks_that_leaves_a_choice_is_refused(set_v3, columns, reason):
    pq.write_table(pa.table(columns), set_v3 / "meta/tasks.parquet")
    load_tasks.cache_clear()
    with pytest.raises(EpisodeReadError, match=rf"^meta/tasks.parquet: {reason}"):
        load_episodes(set_v3)[0].signals()


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"length": 10**12}, "length is 1,000,000,000,000; takes 1 to"),
        ({"length": 0}, "length is 0; takes 1 to"),
        ({"length": -6}, "length is -6, not a whole number"),
        ({"length": 6.5}, "length is 6.5, not a whole number"),
        ({"length": float("nan")}, "length is nan, not a whole number"),
        ({"length": "six"}, "length is 'six', not a whole number"),
        ({"length": None}, "length is None, not a whole number"),
        ({"length": True}, "length is True, not a whole number"),
        ({"episode_index": 10**30}, "episode_index is 10000000"),
        ({"episode_index": "../1"}, "episode_index is '../1', not a whole number"),
    ],
)
def test_an_absurd_entry_costs_its_episode_alone(set_v2, check_pairs, change, note):
    edit_episodes(set_v2, lambda rows: [rows[0], rows[1] | change, *rows[2:]])
    episodes = load_episodes(set_v2)
    assert [episode.index for episode in episodes] == [0, 2, 3]
    assert f"meta/episodes.jsonl, line 2 cannot be read ({note}" in notes_of(set_v2)
    assert [check_pairs(episode) for episode in episodes] == [""] * 3


@pytest.mark.parametrize("change", [{"length": 6.0}, {"length": "6"}, {"episode_index": 1.0}])
def test_whole_numbers_of_another_type_are_read(set_v2, check_pairs, change):
    edit_episodes(set_v2, lambda rows: [rows[0], rows[1] | change, *rows[2:]])
    assert [check_pairs(episode) for episode in load_episodes(set_v2)] == [""] * 4


def test_an_index_column_of_texts_in_parquet_is_refused(set_v3):
    (path,) = set_v3.glob("meta/episodes/*/*.parquet")
    table = pq.read_table(path)
    position = table.column_names.index("episode_index")
    pq.write_table(table.set_column(position, "episode_index", pa.array(["1", "", "a", "3"])), path)
    with pytest.raises(ValueError, match="row 0 cannot be read \\(episode_index is '1', not a whole number\\)"):
        load_episodes(set_v3)


def test_a_line_that_is_no_object_costs_nothing_else(set_v2):
    for line in ("[]", "7", '"text"', "null", "[" * 10_000):
        with (set_v2 / EPISODES).open("a") as stream:
            stream.write(line + "\n")
    assert len(load_episodes(set_v2)) == 4
    assert "line 5 cannot be read (not an object)" in notes_of(set_v2)


@pytest.mark.parametrize("name", ["set_v2", "set_v3"])
def test_an_episode_listed_twice_is_read_once_or_not_at_all(request, check_pairs, name):
    root = request.getfixturevalue(name)
    edit_episodes(root, lambda rows: [*rows, rows[1]])
    assert [check_pairs(episode) for episode in load_episodes(root)] == [""] * 4
    assert "episode 1 is listed 2 times, with equal entries; it is read once" in notes_of(root)
    edit_episodes(root, lambda rows: [*rows[:4], rows[1] | {"length": 5}])
    assert [episode.index for episode in load_episodes(root)] == [0, 2, 3]
    assert "episode 1 is listed 2 times, with different entries; it is left out" in notes_of(root)


def test_a_list_that_promises_a_million_episodes_in_a_few_bytes_is_left_out(set_v3, check_pairs):
    table = pa.table({"episode_index": np.zeros(1_000_001, np.int8), "length": np.ones(1_000_001, np.int8)})
    pq.write_table(table, set_v3 / "meta/episodes/chunk-000/file-001.parquet")
    assert [check_pairs(episode) for episode in load_episodes(set_v3)] == [""] * 4
    assert "file-001.parquet cannot be read (its footer promises 1,000,001 rows; up to" in notes_of(set_v3)


def test_the_template_of_v2_may_call_the_chunk_as_v3_does(set_v2, check_pairs):
    edit_info(set_v2, data_path="data/chunk-{chunk_index:03d}/episode_{episode_index:06d}.parquet")
    assert [check_pairs(episode) for episode in load_episodes(set_v2)] == [""] * 4


def test_totals_that_differ_from_the_list_are_said(set_v3):
    edit_info(set_v3, total_episodes=40, total_frames=25)
    assert notes_of(set_v3) == (
        "meta/info.json promises 40 episodes, 4 are listed; meta/info.json promises 25 frames, 26 are listed"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fps": 1e-300}, "fps 1e-300: takes frames per second above 0"),
        ({"fps": float("nan")}, "fps nan: takes"),
        ({"fps": 10**400}, "a number of 401 digits"),
        ({"fps": -10}, "fps -10: takes"),
        ({"fps": True}, "fps True: takes"),
        ({"fps": [30]}, r"fps \[30\]: takes"),
        ({"features": [1]}, r"features \[1\]: takes an object"),
        ({"chunks_size": 0}, "chunks_size 0: takes a number of files above 0"),
        ({"chunks_size": "many"}, "chunks_size 'many': takes a number"),
        ({"video_path": "{video_key:>3000000000}.mp4"}, "video_path: file name template .* cannot be used"),
        ({"video_path": "{video_key.__class__}.mp4"}, "video_path: file name template .* cannot be used"),
        ({"data_path": "{episode_index:>99999999999d}"}, "data_path: file name template .* cannot be used"),
        ({"data_path": ["data"]}, "data_path: file name template .* cannot be used: it is not a text"),
        ({"video_path": "/etc/{video_key}"}, "video_path: /etc/.*: the name leads out of the dataset"),
        ({"video_path": "videos/../../{video_key}.mp4"}, "video_path: .*: the name leads out of the dataset"),
        ({"data_path": "../secret.parquet"}, "data_path: ../secret.parquet: the name leads out of the dataset"),
        ({"video_path": "v/" * 10_000 + "{video_key}"}, r"video_path: a file name of 20,022 characters; takes up to"),
        ({"features": {f"c{i}": {"dtype": "image"} for i in range(1000)}}, "features name 1,000 cameras; up to"),
        ({"codebase_version": "v4.0"}, "a LeRobotDataset v4.0; v2.0, v2.1 and v3.0 are read. It is newer"),
        ({"codebase_version": "v30.1"}, "a LeRobotDataset v30.1; .* It is newer"),
        ({"codebase_version": None}, "a LeRobotDataset vNone; .* Convert it with lerobot"),
    ],
)  # fmt: skip
def test_senseless_info_is_one_line_at_once(set_v2, changes, reason):
    edit_info(set_v2, **changes)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=rf"^set: .*({reason})") as raised:
        load_episodes(set_v2)
    assert time.perf_counter() - start < 2
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"[]", b"", b"\xff\xfe", b'{"fps": 1' + b"0" * 5000 + b"}"])
def test_info_that_is_no_json_object_is_one_line(set_v3, content):
    (set_v3 / INFO).write_bytes(content)
    with pytest.raises(ValueError, match=r"^set: not a LeRobotDataset: meta/info.json: (not|no)") as raised:
        load_episodes(set_v3)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("version", ["v3.1", "3.0", "v3.12", 3.0])
def test_a_later_minor_version_is_read_as_what_it_is(set_v3, check_pairs, version):
    edit_info(set_v3, codebase_version=version)
    assert [check_pairs(episode) for episode in load_episodes(set_v3)] == [""] * 4
    assert ("is read as v3.0" in notes_of(set_v3)) == (version not in ("3.0", 3.0))


@pytest.mark.parametrize("index", ["../../../secret", -1, 0.5, None, [0]])
def test_an_index_that_is_no_number_costs_its_episode_alone(set_v3, check_pairs, index):
    edit_info(set_v3, video_path="videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index}.mp4")
    folder = set_v3 / f"videos/{TOP}/chunk-000"
    (folder / "file-000.mp4").rename(folder / "file-0.mp4")
    (set_v3.parent / "secret.mp4").write_bytes(b"private")
    key = f"videos/{TOP}/file_index"
    rows = pq.read_table(set_v3 / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    part = set_v3 / "meta/episodes/chunk-000/file-001.parquet"
    pq.write_table(pa.Table.from_pylist([rows[2] | {key: index}]), part)
    edit_episodes(set_v3, lambda rows: [*rows[:2], rows[3]])
    episodes = load_episodes(set_v3)
    with pytest.raises(EpisodeReadError, match=f"meta/episodes: episode 2: (videos/{TOP}/file_index is|it has no)"):
        episodes[2].frames(TOP, [0])
    for other in (0, 1, 3):
        check_pairs(episodes[other])


def test_no_camera_name_leads_out_of_the_dataset(set_v3):
    features = features_of(set_v3)
    edit_info(set_v3, features={**features, "../../secret": features[TOP]})
    with pytest.raises(ValueError, match=r"video_path: videos/\.\./\.\./secret/.*: the name leads out of the dataset"):
        load_episodes(set_v3)


def test_files_of_an_episode_are_named_for_jobs(set_v2, set_v3):
    (own,) = {episode.files(TOP) for episode in load_episodes(set_v2, episodes="1")}
    names = [path.relative_to(set_v2).as_posix() for path in own]
    assert names == [
        f"videos/chunk-000/{TOP}/episode_000001.mp4", "data/chunk-000/episode_000001.parquet", INFO, EPISODES, TASKS,
    ]  # fmt: skip
    shared = load_episodes(set_v3)[1].files(TOP)
    assert [path.relative_to(set_v3).as_posix() for path in shared] == [
        f"videos/{TOP}/chunk-000/file-000.mp4", "data/chunk-000/file-000.parquet", INFO,
        "meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet",
    ]  # fmt: skip
    assert all(path.is_file() for path in (*own, *shared))


DEPTH = "observation.images.front"


@pytest.mark.parametrize(
    "described",
    [
        {"shape": [48, 64, 1]},
        {"shape": [1, 48, 64]},
        {"shape": [48, 64]},
        {"info": {"is_depth_map": True}},
        {"info": {"video.is_depth_map": True}},
        {"video_info": {"video.is_depth_map": True}},
        {"info": {"video.channels": 1}},
    ],
)
def test_one_channel_is_no_default_camera_but_can_be_named(tmp_path, numbered_frames, write_lerobot, described):
    frames = numbered_frames(12)
    root = write_lerobot(tmp_path / "set", {DEPTH: [frames[6:]], TOP: [frames[:6]]}, version="v2.1", kind="image")
    features = features_of(root)
    edit_info(root, features=features | {DEPTH: features[DEPTH] | described})
    assert load_episodes(root)[0].cameras == (TOP,)
    assert load_episodes(root, cameras="all")[0].cameras == (TOP,)
    (episode,) = load_episodes(root, cameras="front")
    assert np.array_equal(episode.frames(DEPTH, range(6)), frames[6:])
    del features[TOP]
    edit_info(root, features=features | {DEPTH: features[DEPTH] | described})
    for options in ({}, {"cameras": "all"}):
        with pytest.raises(ValueError, match=f"no colour camera, only '{DEPTH}'.* --camera {DEPTH}"):
            load_episodes(root, **options)


@pytest.mark.parametrize(
    "name", ["head_depth", "depth_left", "depthRight", "segmentation.top", "instance_mask", "cam_seg"]
)
def test_depth_and_masks_are_known_by_their_names(tmp_path, numbered_frames, write_lerobot, name):
    other = f"observation.images.{name}"
    frames = numbered_frames(12)
    root = write_lerobot(tmp_path / "set", {other: [frames[6:]], TOP: [frames[:6]]}, kind="image")
    assert load_episodes(root)[0].cameras == (TOP,)
    assert load_episodes(root, cameras=other)[0].cameras == (other,)


def test_depth_of_more_than_8_bits_is_refused_in_one_line(set_v3):
    features = features_of(set_v3)
    for described in ({"video.pix_fmt": "gray12le"}, {"pix_fmt": "yuv420p10le"}):
        described |= {"is_depth_map": True}
        edit_info(set_v3, features=features | {TOP: features[TOP] | {"info": described}})
        with pytest.raises(ValueError, match=f"'{TOP}' is no colour video and has .* pixels; 8 bits per channel"):
            load_episodes(set_v3, cameras="top")


def test_a_depth_film_of_more_than_8_bits_is_refused_when_its_pixels_are_seen(set_v2, numbered_frames, write_video):
    depth = "observation.images.top_depth"
    for episode, pixels in enumerate(("gray16le", "gray", "gray", "gray")):
        file = set_v2 / f"videos/chunk-000/{depth}/episode_{episode:06d}.mp4"
        write_video(file, numbered_frames(6 if episode == 1 else 8), codec="ffv1", pix_fmt=pixels)
    assert "there are videos of 'observation.images.top_depth', which meta/info.json does not name" in notes_of(set_v2)
    features = features_of(set_v2)
    edit_info(set_v2, features={depth: features[TOP], **features})
    assert load_episodes(set_v2)[0].cameras == (TOP,)
    first, second, *_ = load_episodes(set_v2, cameras="top_depth")
    with pytest.raises(EpisodeReadError, match=r"episode_000000.mp4: no colour video, and 16 bits per channel"):
        first.frame_index(depth)
    assert second.frames(depth, range(6)).shape == (6, 48, 64, 3)
