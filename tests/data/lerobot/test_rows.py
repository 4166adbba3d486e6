"""Rows of an episode: found where they really are, and in the order of its frames; never another episode's."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from lerobot_files import edit_episodes, edit_info

from lara_tokenizer.data import load_episodes
from lara_tokenizer.data.lerobot import rows as lerobot_rows
from lara_tokenizer.errors import EpisodeReadError

TOP = "observation.images.top"
FIRST, SECOND = "data/chunk-000/file-000.parquet", "data/chunk-000/file-001.parquet"


def rewrite(file, change):
    pq.write_table(change(pq.read_table(file)), file)


def shuffled(table):
    return table.take(pa.array(np.random.default_rng(1).permutation(len(table))))


def set_column(name, values):
    def change(table):
        column = values(table[name].to_numpy()) if callable(values) else values
        return table.set_column(table.column_names.index(name), name, pa.array(column))

    return change


def data_of(root, episode):
    """The file with an episode's rows, in either version."""
    own = root / f"data/chunk-000/episode_{episode:06d}.parquet"
    return own if own.exists() else root / FIRST


def reasons(root, check_pairs):
    """By episode, the error of its frames or rows; all others were found right."""
    found = {}
    for episode in load_episodes(root):
        try:
            assert check_pairs(episode) == ""
        except EpisodeReadError as error:
            found[episode.index] = str(error)
    return found


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize("change", [shuffled, lambda table: table.take(pa.array(range(len(table) - 1, -1, -1)))])
def test_rows_in_any_order_are_sorted_by_their_frame(numbered_sets, tmp_path, check_pairs, version, change):
    root = shutil.copytree(numbered_sets[version], tmp_path / "set")
    for file in (root / "data").rglob("*.parquet"):
        rewrite(file, change)
    assert reasons(root, check_pairs) == {}


def test_pictures_are_sorted_as_the_rows_are(tmp_path, numbered_frames, write_lerobot):
    frames = numbered_frames(8)
    for version in ("v3.0", "v2.1"):
        root = write_lerobot(tmp_path / version, {TOP: [frames]}, version=version, kind="image")
        rewrite(data_of(root, 0), shuffled)
        (episode,) = load_episodes(root)
        assert np.array_equal(episode.frames(TOP, range(8)), frames)


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0, 1, 2, 2, 4, 5], "frame_index of episode 1 is twice 2"),
        ([0, 1, 2, 4, 5, 6], "frame_index of episode 1 is none between 2 and 4"),
        ([2, 3, 4, 5, 6, 7], "frame_index of episode 1 begins with 2: its first frames have no row"),
        ([0, 1, 2, None, 4, 5], "column 'frame_index' has missing values"),
    ],
)
def test_rows_that_are_not_one_a_frame_are_refused(numbered_sets, tmp_path, check_pairs, version, values, reason):
    root = shutil.copytree(numbered_sets[version], tmp_path / "set")

    def change(table):
        mask = pc.equal(table["episode_index"], 1)
        frames = table["frame_index"].to_pylist()
        # The time tells a count through the whole dataset from rows that were cut off.
        times = [t + 0.2 if i == 1 and values[0] == 2 else t for t, i in
                 zip(table["timestamp"].to_pylist(), table["episode_index"].to_pylist(), strict=True)]  # fmt: skip
        new = iter(values)
        frames = [next(new) if is_it else frame for frame, is_it in zip(frames, mask.to_pylist(), strict=True)]
        return set_column("timestamp", times)(set_column("frame_index", frames)(table))

    rewrite(data_of(root, 1), change)
    found = reasons(root, check_pairs)
    assert reason in found.pop(1)
    # A missing value is an episode's own where it can be, so the others are read.
    assert found == {}


def test_frames_counted_through_the_whole_dataset_are_frames_in_order(set_v3, check_pairs):
    rewrite(set_v3 / FIRST, lambda table: set_column("frame_index", np.arange(26))(table))
    assert reasons(set_v3, check_pairs) == {}


def test_without_a_frame_index_the_times_prove_the_order(set_v3, check_pairs):
    rewrite(set_v3 / FIRST, lambda table: table.drop_columns(["frame_index", "index"]))
    assert reasons(set_v3, check_pairs) == {}
    rewrite(set_v3 / FIRST, shuffled)
    found = reasons(set_v3, check_pairs)
    assert len(found) == 4
    assert all("their order is unknown" in reason for reason in found.values())


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize("absent", [["frame_index"], ["frame_index", "timestamp"]])
@pytest.mark.parametrize("kind", [pa.int64(), pa.float32()])
def test_without_a_frame_index_rows_are_sorted_by_their_index(
    numbered_sets, tmp_path, check_pairs, version, absent, kind
):
    root = shutil.copytree(numbered_sets[version], tmp_path / "set")
    for file in (root / "data").rglob("*.parquet"):
        rewrite(file, lambda table: set_column("index", table["index"].cast(kind))(table))
        rewrite(file, lambda table: shuffled(table.drop_columns(absent)))
    assert reasons(root, check_pairs) == {}


