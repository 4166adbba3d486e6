"""The LeRobotDataset v3.0 writer: equal content when read back, complete episodes only, exact statistics."""

from __future__ import annotations

import json
import os
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from lara_tokenizer.data.lerobot.writer import LeRobotWriter, encode_video, image_histogram

KEY = "observation.images.top"


def make_writer(root: Path) -> LeRobotWriter:
    return LeRobotWriter(
        root,
        fps=10,
        video_shapes={KEY: (32, 32)},
        column_names={"action": ("x", "y"), "next.success": ()},
        robot_type="square",
    )


def make_columns(length: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"action": rng.normal(size=(length, 2)).astype(np.float32), "next.success": np.arange(length) == length - 1}


@pytest.fixture
def written(tmp_path, moving_square):
    """Three episodes of 7, 8 and 9 frames, two tasks; returns the root, the frames and the columns."""
    writer, frames, columns = make_writer(tmp_path / "set"), [], []
    for number, task in enumerate(["push", "pull", "push"]):
        frames.append(moving_square(7 + number, size=32, seed=number))
        columns.append(make_columns(7 + number, seed=number))
        writer.add_episode(number, task, columns[-1], {KEY: frames[-1]}, {"seed": number})
    summary = writer.finalize()
    assert (summary.episodes, summary.frames, summary.tasks) == (3, 24, 2)
    return writer.root, frames, columns


def read_video(path: Path) -> tuple[np.ndarray, list[float]]:
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in decoded]), [frame.time for frame in decoded]


def test_frames_come_back_close_and_their_times_exactly(written):
    root, frames, _ = written
    for number, expected in enumerate(frames):
        decoded, times = read_video(root / f"videos/{KEY}/chunk-000/file-{number:03d}.mp4")
        assert decoded.shape == expected.shape
        # The palette's flat patches survive; chroma is halved, so edges of the coloured square differ.
        assert np.abs(decoded.astype(int) - expected).mean() < 12
        assert times == [frame / 10 for frame in range(len(expected))]


def test_rows_come_back_exactly(written):
    root, _, columns = written
    rows = pq.read_table(root / "data/chunk-000/file-000.parquet")
    actions = np.concatenate([column["action"] for column in columns])
    assert np.array_equal(np.array(rows["action"].to_pylist(), np.float32), actions)
    assert rows["next.success"].to_pylist() == np.concatenate([c["next.success"] for c in columns]).tolist()
    assert rows["index"].to_pylist() == list(range(24))
    assert rows["frame_index"].to_pylist() == [*range(7), *range(8), *range(9)]
    assert rows["episode_index"].to_pylist() == [0] * 7 + [1] * 8 + [2] * 9
    assert rows["task_index"].to_pylist() == [0] * 7 + [1] * 8 + [0] * 9
    expected = np.concatenate([np.arange(n) / 10 for n in (7, 8, 9)]).astype(np.float32)
    assert np.array_equal(rows["timestamp"].to_numpy(), expected)


def test_episode_rows_say_where_everything_is(written):
    root, *_ = written
    rows = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["tasks"] for row in rows] == [["push"], ["pull"], ["push"]]
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows] == [(0, 7), (7, 15), (15, 24)]
    assert [row[f"videos/{KEY}/file_index"] for row in rows] == [0, 1, 2]
    assert [row[f"videos/{KEY}/to_timestamp"] for row in rows] == [0.7, 0.8, 0.9]
    assert {row[f"videos/{KEY}/from_timestamp"] for row in rows} == {0.0}
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert all(np.shape(row[f"stats/{KEY}/mean"]) == (3, 1, 1) for row in rows)


def test_statistics_equal_those_of_all_frames_at_once(written):
    root, frames, columns = written
    stats = json.loads((root / "meta/stats.json").read_text())
    pixels = np.concatenate(frames).reshape(-1, 3) / 255
    actions = np.concatenate([column["action"] for column in columns]).astype(np.float64)
    for name in ("min", "max", "mean", "std"):
        assert np.allclose(np.ravel(stats[KEY][name]), getattr(pixels, name)(0), atol=1e-12)
        assert np.allclose(stats["action"][name], getattr(actions, name)(0), atol=1e-12)
    exact = np.quantile(pixels, 0.9, axis=0, method="inverted_cdf")
    assert np.allclose(np.ravel(stats[KEY]["q90"]), exact)
    assert stats["action"]["count"] == [24]
    assert stats[KEY]["count"] == [24 * 32 * 32]


def test_info_describes_what_is_there(written):
    root, *_ = written
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["robot_type"]) == ("v3.0", 10, "square")
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 24, 2)
    assert info["features"]["action"] == {"dtype": "float32", "shape": [2], "names": ["x", "y"]}
    assert info["features"]["next.success"]["dtype"] == "bool"
    assert info["features"][KEY]["shape"] == [32, 32, 3]
    video = info["video_path"].format(video_key=KEY, chunk_index=0, file_index=2)
    assert (root / video).exists()
    columns = pq.read_schema(root / info["data_path"].format(chunk_index=0, file_index=0)).names
    assert set(columns) | {KEY} == set(info["features"])


