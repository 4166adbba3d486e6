"""Frames, actions and text of one episode of a LeRobotDataset, by pyarrow and our video decoding, without lerobot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lara_tokenizer.data.dataset_files import DatasetFiles
from lara_tokenizer.data.episode import FrameIndex, Signals, check_indices, numeric_rows
from lara_tokenizer.data.lerobot.info import TASKS_V2, TASKS_V3, VideoSpan
from lara_tokenizer.data.video import EncodedImagesReader, VideoReader, open_video_file
from lara_tokenizer.errors import EpisodeReadError, first_line


@dataclass(frozen=True, slots=True)
class DataRows:
    """The parquet file with an episode's rows."""

    file: str
    shared: bool  # whether the file contains rows of other episodes too (v3.0)
    columns: tuple[tuple[str, str], ...]  # available actions, states and text as (signal, column)


@dataclass(eq=False)
class LeRobotReader:
    """A `FrameReader` and `SignalReader` for one episode.

    Frame i is the video's frame nearest to i / fps seconds from the episode's start. Before the first frame is read,
    the video is checked to contain all of them (`first_frame_of`).
    """

    files: DatasetFiles
    episode_index: int  # selects the rows of a shared file
    length: int  # frame count according to the metadata
    fps: float  # frames per second according to the metadata
    cameras: Mapping[str, VideoSpan | None]  # the video of each camera; None for images in the data's own column
    rows: DataRows  # file and columns of the signals
    decoder: str  # "pyav", "decord" or "torchcodec"
    _first: dict[str, int] = field(default_factory=dict, init=False)
    """By camera: index, in its video file, of the episode's first frame."""
    _images: dict[str, EncodedImagesReader] = field(default_factory=dict, init=False)

    def index(self, camera: str) -> FrameIndex:
        """Frame times at the dataset's rate. Raises EpisodeReadError unless the camera has exactly `length` frames."""
        note = ""
        if self.cameras[camera] is None:
            self._read([])  # checks the number of rows without reading an image
        else:
            self._first_frame(camera)
            note = self._video(camera).index().note
        return FrameIndex(np.arange(self.length) / self.fps, self.fps, note)

    def stated_duration(self, fps: float | None) -> float:
        """Duration in seconds according to the metadata."""
        return self.length / (fps or self.fps)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order of `indices`. Raises EpisodeReadError and IndexError."""
        indices = check_indices(indices, self.length, f"episode {self.episode_index}")
        span = self.cameras[camera]
        if span is None:
            with _errors_name(self.rows.file):
                return self._image_reader(camera).frames("", indices)
        first = self._first_frame(camera)
        with _errors_name(span.file):
            return self._video(camera).frames("", first + indices)

    def signals(self) -> Signals:
        """Actions, states and the task of each frame. Raises EpisodeReadError."""
        columns = dict(self.rows.columns)
        table = self._read(list(columns.values()))
        task = columns.pop("text", None)
        with _errors_name(self.rows.file):
            values = {signal: numeric_rows(table[column], column) for signal, column in columns.items()}
        texts = None if task is None else self._texts(table[task].to_pylist())
        return Signals(values.get("actions"), values.get("states"), texts)

    def close(self) -> None:
        """Drop loaded images; video files stay open, as the next episode may be in the same file."""
        self._images.clear()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_images": {}, "_first": {}}

    def _texts(self, task_indices: list[int]) -> tuple[str, ...]:
        tasks = load_tasks(self.files, TASKS_V3 if self.rows.shared else TASKS_V2)
        if unknown := sorted({index for index in task_indices if index not in tasks}, key=str):
            raise EpisodeReadError(self.rows.file, f"task_index {unknown[0]} is not among the dataset's tasks")
        return tuple(tasks[index] for index in task_indices)

    def _video(self, camera: str) -> VideoReader:
        span = self.cameras[camera]
        assert span is not None
        return open_video_file(self.files.path(span.file), self.decoder)

    def _first_frame(self, camera: str) -> int:
        """Index, in the video file, of the episode's first frame; all frames are checked to be there."""
        if camera not in self._first:
            span = self.cameras[camera]
            assert span is not None
            with _errors_name(span.file):
                timestamps = self._video(camera).index().timestamps
                self._first[camera] = first_frame_of(span, timestamps, self.length, self.fps)
        return self._first[camera]

    def _image_reader(self, camera: str) -> EncodedImagesReader:
        if camera not in self._images:
            cells = self._read([camera])[camera].to_pylist()
            name, read = partial("{}, frame {}".format, camera), partial(_read_cell, self.files, cells)
            self._images[camera] = EncodedImagesReader(self.rows.file, len(cells), name, read)
        return self._images[camera]

    def _read(self, columns: list[str]) -> pa.Table:
        """Columns of the episode's rows. Raises EpisodeReadError."""
        path = self.files.path(self.rows.file)
        with _errors_name(self.rows.file):
            try:
                version = path.stat().st_mtime_ns
                names = _footer(path, version).names
                needed = ["episode_index", *columns] if self.rows.shared else columns
                if missing := [name for name in needed if name not in names]:
                    raise EpisodeReadError(path, f"no column {missing[0]!r} in it (there are {', '.join(names)})")
                if self.rows.shared and not set(columns) & set(self.cameras):
                    table = _episode_rows(path, version, tuple(columns), self.episode_index)
                else:
                    # Images are filtered while reading, not cached as row groups: those could be gigabytes.
                    rows = [("episode_index", "=", self.episode_index)] if self.rows.shared else None
                    # One thread: worker processes share the cores.
                    table = pq.read_table(path, columns=columns, filters=rows, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise EpisodeReadError(path, f"cannot be read as parquet ({first_line(error)})") from error
            if len(table) != self.length:
                raise EpisodeReadError(path, f"{len(table)} rows for an episode of {self.length} frames")
        return table


def _read_cell(files: DatasetFiles, cells: Sequence[Any], i: int) -> bytes:
    """The image in cell i of a column, which is bytes or the name of a file."""
    cell = cells[i]
    if isinstance(cell, bytes):
        return cell
    stored = cell if isinstance(cell, dict) else {}
    if stored.get("bytes"):
        return stored["bytes"]
    if stored.get("path"):
        return files.path(stored["path"]).read_bytes()
    raise ValueError("the cell is empty")


def first_frame_of(span: VideoSpan, timestamps: np.ndarray, length: int, fps: float) -> int:
    """Index of an episode's first frame in its video file.

    Args:
        span: `start` and `stop` are LeRobot's from_timestamp and to_timestamp.
        timestamps: float64 (n,), of the file's frames, in seconds from its first frame, not the container's raw PTS.
        length: frame count of the episode according to the metadata.
        fps: frames per second according to the metadata.

    Raises EpisodeReadError unless the file has exactly these frames there, each less than half a frame from its
    expected time. (LeRobot's own tolerance, `tolerance_s`, is 1e-4 s.)

    >>> first_frame_of(VideoSpan("a.mp4", start=1.0, stop=2.0), np.arange(30) / 10, length=10, fps=10)
    10
    """
    if span.start is None:
        if len(timestamps) != length:
            raise EpisodeReadError(span.file, f"the file has {len(timestamps)} frames, the metadata says {length}")
        return 0
    if span.stop is not None and round((span.stop - span.start) * fps) != length:
        raise EpisodeReadError(
            span.file,
            f"from_timestamp {span.start:g} s to to_timestamp {span.stop:g} s are "
            f"{round((span.stop - span.start) * fps)} frames, the metadata says {length}",
        )
    expected = span.start + np.arange(length) / fps
    first = int(np.argmin(np.abs(timestamps - span.start)))
    actual = timestamps[first : first + length]
    # From half a frame on, the neighbour would be nearer: the episode's border would be one frame off.
    if len(actual) < length or np.abs(actual - expected).max() >= 0.5 / fps:
        raise EpisodeReadError(
            span.file,
            f"expected a frame every 1/{fps:g} s from {span.start:g} s to {expected[-1]:g} s ({length} frames), but "
            "frames are missing or off by half a frame or more",
        )
    return first


def _episode_rows(path: Path, version: int, columns: tuple[str, ...], episode_index: int) -> pa.Table:
    """An episode's rows of a shared file; its row groups stay cached for the next episode."""
    ranges = _footer(path, version).episode_ranges
    groups = tuple(group for group, (first, last) in enumerate(ranges) if first <= episode_index <= last)
    table = _row_groups(path, version, columns, groups)
    return table.filter(pc.equal(table["episode_index"], episode_index)).select(list(columns))


class _Footer(NamedTuple):
    """Columns of a data file, and the first and last episode of each row group, from the parquet footer."""

    names: list[str]
    episode_ranges: list[tuple[float, float]]


@lru_cache(maxsize=1)
def _footer(path: Path, version: int) -> _Footer:
    with pq.ParquetFile(path) as file:
        names, metadata = file.schema_arrow.names, file.metadata
    # The column chunks are the leaves of the schema: images and lists have several, so positions differ from `names`.
    leaves = [metadata.schema.column(leaf).path for leaf in range(metadata.num_columns)]
    if "episode_index" not in leaves:
        return _Footer(names, [])
    leaf = leaves.index("episode_index")
    groups = [metadata.row_group(group).column(leaf) for group in range(metadata.num_row_groups)]
    statistics = [group.statistics if group.is_stats_set else None for group in groups]
    unknown = (-math.inf, math.inf)  # a row group without statistics may contain any episode
    return _Footer(names, [(s.min, s.max) if s is not None and s.has_min_max else unknown for s in statistics])


@lru_cache(maxsize=1)
def _row_groups(path: Path, version: int, columns: tuple[str, ...], groups: tuple[int, ...]) -> pa.Table:
    with pq.ParquetFile(path) as file:
        names = list(dict.fromkeys(["episode_index", *columns]))
        # One thread: worker processes share the cores.
        return file.read_row_groups(list(groups), columns=names, use_threads=False)


@lru_cache(maxsize=4)
def load_tasks(files: DatasetFiles, name: str) -> dict[int, str]:
    """The instruction of each task index. Raises EpisodeReadError."""
    path = files.path(name)
    try:
        if name == TASKS_V3:
            table = pq.read_table(path)
            # The column of texts has no fixed name: pandas writes its index as "__index_level_0__" or "task".
            texts = next(column for column in table.column_names if column != "task_index")
            return dict(zip(table["task_index"].to_pylist(), table[texts].to_pylist(), strict=True))
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        return {row["task_index"]: row["task"] for row in rows}
    except (pa.ArrowException, OSError, ValueError, KeyError, StopIteration) as error:
        raise EpisodeReadError(name, f"cannot be read ({first_line(error)})") from error


@contextmanager
def _errors_name(file: str) -> Iterator[None]:
    """Make errors name a file of the dataset: an episode reads several, and the id alone would name none of them."""
    try:
        yield
    except EpisodeReadError as error:
        raise type(error)(file, error.reason) from error