def test_an_index_that_proves_no_order_is_refused_unless_the_times_do(set_v2, check_pairs):
    file = data_of(set_v2, 1)
    # It skips rows that were deleted: still an order.
    rewrite(file, lambda table: set_column("index", [3, 5, 6, 9, 10, 20])(table.drop_columns("frame_index")))
    assert reasons(set_v2, check_pairs) == {}
    rewrite(file, lambda table: set_column("index", [0] * 6)(table))
    assert reasons(set_v2, check_pairs) == {}
    rewrite(file, lambda table: set_column("index", [5, 4, 3, 2, 1, 0])(table))
    assert "timestamp does not grow: their order is unknown" in reasons(set_v2, check_pairs)[1]
    rewrite(file, lambda table: set_column("index", [0, 1, 2, 3, 3, 4])(table.drop_columns("timestamp")))
    assert "rows without frame_index whose index repeats: their order is unknown" in reasons(set_v2, check_pairs)[1]
    rewrite(file, lambda table: table.drop_columns("index"))  # the order in the file is all there is
    assert reasons(set_v2, check_pairs) == {}


def split(root, *parts):
    """Write the rows of one file as several: the first and the last episode of each."""
    table = pq.read_table(root / FIRST)
    for number, (first, last) in enumerate(parts):
        index = table["episode_index"]
        part = table.filter(pc.and_(pc.greater_equal(index, first), pc.less_equal(index, last)))
        pq.write_table(part, root / f"data/chunk-000/file-{number:03d}.parquet")


@pytest.mark.parametrize(
    ("parts", "files"),
    [
        ([(0, 1), (2, 3)], [0, 0, 0, 1]),  # one too early, as published in lerobot/libero
        ([(0, 1), (2, 3)], [0, 1, 1, 1]),  # one too late
        ([(0, 1), (2, 3)], [0, 0, 7, 7]),  # a file that there is not
        ([(0, 0), (1, 1), (2, 2), (3, 3)], [3, 2, 1, 0]),
        ([(0, 1), (2, 3)], [0, 0, None, None]),
    ],
)
def test_rows_are_found_where_the_metadata_has_another_file(set_v3, check_pairs, parts, files):
    split(set_v3, *parts)
    edit_episodes(set_v3, lambda rows: [row | {"data/file_index": file} for row, file in zip(rows, files, strict=True)])
    assert reasons(set_v3, check_pairs) == {}
    moved = [episode for episode, (file, part) in enumerate(zip(files, (0, 0, 1, 1), strict=True)) if file != part]
    if len(parts) == 2:  # the note names the first
        note = load_episodes(set_v3).sources[0].notes[0]
        assert f"rows of {len(moved)} episode" in note
        assert f"those of episode {moved[0]} are in data/chunk-000/file-00{int(moved[0] > 1)}.parquet, " in note


def test_rows_are_found_without_statistics_in_the_footer(set_v3, check_pairs):
    split(set_v3, (0, 1), (2, 3))
    for name in (FIRST, SECOND):
        pq.write_table(pq.read_table(set_v3 / name), set_v3 / name, write_statistics=False)
    edit_episodes(set_v3, lambda rows: [row | {"data/file_index": int(row["episode_index"] == 3)} for row in rows])
    assert reasons(set_v3, check_pairs) == {}


def test_rows_that_are_nowhere_cost_their_episode_alone(set_v3, check_pairs):
    rewrite(set_v3 / FIRST, lambda table: table.filter(pc.not_equal(table["episode_index"], 2)))
    found = reasons(set_v3, check_pairs)
    assert list(found) == [2]
    assert "0 rows for an episode of 7 frames" in found[2]


def test_a_file_named_for_an_episode_with_rows_of_another_is_refused(set_v2, check_pairs):
    own = data_of(set_v2, 1)
    rewrite(own, lambda table: set_column("episode_index", lambda values: values + 2)(table))
    found = reasons(set_v2, check_pairs)
    assert found == {1: f"{own.relative_to(set_v2)}: its rows say episode_index 3, its name episode 1"}


