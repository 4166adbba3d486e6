"""Writes a LeRobotDataset v3.0, one mp4 an episode and camera, without lerobot.

    meta/info.json  stats.json  tasks.parquet  episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet                      one row a frame, all episodes
    videos/<key>/chunk-000/file-000.mp4                  one file an episode, from_timestamp 0
    .job/episode-000000.parquet                          an episode's rows, from which the above is put together

An episode is written whole or not at all: its videos are renamed into place first, the file in `.job/` last, and
only that one counts. So several processes may write to one folder, each its own episode numbers, and an interrupted
run continues. `finalize` writes the metadata from whatever episodes are there, as often as one likes; `.job/` may be
deleted once nothing is to be added.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CODEBASE_VERSION = "v3.0"
CHUNK_SIZE = 1000  # most files in one folder
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
CODEC: Final = "libx264"
PIXEL_FORMAT, CRF, GOP = "yuv420p", 23, 24
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
INDEX_FEATURES = {  # the columns that LeRobot expects in every dataset
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


@dataclass(frozen=True, slots=True)
class WrittenDataset:
    """What `finalize` put together."""

    episodes: int
    frames: int
    tasks: int
    video_bytes: int


class LeRobotWriter:
    """Adds episodes to a LeRobotDataset v3.0 folder.

    Args:
        root: The dataset's folder; made where it does not exist.
        fps: Whole frames a second, stamped on videos and timestamps.
        video_shapes: Video key -> (height, width), both even, e.g. {"observation.images.top": (96, 96)}.
        column_names: Column -> names of its components, e.g. {"action": ("x", "y")}; a column without names is
            one number a frame. Components are float32, except for a column of booleans.
        robot_type: As it shall stand in info.json.

    Raises:
        ValueError: An fps that is not a positive whole number, an odd size, or a folder with somebody else's dataset.

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
        self.root, self.fps, self.robot_type = Path(root), int(fps), robot_type
        self.video_shapes, self.column_names = dict(video_shapes), dict(column_names)
        self._job = self.root / ".job"
        if (self.root / "meta/info.json").exists() and not self._job.exists():
            raise ValueError(f"{root} holds a finished dataset (no .job folder to go on from): use another folder")
        self._job.mkdir(parents=True, exist_ok=True)

    def episode_numbers(self) -> list[int]:
        """The numbers of the episodes that are there, in order."""
        return sorted(int(path.stem.split("-")[1]) for path in self._job.glob("episode-*.parquet"))

    def clear_unfinished(self) -> None:
        """Remove what killed processes left half written. To be called while nobody writes."""
        for folder in self._job.glob("unfinished-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def add_episode(
        self,
        number: int,
        task: str,
        columns: Mapping[str, np.ndarray],
        videos: Mapping[str, np.ndarray],
        extra: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        """Write one episode of T frames; one of the same number is replaced.

        Args:
            number: Names the video files. Gaps are allowed: LeRobot's `episode_index` counts what is there.
            task: What is done, in words.
            columns: Column -> (T, D) or (T,), exactly the keys of `column_names`.
            videos: Video key -> uint8 (T, H, W, 3) RGB, exactly the keys of `video_shapes`.
            extra: Further values for the episode's row in meta/episodes; the same keys for each episode.

        Raises:
            ValueError: Missing or unknown keys, lengths that differ, or frames of another size.
        """
        length = self._check(columns, videos)
        staging = Path(tempfile.mkdtemp(prefix="unfinished-", dir=self._job))
        try:
            histograms = {}
            for key, frames in videos.items():
                encode_video(staging / f"{key}.mp4", frames, self.fps)
                histograms[key] = picture_histogram(frames)
            description = {
                "task": task,
                "length": length,
                "extra": dict(extra or {}),
                "histograms": {key: histogram.tolist() for key, histogram in histograms.items()},
            }
            table = pa.table({key: _arrow_column(values) for key, values in columns.items()})
            pq.write_table(
                table.replace_schema_metadata({"episode": json.dumps(description)}), staging / "rows.parquet"
            )
            for key in videos:
                target = self._video_file(key, number)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(staging / f"{key}.mp4", target)
            os.replace(staging / "rows.parquet", self._job / f"episode-{number:06d}.parquet")
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def finalize(self) -> WrittenDataset:
        """Write data, tasks, episodes, statistics and info.json for the episodes that are there.

        Raises:
            ValueError: There is none.
        """
        numbers = self.episode_numbers()
        if not numbers:
            raise ValueError(f"{self.root} holds no episode yet; add one before finalizing")
        tables = [pq.read_table(self._job / f"episode-{number:06d}.parquet") for number in numbers]
        described = [json.loads(table.schema.metadata[b"episode"]) for table in tables]
        tasks = list(dict.fromkeys(episode["task"] for episode in described))
        data = self._data_table(tables, [tasks.index(episode["task"]) for episode in described])
        stats = {key: _number_stats(_numpy_column(data[key])) for key in data.column_names}
        for key in self.video_shapes:
            stats[key] = _picture_stats(np.sum([episode["histograms"][key] for episode in described], axis=0))

        _replace_table(data, self.root / DATA_PATH.format(chunk_index=0, file_index=0))
        _replace_table(
            self._episodes_table(numbers, described, data), self.root / "meta/episodes/chunk-000/file-000.parquet"
        )
        _replace_table(_tasks_table(tasks), self.root / "meta/tasks.parquet")
        _replace_text(json.dumps(stats, indent=1), self.root / "meta/stats.json")
        info = self._info(len(numbers), len(data), len(tasks))
        _replace_text(json.dumps(info, indent=4), self.root / "meta/info.json")
        size = sum(self._video_file(key, number).stat().st_size for key in self.video_shapes for number in numbers)
        return WrittenDataset(len(numbers), len(data), len(tasks), size)

    def _check(self, columns: Mapping[str, np.ndarray], videos: Mapping[str, np.ndarray]) -> int:
        for what, given, known in (("columns", columns, self.column_names), ("videos", videos, self.video_shapes)):
            if set(given) != set(known):
                raise ValueError(f"{what} are {sorted(given)}, this dataset has {sorted(known)}")
        lengths = {key: len(values) for key, values in [*columns.items(), *videos.items()]}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ValueError(f"an episode needs the same number of frames everywhere, at least one; got {lengths}")
        for key, frames in videos.items():
            if frames.shape[1:] != (*self.video_shapes[key], 3) or frames.dtype != np.uint8:
                raise ValueError(
                    f"{key} came as {frames.dtype} {frames.shape}, taken is uint8 (T, {self.video_shapes[key]}, 3)"
                )
        return next(iter(lengths.values()))

    def _video_file(self, key: str, number: int) -> Path:
        chunk, file = divmod(number, CHUNK_SIZE)
        return self.root / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file)

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

    def _episodes_table(self, numbers: list[int], described: list[dict[str, Any]], data: pa.Table) -> pa.Table:
        rows, first = [], 0
        for episode_index, (number, episode) in enumerate(zip(numbers, described, strict=True)):
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
            chunk, file = divmod(number, CHUNK_SIZE)
            for key in self.video_shapes:
                row |= {f"videos/{key}/chunk_index": chunk, f"videos/{key}/file_index": file}
                row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": length / self.fps}
            rows_of_episode = data.slice(first, length)
            stats = {key: _number_stats(_numpy_column(rows_of_episode[key])) for key in data.column_names}
            stats |= {key: _picture_stats(np.asarray(episode["histograms"][key])) for key in self.video_shapes}
            for key, values in stats.items():
                row |= {f"stats/{key}/{name}": value for name, value in values.items()}
            rows.append(row)
            first += length
        return pa.Table.from_pylist(rows)

    def _info(self, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
        features: dict[str, Any] = {}
        for key, (height, width) in self.video_shapes.items():
            features[key] = {
                "dtype": "video",
                "shape": [height, width, 3],
                "names": ["height", "width", "channels"],
                "info": {
                    "video.height": height,
                    "video.width": width,
                    "video.codec": "h264",
                    "video.pix_fmt": PIXEL_FORMAT,
                    "video.is_depth_map": False,
                    "video.fps": self.fps,
                    "video.channels": 3,
                    "has_audio": False,
                },
            }
        schema = pq.read_schema(self.root / DATA_PATH.format(chunk_index=0, file_index=0))
        for key, names in self.column_names.items():
            dtype = "bool" if schema.field(key).type == pa.bool_() else "float32"
            features[key] = {"dtype": dtype, "shape": [len(names) or 1], "names": list(names) or None}
        for key, dtype in INDEX_FEATURES.items():
            features[key] = {"dtype": dtype, "shape": [1], "names": None}
        return {
            "codebase_version": CODEBASE_VERSION,
            "robot_type": self.robot_type,
            "total_episodes": episodes,
            "total_frames": frames,
            "total_tasks": tasks,
            "chunks_size": CHUNK_SIZE,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": {"train": f"0:{episodes}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": features,
        }


def encode_video(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Write uint8 (T, H, W, 3) RGB frames as H.264, frame t at t / fps seconds.

    Equal frames give equal bytes: one encoder thread, and x264's plain C code, because its AVX-512 code does not
    repeat itself (seen with PyAV 18.1; it would take 0.2 ms a frame at 96 px, not 0.7). No B-frames: files decode in
    the order of time.
    """
    with av.open(str(path), "w") as container:
        options = {"crf": str(CRF), "bf": "0", "threads": "1", "x264-params": "asm=0"}
        stream = container.add_stream(CODEC, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.gop_size = PIXEL_FORMAT, GOP
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def picture_histogram(frames: np.ndarray) -> np.ndarray:
    """How often each value comes in each channel of uint8 (T, H, W, 3): int64 (3, 256). Histograms of sets add up."""
    return np.stack([np.bincount(frames[..., channel].ravel(), minlength=256) for channel in range(3)])


def _picture_stats(histogram: np.ndarray) -> dict[str, Any]:
    """LeRobot's statistics of pictures, scaled to 0..1 and shaped (3, 1, 1), exact because bytes take 256 values."""
    values, counts = np.arange(256) / 255, histogram.sum(1)
    mean = histogram @ values / counts
    cumulative = histogram.cumsum(1) / counts[:, None]
    stats = {
        "min": values[(histogram > 0).argmax(1)],
        "max": values[255 - (histogram[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(histogram @ values**2 / counts - mean**2, 0)),
        **{name: values[(cumulative >= share).argmax(1)] for name, share in QUANTILES.items()},
    }
    return {name: value.reshape(3, 1, 1).tolist() for name, value in stats.items()} | {"count": [int(counts[0])]}


def _number_stats(values: np.ndarray) -> dict[str, list[float]]:
    """LeRobot's statistics of a column (T, D) or (T,), per component."""
    table = values.reshape(len(values), -1).astype(np.float64)
    stats = {"min": table.min(0), "max": table.max(0), "mean": table.mean(0), "std": table.std(0)}
    stats |= {name: np.quantile(table, share, axis=0) for name, share in QUANTILES.items()}
    return {name: value.tolist() for name, value in stats.items()} | {"count": [len(table)]}


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
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
    return array.to_numpy(zero_copy_only=False)


def _tasks_table(tasks: list[str]) -> pa.Table:
    """Task index by task, marked so that pandas takes the tasks for the frame's index, as LeRobot expects."""
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


def _replace_table(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path.with_name(path.name + ".tmp"))
    os.replace(path.with_name(path.name + ".tmp"), path)


def _replace_text(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".tmp").write_text(text, encoding="utf-8")
    os.replace(path.with_name(path.name + ".tmp"), path)