def test_datasets_reads_the_rows_with_the_declared_features(written):
    datasets = pytest.importorskip("datasets")
    root, *_ = written
    features = {}
    for key, feature in json.loads((root / "meta/info.json").read_text())["features"].items():
        if feature["dtype"] != "video":
            value = datasets.Value(feature["dtype"])
            features[key] = value if feature["shape"] == [1] else datasets.Sequence(value, length=feature["shape"][0])
    file = str(root / "data/chunk-000/file-000.parquet")
    cache = str(root.parent / "cache")
    rows = datasets.Dataset.from_parquet([file], features=datasets.Features(features), cache_dir=cache)
    assert len(rows) == 24
    assert len(rows[0]["action"]) == 2


def test_pandas_takes_the_tasks_for_the_index(written):
    pandas = pytest.importorskip("pandas")
    tasks = pandas.read_parquet(written[0] / "meta/tasks.parquet")
    assert tasks.index.tolist() == ["push", "pull"]
    assert tasks.loc["pull", "task_index"] == 1


def test_gaps_in_the_numbers_leave_no_gap_in_the_index(tmp_path, moving_square):
    writer = make_writer(tmp_path)
    for number in (1002, 0, 5):
        writer.add_episode(number, "push", make_columns(4), {KEY: moving_square(4, size=32)})
    writer.finalize()
    rows = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["episode_index"] for row in rows] == [0, 1, 2]
    assert [(row[f"videos/{KEY}/chunk_index"], row[f"videos/{KEY}/file_index"]) for row in rows] == [
        (0, 0),
        (0, 5),
        (1, 2),
    ]
    assert (tmp_path / f"videos/{KEY}/chunk-001/file-002.mp4").exists()


def test_an_episode_cut_short_does_not_count(tmp_path, moving_square, monkeypatch):
    writer, real_replace = make_writer(tmp_path), os.replace
    writer.add_episode(0, "push", make_columns(4), {KEY: moving_square(4, size=32)})

    def fail_on_rows(source, target):
        if Path(source).name == "rows.parquet":
            raise OSError("disk full")
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", fail_on_rows)
    with pytest.raises(OSError, match="disk full"):
        writer.add_episode(1, "push", make_columns(4), {KEY: moving_square(4, size=32)})
    monkeypatch.undo()
    assert writer.episode_ids() == [0]
    assert [path.name for path in (tmp_path / ".job").iterdir()] == ["episode-000000.parquet"]
    assert writer.finalize().episodes == 1
    writer.add_episode(1, "push", make_columns(4), {KEY: moving_square(4, size=32)})
    assert writer.finalize().episodes == 2


def test_what_a_killed_process_left_is_cleared(tmp_path):
    writer = make_writer(tmp_path)
    (tmp_path / ".job" / "unfinished-abc").mkdir()
    writer.clear_unfinished()
    assert list((tmp_path / ".job").iterdir()) == []


def test_equal_frames_give_equal_bytes(tmp_path, moving_square):
    for name in ("a.mp4", "b.mp4"):
        encode_video(tmp_path / name, moving_square(12, size=32), 10)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_histograms_of_parts_add_up_to_that_of_the_whole(moving_square):
    frames = moving_square(9, size=32)
    assert np.array_equal(image_histogram(frames[:4]) + image_histogram(frames[4:]), image_histogram(frames))


@pytest.mark.parametrize(
    ("columns", "frames", "message"),
    [
        ({"action": np.zeros((4, 2))}, np.zeros((4, 32, 32, 3), np.uint8), r"columns are \['action'\], this dataset"),
        (make_columns(5), np.zeros((4, 32, 32, 3), np.uint8), "same number of frames everywhere"),
        (make_columns(0), np.zeros((0, 32, 32, 3), np.uint8), "at least one"),
        (make_columns(4), np.zeros((4, 16, 16, 3), np.uint8), r"taken is uint8 \(T, \(32, 32\), 3\)"),
        (make_columns(4), np.zeros((4, 32, 32, 3)), "came as float64"),
    ],
)
def test_an_episode_of_another_shape_is_refused(tmp_path, columns, frames, message):
    with pytest.raises(ValueError, match=message):
        make_writer(tmp_path).add_episode(0, "push", columns, {KEY: frames})


@pytest.mark.parametrize(
    ("fps", "shape", "message"), [(2.5, (32, 32), "whole number"), (0, (32, 32), "at least 1"), (10, (33, 32), "even")]
)
def test_a_dataset_that_cannot_be_is_refused(tmp_path, fps, shape, message):
    with pytest.raises(ValueError, match=message):
        LeRobotWriter(tmp_path, fps=fps, video_shapes={KEY: shape}, column_names={})


def test_a_finished_dataset_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text("{}")
    with pytest.raises(ValueError, match="another folder"):
        make_writer(tmp_path)


def test_finalizing_nothing_says_so(tmp_path):
    with pytest.raises(ValueError, match="no episode yet"):
        make_writer(tmp_path).finalize()