def test_a_column_that_is_declared_and_absent_is_a_note(set_v3, check_pairs):
    features = json.loads((set_v3 / "meta/info.json").read_text())["features"]
    edit_info(set_v3, features=features | {"observation.state": {"dtype": "float32", "shape": [2], "names": None}})
    episodes = load_episodes(set_v3)
    assert episodes[0].available_signals == ("actions", "text")
    assert "meta/info.json names the column 'observation.state', but the rows have none" in str(episodes.sources[0])
    assert reasons(set_v3, check_pairs) == {}
    rewrite(set_v3 / FIRST, lambda table: table.drop_columns("task_index"))
    assert load_episodes(set_v3)[1].signals().texts is None
    assert load_episodes(set_v3)[1].text == "drop it"


def test_a_column_that_is_not_declared_is_read_with_a_note(set_v3, check_pairs):
    features = json.loads((set_v3 / "meta/info.json").read_text())["features"]
    edit_info(set_v3, features={TOP: features[TOP]})
    assert "column 'action' is not named in meta/info.json, and is read" in str(load_episodes(set_v3).sources[0])
    assert reasons(set_v3, check_pairs) == {}


def test_a_camera_of_pictures_without_a_column_is_no_camera(tmp_path, numbered_frames, write_lerobot):
    root = write_lerobot(tmp_path / "set", {TOP: [numbered_frames(8)]}, kind="image")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    edit_info(root, features={"observation.images.side": features[TOP], **features})
    episodes = load_episodes(root)
    assert episodes[0].cameras == (TOP,)
    assert "names camera 'observation.images.side', but there are no files of it" in str(episodes.sources[0])


def test_pictures_are_taken_from_their_bytes_and_from_below_the_root_only(tmp_path, numbered_frames, write_lerobot):
    frames = numbered_frames(8)
    root = write_lerobot(tmp_path / "set", {TOP: [frames]}, version="v2.1", kind="image")
    cells = [row["bytes"] for row in pq.read_table(data_of(root, 0))[TOP].to_pylist()]
    (root / "images").mkdir()
    for number, data in enumerate(cells):
        (root / f"images/{number}.png").write_bytes(data)
    (tmp_path / "secret.png").write_bytes(cells[0])

    def store(make):
        rewrite(data_of(root, 0), lambda table: set_column(TOP, [make(i) for i in range(8)])(table))
        return load_episodes(root)[0]

    for make in (
        lambda i: {"bytes": cells[i], "path": "/home/somebody/recordings/frame.png"},
        lambda i: {"bytes": None, "path": f"images/{i}.png"},
        lambda i: {"bytes": None, "path": str(root / f"images/{i}.png")},
    ):
        assert np.array_equal(store(make).frames(TOP, range(8)), frames)
    for path in (str(tmp_path / "secret.png"), "../secret.png", "images/../../secret.png", f"{root}/../secret.png"):
        with pytest.raises(EpisodeReadError, match="the name leads out of the dataset"):
            store(lambda i, path=path: {"bytes": None, "path": path}).frames(TOP, [0])


def test_a_few_bytes_that_promise_many_rows_are_not_taken_whole(set_v3, check_pairs, monkeypatch):
    monkeypatch.setattr(lerobot_rows, "_CACHED_ROWS", 10)  # as row groups of more than four million rows
    assert reasons(set_v3, check_pairs) == {}
    rewrite(set_v3 / FIRST, lambda table: pa.concat_tables([table, table.filter(pc.equal(table["episode_index"], 1))]))
    assert reasons(set_v3, check_pairs) == {1: f"{FIRST}: more than 6 rows for an episode of 6 frames"}


def test_a_column_that_some_files_lack_costs_their_episodes_alone(set_v2, check_pairs):
    for episode in (0, 2):
        rewrite(data_of(set_v2, episode), lambda table: table.drop_columns("action"))
    found = reasons(set_v2, check_pairs)
    assert list(found) == [0, 2]
    assert all("no column 'action' in it" in reason for reason in found.values())


@pytest.mark.parametrize("large", [False, True])
def test_a_damaged_value_is_seen_where_the_writer_stored_checksums(set_v2, check_pairs, monkeypatch, large):
    if large:
        monkeypatch.setattr(lerobot_rows, "_CACHED_ROWS", 0)
    file = data_of(set_v2, 1)
    pq.write_table(pq.read_table(file), file, compression="none", use_dictionary=False, write_page_checksum=True)
    assert reasons(set_v2, check_pairs) == {}
    content = file.read_bytes()
    number = np.float32(10).tobytes()
    assert content.count(number) >= 1
    file.write_bytes(content.replace(number, np.float32(11).tobytes(), 1))
    assert "cannot be read as parquet" in reasons(set_v2, check_pairs)[1]
