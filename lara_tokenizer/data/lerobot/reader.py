"""Frames, actions and text of one episode of a LeRobotDataset, with pyarrow and our decoder, without lerobot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lara_tokenizer.data.columns import number_rows
from lara_tokenizer.data.dataset_files import Files
from lara_tokenizer.data.episode import FrameIndex, Signals, check_indices
from lara_tokenizer.data.video.media import EncodedImagesReader
from lara_tokenizer.data.video.open_videos import open_video_file
from lara_tokenizer.data.video.reader import VideoReader
from lara_tokenizer.errors import EpisodeReadError, first_line

TASKS_V2, TASKS_V3 = "meta/tasks.jsonl", "meta/tasks.parquet"


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """Where a camera's frames lie: `file` holds this episode alone, or others too and this from `start` to `stop` s."""

    file: str
    start: float | None = None
    stop: float | None = None


@dataclass(frozen=True, slots=True)
class DataRows:
    """Where an episode's rows lie: `file` holds this episode alone, or, `shared`, others too.

    `columns` names those for actions, states and text that the dataset has.
    """

    file: str
    shared: bool
    columns: tuple[tuple[str, str], ...]  # of (signal, column)


class LeRobotReader:
    """A `FrameReader` and `SignalReader` for one episode.

    `cameras` tells where each camera's video lies; None stands for pictures in the data's own column. Frame i is the
    video's frame at i / fps seconds from the episode's start, and that all of them are there is checked first.
    """

    def __init__(
        self,
        files: Files,
        number: int,
        length: int,
        fps: float,
        cameras: Mapping[str, VideoSpan | None],
        rows: DataRows,
        decoder: str,
    ) -> None:
        self.files, self.number, self.length, self.fps = files, number, length, fps
        self.cameras, self.rows, self.decoder = dict(cameras), rows, decoder
        self._first: dict[str, int] = {}  # the file's number of each camera's first frame
        self._pictures: dict[str, EncodedImagesReader] = {}

    def index(self, camera: str) -> FrameIndex:
        """Times by the dataset's own rate. Raises EpisodeReadError unless the camera has just the frames it should."""
        note = ""
        if self.cameras[camera] is None:
            self._read([])  # counts the rows, without a picture
        else:
            self._first_frame(camera)
            note = self._video(camera).index().note
        return FrameIndex(np.arange(self.length) / self.fps, self.fps, note)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order asked. Raises EpisodeReadError, and IndexError for one outside."""
        numbers = check_indices(indices, self.length, f"episode {self.number}")
        span = self.cameras[camera]
        if span is None:
            with _named(self.rows.file):
                return self._picture_reader(camera).frames("", numbers)
        first = self._first_frame(camera)
        with _named(span.file):
            return self._video(camera).frames("", first + numbers)

    def signals(self) -> Signals:
        """Actions, states and the task of each frame. Raises EpisodeReadError."""
        columns = dict(self.rows.columns)
        table = self._read(list(columns.values()))
        found: dict[str, Any] = {}
        with _named(self.rows.file):
            for signal in ("actions", "states"):
                if signal in columns:
                    found[signal] = number_rows(table[columns[signal]], columns[signal])
        if "text" in columns:
            found["texts"] = self._texts(table[columns["text"]].to_pylist())
        return Signals(**found)

    def close(self) -> None:
        """Forget the pictures; video files may hold the next episode too and stay open for it."""
        self._pictures.clear()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_pictures": {}, "_first": {}}

    def _texts(self, numbers: list[int]) -> tuple[str, ...]:
        tasks = load_tasks(self.files, TASKS_V3 if self.rows.shared else TASKS_V2)
        if unknown := sorted({number for number in numbers if number not in tasks}, key=str):
            raise EpisodeReadError(self.rows.file, f"task_index {unknown[0]} is not among the dataset's tasks")
        return tuple(tasks[number] for number in numbers)

    def _video(self, camera: str) -> VideoReader:
        span = self.cameras[camera]
        assert span is not None
        return open_video_file(self.files.path(span.file), self.decoder)

    def _first_frame(self, camera: str) -> int:
        """The number, within the video file, of the episode's first frame; all frames are proved to be there."""
        if camera not in self._first:
            span = self.cameras[camera]
            assert span is not None
            with _named(span.file):
                self._first[camera] = find_span(self._video(camera).index().timestamps, span, self.length, self.fps)
        return self._first[camera]

    def _picture_reader(self, camera: str) -> EncodedImagesReader:
        if camera not in self._pictures:
            cells = self._read([camera])[camera].to_pylist()
            self._pictures[camera] = EncodedImagesReader(self.rows.file, _CellPictures(self.files, camera, cells))
        return self._pictures[camera]

    def _read(self, columns: list[str]) -> pa.Table:
        """Columns of the episode's rows. Raises EpisodeReadError."""
        path = self.files.path(self.rows.file)
        with _named(self.rows.file):
            try:
                version = path.stat().st_mtime_ns
                names = _footer(path, version).names
                needed = ["episode_index", *columns] if self.rows.shared else columns
                if missing := [name for name in needed if name not in names]:
                    raise EpisodeReadError(path, f"no column {missing[0]!r} in it (there are {', '.join(names)})")
                if self.rows.shared and not set(columns) & set(self.cameras):
                    table = _episode_rows(path, version, tuple(columns), self.number)
                else:
                    chosen = [("episode_index", "=", self.number)] if self.rows.shared else None
                    # One thread: the bytes of a column come the same way, and workers share the cores.
                    table = pq.read_table(path, columns=columns, filters=chosen, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise EpisodeReadError(path, f"not to be read as parquet ({first_line(error)})") from error
            if len(table) != self.length:
                raise EpisodeReadError(path, f"{len(table)} rows for an episode of {self.length} frames")
        return table


@dataclass(frozen=True, slots=True)
class _CellPictures:
    """Pictures in a column of the data: bytes, or the name of a file."""

    files: Files
    camera: str
    cells: list[Any]

    def __len__(self) -> int:
        return len(self.cells)

    def name(self, i: int) -> str:
        return f"{self.camera}, frame {i}"

    def read(self, i: int) -> bytes:
        cell = self.cells[i]
        if isinstance(cell, bytes):
            return cell
        found = cell if isinstance(cell, dict) else {}
        if found.get("bytes"):
            return found["bytes"]
        if found.get("path"):
            return self.files.path(found["path"]).read_bytes()
        raise ValueError("the cell is empty")


def find_span(timestamps: np.ndarray, span: VideoSpan, length: int, fps: float) -> int:
    """The number of an episode's first frame in a video whose frames are at `timestamps`, float64 (n,), seconds.

    Raises EpisodeReadError unless the video has exactly the `length` frames that the episode should have there.

    >>> find_span(np.arange(30) / 10, VideoSpan("a.mp4", start=1.0, stop=2.0), length=10, fps=10)
    10
    """
    if span.start is None:
        if len(timestamps) != length:
            raise EpisodeReadError(span.file, f"{len(timestamps)} frames in it, the episode's data has {length} rows")
        return 0
    if span.stop is not None and round((span.stop - span.start) * fps) != length:
        raise EpisodeReadError(
            span.file,
            f"{span.start:g} s to {span.stop:g} s of it are {round((span.stop - span.start) * fps)} frames, the "
            f"episode's data has {length} rows",
        )
    wanted = span.start + np.arange(length) / fps
    first = int(np.argmin(np.abs(timestamps - span.start)))
    there = timestamps[first : first + length]
    # Half a frame off and it would be another frame.
    if len(there) < length or np.abs(there - wanted).max() >= 0.5 / fps:
        raise EpisodeReadError(
            span.file, f"no frame each 1/{fps:g} s from {span.start:g} s to {wanted[-1]:g} s in it ({length} frames)"
        )
    return first


def _episode_rows(path: Path, version: int, columns: tuple[str, ...], number: int) -> pa.Table:
    """An episode's rows of a file that holds many; the row groups they lie in stay for the next episode."""
    ranges = _footer(path, version).episodes
    groups = tuple(group for group, (first, last) in enumerate(ranges) if first <= number <= last)
    table = _row_groups(path, version, columns, groups)
    return table.filter(pc.equal(table["episode_index"], number)).select(list(columns))


class _Footer(NamedTuple):
    """What the end of a data file says of it: its columns, and the first and last episode of each row group."""

    names: list[str]
    episodes: list[tuple[float, float]]


@lru_cache(maxsize=1)
def _footer(path: Path, version: int) -> _Footer:
    """A row group without statistics may hold any episode."""
    with pq.ParquetFile(path) as file:
        names, metadata = file.schema_arrow.names, file.metadata
    # Pictures and lists have columns of their own below their names.
    leaves = [metadata.schema.column(leaf).path for leaf in range(metadata.num_columns)]
    if "episode_index" not in leaves:
        return _Footer(names, [])
    place = leaves.index("episode_index")
    groups = [metadata.row_group(group).column(place) for group in range(metadata.num_row_groups)]
    known = [group.statistics if group.is_stats_set else None for group in groups]
    anywhere = (-math.inf, math.inf)
    return _Footer(names, [(s.min, s.max) if s is not None and s.has_min_max else anywhere for s in known])


@lru_cache(maxsize=1)
def _row_groups(path: Path, version: int, columns: tuple[str, ...], groups: tuple[int, ...]) -> pa.Table:
    with pq.ParquetFile(path) as file:
        # One thread: the bytes of a column come the same way, and workers share the cores.
        wanted = list(dict.fromkeys(["episode_index", *columns]))
        return file.read_row_groups(list(groups), columns=wanted, use_threads=False)


@lru_cache(maxsize=4)
def load_tasks(files: Files, name: str) -> dict[int, str]:
    """The instruction of each task index. Raises EpisodeReadError."""
    path = files.path(name)
    try:
        if name == TASKS_V3:
            table = pq.read_table(path)
            texts = next(column for column in table.column_names if column != "task_index")
            return dict(zip(table["task_index"].to_pylist(), table[texts].to_pylist(), strict=True))
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        return {row["task_index"]: row["task"] for row in rows}
    except (pa.ArrowException, OSError, ValueError, KeyError, StopIteration) as error:
        raise EpisodeReadError(name, f"cannot be read ({first_line(error)})") from error


@contextmanager
def _named(file: str) -> Iterator[None]:
    """Errors name the file as the dataset does: an episode has several, and its id names none of them."""
    try:
        yield
    except EpisodeReadError as error:
        raise type(error)(file, error.reason) from error
