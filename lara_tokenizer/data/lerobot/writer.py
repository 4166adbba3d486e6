"""Writer for LeRobotDataset v3.0 with one mp4 per episode and camera, without lerobot.

    meta/info.json  stats.json  tasks.parquet  episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet                      rows of all episodes, one per frame
    videos/<key>/chunk-000/file-000.mp4                  one file per episode, from_timestamp 0
    .job/episode-000000.parquet                          rows of one episode, from which the files above are assembled

An episode is written completely or not at all: its videos are renamed into place first and the file in `.job/` last,
and only that one counts. So several processes may write to one folder, each its own episodes, and an interrupted run
continues. `finalize` writes data and metadata from the episodes that exist, and may be called any number of times;
`.job/` may be deleted once no episode is to be added.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer import _files
from lara_tokenizer.data.lerobot.info import (
    CHUNK_SIZE,
    DATA_PATH,
    INDEX_FEATURES,
    INFO,
    TASKS_V3,
    VIDEO_PATH,
    new_info,
    video_feature,
)

CODEC: Final = "libx264"
PIXEL_FORMAT, CRF, GOP = "yuv420p", 23, 24
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


@dataclass(frozen=True, slots=True)
class WrittenDataset:
    """Size of the dataset that `finalize` has written."""

    episodes: int
    frames: int
    tasks: int
    video_bytes: int


class LeRobotWriter:
    """Adds episodes to a LeRobotDataset v3.0 folder.

    Args:
        root: the dataset's folder; created if necessary.
        fps: whole frames per second, for videos and timestamps.
        video_shapes: video key -> (height, width), both even, e.g. {"observation.images.top": (96, 96)}.
        column_names: column -> names of its components, e.g. {"action": ("x", "y")}; a column without names has one
            number per frame. Components are float32, except for a column of booleans.
        robot_type: written to info.json.

    Raises:
        ValueError: an fps that is not a positive whole number, an odd size, or a folder with a finished dataset.

    >>> writer = LeRobotWriter("pushes", fps=10, video_shapes={"observation.images.top": (64, 64)},
    ...                        column_names={"action": ("x", "y")})  # doctest: +SKIP
    >>> writer.add_episode(0, "push it", {"action": actions}, {"observation.images.top": frames})  # doctest: +SKIP
    >>> writer.finalize().frames  # doctest: +SKIP
    80
    """

    def __init__(
        self,
        root: str | Path,
        *,
        fps: int,
        video_shapes: Mapping[str, tuple[int, int]],
        column_names: Mapping[str, tuple[str, ...]],
        robot_type: str | None = None,
    ) -> None:
        if fps != int(fps) or fps < 1:
            raise ValueError(f"fps {fps}: LeRobot datasets take a whole number, at least 1")
        for key, (height, width) in video_shapes.items():
            if height % 2 or width % 2 or min(height, width) < 2:
                raise ValueError(f"{key} is {width}x{height}: {PIXEL_FORMAT} video needs even sides")
        self.root = Path(root)
        self.fps = int(fps)
        self.robot_type = robot_type
        self.video_shapes = dict(video_shapes)
        self.column_names = dict(column_names)
        self._job = self.root / ".job"
        if (self.root / INFO).exists() and not self._job.exists():
            raise ValueError(f"{root} holds a finished dataset (no .job folder to go on from): use another folder")
        self._job.mkdir(parents=True, exist_ok=True)

    def episode_ids(self) -> list[int]:
        """Ids of the complete episodes, sorted."""
        return sorted(int(path.stem.split("-")[1]) for path in self._job.glob("episode-*.parquet"))

    def clear_unfinished(self) -> None:
        """Remove partial episodes of killed processes. Call it only while no other process writes."""
        for folder in self._job.glob("unfinished-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def add_episode(
        self,
        episode_id: int,
        task: str,
        columns: Mapping[str, np.ndarray],
        videos: Mapping[str, np.ndarray],
        extra: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        """Write one episode of T frames, replacing one of the same id.

        Args:
            episode_id: names the video files. Gaps are allowed: LeRobot's `episode_index` counts existing episodes.
            task: the instruction.
            columns: column -> (T, D) or (T,), exactly the keys of `column_names`.
            videos: video key -> uint8 (T, H, W, 3) RGB, exactly the keys of `video_shapes`.
            extra: further values for the episode's row in meta/episodes; the same keys for each episode.

        Raises:
            ValueError: missing or unknown keys, lengths that differ, or frames of another size.
        """
        length = self._check(columns, videos)
        staging = Path(tempfile.mkdtemp(prefix="unfinished-", dir=self._job))
        try:
            histograms = {}
            for key, frames in videos.items():
                encode_video(staging / f"{key}.mp4", frames, self.fps)
                histograms[key] = image_histogram(frames)
            description = {
                "task": task,
                "length": length,
                "extra": dict(extra or {}),
                "histograms": {key: histogram.tolist() for key, histogram in histograms.items()},
            }
            table = pa.table({key: _arrow_column(values) for key, values in columns.items()})
            table = table.replace_schema_metadata({"episode": json.dumps(description)})
            pq.write_table(table, staging / "rows.parquet")
            for key in videos:
                target = self._video_file(key, episode_id)
                target.parent.mkdir(parents=True, exist_ok=True)
                _files.replace(staging / f"{key}.mp4", target)
            # Last, since it is what makes the episode count.
            _files.replace(staging / "rows.parquet", self._episode_file(episode_id))
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def finalize(self) -> WrittenDataset:
        """Write data, tasks, episodes, statistics and info.json for the complete episodes.

        Raises:
            ValueError: there is none.
        """
        ids = self.episode_ids()
        if not ids:
            raise ValueError(f"{self.root} holds no episode yet; add one before finalizing")
        tables = [pq.read_table(self._episode_file(episode_id)) for episode_id in ids]
        described = [json.loads(table.schema.metadata[b"episode"]) for table in tables]
        tasks = list(dict.fromkeys(episode["task"] for episode in described))
        data = self._data_table(tables, [tasks.index(episode["task"]) for episode in described])
        # info.json last: readers, and the check in `__init__`, treat a folder with it as a dataset.
        self._write_table(data, DATA_PATH.format(chunk_index=0, file_index=0))
        self._write_table(self._episodes_table(ids, described, data), "meta/episodes/chunk-000/file-000.parquet")
        self._write_table(_tasks_table(tasks), TASKS_V3)
        _files.write_atomically(self.root / "meta/stats.json", json.dumps(self._statistics(data, described), indent=1))
        totals = {"episodes": len(ids), "frames": len(data), "tasks": len(tasks)}
        info = new_info(self._features(data.schema), fps=self.fps, robot_type=self.robot_type, **totals)
        _files.write_atomically(self.root / INFO, json.dumps(info, indent=4))
        size = sum(self._video_file(key, each).stat().st_size for key in self.video_shapes for each in ids)
        return WrittenDataset(**totals, video_bytes=size)

    def _check(self, columns: Mapping[str, np.ndarray], videos: Mapping[str, np.ndarray]) -> int:
        """The number of frames. Raises ValueError for data that does not fit the dataset."""
        for kind, given, known in (("columns", columns, self.column_names), ("videos", videos, self.video_shapes)):
            if set(given) != set(known):
                raise ValueError(f"{kind} are {sorted(given)}, this dataset has {sorted(known)}")
        lengths = {key: len(values) for key, values in [*columns.items(), *videos.items()]}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ValueError(f"an episode needs the same number of frames everywhere, at least one; got {lengths}")
        for key, frames in videos.items():
            if frames.shape[1:] != (*self.video_shapes[key], 3) or frames.dtype != np.uint8:
                raise ValueError(
                    f"{key} came as {frames.dtype} {frames.shape}, taken is uint8 (T, {self.video_shapes[key]}, 3)"
                )
        return next(iter(lengths.values()))

    def _episode_file(self, episode_id: int) -> Path:
        return self._job / f"episode-{episode_id:06d}.parquet"

    def _video_file(self, key: str, episode_id: int) -> Path:
        chunk, file = divmod(episode_id, CHUNK_SIZE)
        return self.root / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file)

    def _write_table(self, table: pa.Table, name: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".tmp")
        pq.write_table(table, unfinished)
        _files.replace(unfinished, path)

    def _data_table(self, tables: list[pa.Table], task_indices: list[int]) -> pa.Table:
        lengths = [len(table) for table in tables]
        frame_index = np.concatenate([np.arange(length) for length in lengths])
        data = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
        index_columns = {
            "timestamp": frame_index / self.fps,
            "frame_index": frame_index,
            "episode_index": np.repeat(np.arange(len(lengths)), lengths),
            "index": np.arange(len(data)),
            "task_index": np.repeat(task_indices, lengths),
        }
        for key, dtype in INDEX_FEATURES.items():
            data = data.append_column(key, pa.array(index_columns[key].astype(dtype)))
        return data

    def _episodes_table(self, ids: list[int], described: list[dict[str, Any]], data: pa.Table) -> pa.Table:
        rows, first = [], 0
        for episode_index, (episode_id, episode) in enumerate(zip(ids, described, strict=True)):
            length = episode["length"]
            row: dict[str, Any] = {
                "episode_index": episode_index,
                "tasks": [episode["task"]],
                "length": length,
                "dataset_from_index": first,
                "dataset_to_index": first + length,
                "data/chunk_index": 0,
                "data/file_index": 0,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
                **episode["extra"],
            }
            chunk, file = divmod(episode_id, CHUNK_SIZE)
            for key in self.video_shapes:
                row |= {f"videos/{key}/chunk_index": chunk, f"videos/{key}/file_index": file}
                row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": length / self.fps}
            for key, values in self._statistics(data.slice(first, length), [episode]).items():
                row |= {f"stats/{key}/{name}": value for name, value in values.items()}
            rows.append(row)
            first += length
        return pa.Table.from_pylist(rows)

    def _statistics(self, data: pa.Table, described: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """LeRobot's statistics of each column and camera, over the rows of the `described` episodes."""
        statistics = {key: _number_statistics(_numpy_column(data[key])) for key in data.column_names}
        for key in self.video_shapes:
            statistics[key] = _image_statistics(np.sum([episode["histograms"][key] for episode in described], axis=0))
        return statistics

    def _features(self, schema: pa.Schema) -> dict[str, Any]:
        features: dict[str, Any] = {
            key: video_feature(height, width, self.fps, PIXEL_FORMAT)
            for key, (height, width) in self.video_shapes.items()
        }
        for key, names in self.column_names.items():
            dtype = "bool" if schema.field(key).type == pa.bool_() else "float32"
            features[key] = {"dtype": dtype, "shape": [len(names) or 1], "names": list(names) or None}
        for key, dtype in INDEX_FEATURES.items():
            features[key] = {"dtype": dtype, "shape": [1], "names": None}
        return features


def encode_video(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Encode uint8 (T, H, W, 3) RGB frames as H.264, frame t at t / fps seconds; equal frames give equal bytes."""
    with av.open(str(path), "w") as container:
        # For equal bytes: one thread, and x264's plain C code, because its AVX-512 code is not deterministic (seen with
        # PyAV 18.1; it would take 0.2 ms per frame at 96 px, not 0.7). No B-frames: decoding order is time order.
        options = {"crf": str(CRF), "bf": "0", "threads": "1", "x264-params": "asm=0"}
        stream = container.add_stream(CODEC, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.gop_size = PIXEL_FORMAT, GOP
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def image_histogram(frames: np.ndarray) -> np.ndarray:
    """Counts of each value per channel of uint8 (T, H, W, 3): int64 (3, 256). Histograms of several sets add up."""
    return np.stack([np.bincount(frames[..., channel].ravel(), minlength=256) for channel in range(3)])


def _image_statistics(histogram: np.ndarray) -> dict[str, Any]:
    """LeRobot's statistics of images, scaled to 0..1 and shaped (3, 1, 1); exact, as bytes take only 256 values."""
    values, counts = np.arange(256) / 255, histogram.sum(1)
    mean = histogram @ values / counts
    cumulative = histogram.cumsum(1) / counts[:, None]
    statistics = {
        "min": values[(histogram > 0).argmax(1)],
        "max": values[255 - (histogram[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(histogram @ values**2 / counts - mean**2, 0)),
        **{name: values[(cumulative >= share).argmax(1)] for name, share in QUANTILES.items()},
    }
    shaped = {name: value.reshape(3, 1, 1).tolist() for name, value in statistics.items()}
    return shaped | {"count": [int(counts[0])]}


def _number_statistics(values: np.ndarray) -> dict[str, list[float]]:
    """LeRobot's statistics of a column (T, D) or (T,), per component."""
    table = values.reshape(len(values), -1).astype(np.float64)
    statistics = {"min": table.min(0), "max": table.max(0), "mean": table.mean(0), "std": table.std(0)}
    statistics |= {name: np.quantile(table, share, axis=0) for name, share in QUANTILES.items()}
    return {name: value.tolist() for name, value in statistics.items()} | {"count": [len(table)]}


def _arrow_column(values: np.ndarray) -> pa.Array:
    values = np.asarray(values)
    if values.dtype == bool:
        return pa.array(values.reshape(-1))
    if values.ndim == 1:
        return pa.array(values.astype(np.float32))
    flat = pa.array(values.astype(np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _numpy_column(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
    return array.to_numpy(zero_copy_only=False)


def _tasks_table(tasks: list[str]) -> pa.Table:
    """Task index by task, with metadata that makes the tasks the index of the pandas frame, as LeRobot expects."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    column = {"field_name": "task_index", "name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    index = {"field_name": "task", "name": "task", "pandas_type": "unicode", "numpy_type": "object"}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [column | {"metadata": None}, index | {"metadata": None}],
        "pandas_version": "2.2.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})
