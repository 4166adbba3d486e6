"""Frames, actions and text of one episode of a LeRobotDataset, by pyarrow and our video decoding, without lerobot."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa

from lara_tokenizer.data.dataset_files import DatasetFiles
from lara_tokenizer.data.episode import NO_NAMES, FrameIndex, SignalNames, Signals, check_indices, numeric_rows
from lara_tokenizer.data.lerobot.cross_check import clock_remark, text_remark
from lara_tokenizer.data.lerobot.info import EPISODES_V2, EPISODES_V3, TASKS_V2, TASKS_V3
from lara_tokenizer.data.lerobot.rows import TASK, TIME, DataRows, errors_name, is_numeric, read_clock, read_rows
from lara_tokenizer.data.lerobot.spans import VideoSpan, first_frame_of
from lara_tokenizer.data.lerobot.tasks import load_tasks
from lara_tokenizer.data.video import EncodedImagesReader, VideoReader, open_video_file
from lara_tokenizer.errors import EpisodeReadError, printable

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class LeRobotReader:
    """A `FrameReader` and `SignalReader` for one episode.

    Frame i goes with row i. Before the first frame is read, the video is checked to contain the episode's frames where
    the metadata says (`first_frame_of`).
    """

    dataset: DatasetFiles
    cameras: Mapping[str, VideoSpan | None]  # the video of each camera; None for images in the data's own column
    rows: DataRows  # file and columns of the signals; count and rate of the frames
    meta: tuple[str, ...]  # files of metadata that the borders and texts of the episode are from
    decoder: str  # "pyav", "decord" or "torchcodec"
    names: SignalNames = NO_NAMES
    _first: dict[str, tuple[int, str]] = field(default_factory=dict, init=False)
    """By camera: index, in its video file, of the episode's first frame; and a remark."""
    _images: dict[str, EncodedImagesReader] = field(default_factory=dict, init=False)
    _rows: str | None = field(default=None, init=False)  # a remark about the rows; None: not looked at yet

    def index(self, camera: str) -> FrameIndex:
        """Frame times at the dataset's rate. Raises EpisodeReadError unless the camera has a frame for each row."""
        digest = ""
        if self.cameras[camera] is None:
            # Checks the number of rows without reading an image.
            note = self._remark(read_rows(self.dataset, self.rows, [], optional=[TIME, TASK]))
        else:
            first, remark = self._first_frame(camera)
            video = self._video(camera).index()
            note = "; ".join(filter(None, (video.note, remark, self._rows_remark())))
            if video.digest:
                borders = f"{video.digest} {first} {self.rows.length}"
                digest = hashlib.sha256(borders.encode()).hexdigest()
        times = np.arange(self.rows.length) / self.rows.fps
        return FrameIndex(times, self.rows.fps, note, digest=digest)

    def stated_duration(self, fps: float | None) -> float:
        """Duration in seconds according to the metadata."""
        return self.rows.length / (fps or self.rows.fps)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order of `indices`. Raises EpisodeReadError and IndexError."""
        indices = check_indices(indices, self.rows.length, f"episode {self.rows.episode_index}")
        span = self.cameras[camera]
        if span is None:
            with errors_name(self.rows.file or "data"):
                return self._image_reader(camera).frames("", indices)
        first, _ = self._first_frame(camera)
        with errors_name(span.file):
            return self._video(camera).frames("", first + indices)

    def signals(self) -> Signals:
        """Actions, states and the task of each frame; no text where it contradicts the episode's own.

        Raises EpisodeReadError.
        """
        columns = dict(self.rows.columns)
        table = read_rows(self.dataset, self.rows, list(columns.values()), optional=[TIME])
        if remark := self._clock(table):
            _log_once(self.dataset, self.rows.episode_index, "times", remark)
        task = columns.pop("text", None)
        with errors_name(self.rows.file or "data"):
            values = {signal: numeric_rows(table[column], column) for signal, column in columns.items()}
        texts, remark = (None, "") if task is None else self._texts(table[task])
        if remark:
            _log_once(self.dataset, self.rows.episode_index, "text", remark)
        return Signals(values.get("actions"), values.get("states"), texts, self.names)

    def files(self, camera: str) -> tuple[Path, ...]:
        """The local files of the camera, the rows and the metadata, as `FileBacked.files`; none of a Hub commit."""
        span = self.cameras[camera]
        names = [*([] if span is None or span.problem else [span.file]), self.rows.file, *self.meta]
        paths = (self.dataset.local(name) for name in names if name)
        return tuple(path for path in paths if path is not None)

    def close(self) -> None:
        """Drop loaded images; video files stay open, as the next episode may be in the same file."""
        self._images.clear()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_images": {}, "_first": {}, "_rows": None}

    def _rows_remark(self) -> str:
        """A remark where local rows contradict the metadata; "" where they cannot be read, which `signals` says."""
        if self._rows is None:
            try:
                table = read_clock(self.dataset, self.rows)
            except EpisodeReadError:
                table = None
            self._rows = "" if table is None else self._remark(table)
        return self._rows

    def _remark(self, table: pa.Table) -> str:
        remark = ""
        if "text" in dict(self.rows.columns) and TASK in table.column_names:
            with suppress(EpisodeReadError):
                _, remark = self._texts(table[TASK])
        return "; ".join(filter(None, (self._clock(table), remark)))

    def _clock(self, table: pa.Table) -> str:
        if TIME not in table.column_names or not is_numeric(table[TIME]):
            return ""
        return clock_remark(table[TIME].to_numpy().astype(np.float64), self.rows.fps)

    def _texts(self, column: pa.ChunkedArray) -> tuple[tuple[str, ...] | None, str]:
        """The instruction of each row; or none, and the reason. Raises EpisodeReadError for an unknown index."""
        file = TASKS_V3 if self.rows.shared else TASKS_V2
        tasks = load_tasks(self.dataset, file)
        if pa.types.is_nested(column.type):
            raise EpisodeReadError(self.rows.file, f"column {TASK!r} holds {column.type}; takes a number in each row")
        task_indices = column.to_pylist()
        if unknown := sorted({index for index in task_indices if index not in tasks}, key=str):
            raise EpisodeReadError(self.rows.file, f"task_index {unknown[0]} is not among the dataset's tasks")
        texts = tuple(text for index in task_indices if (text := tasks[index]) is not None)
        entries = EPISODES_V3.rstrip("/") if self.rows.shared else EPISODES_V2
        remark = text_remark(texts, self.rows.tasks, file, entries)
        if len(texts) < len(task_indices):
            odd = next(index for index in task_indices if tasks[index] is None)
            remark = f"task_index {odd} is no instruction in {file}, but a printed list or object"
        return (None, f"{remark}; the rows have no text") if remark else (texts, "")

    def _video(self, camera: str) -> VideoReader:
        span = self.cameras[camera]
        assert span is not None
        return open_video_file(self.dataset.path(span.file), self.decoder)

    def _first_frame(self, camera: str) -> tuple[int, str]:
        """Index, in the video file, of the episode's first frame, and a remark; all frames are checked to be there."""
        if camera not in self._first:
            span = self.cameras[camera]
            assert span is not None
            with errors_name(span.file):
                if span.problem:
                    raise EpisodeReadError(span.file, span.problem)
                if not span.is_color:
                    _check_depth(self.dataset.path(span.file))
                timestamps = self._video(camera).index().timestamps
                self._first[camera] = first_frame_of(span, timestamps, self.rows.length, self.rows.fps)
        return self._first[camera]

    def _image_reader(self, camera: str) -> EncodedImagesReader:
        if camera not in self._images:
            cells = read_rows(self.dataset, self.rows, [camera], large=True)[camera].to_pylist()
            name, read = partial("{}, frame {}".format, camera), partial(_read_cell, self.dataset, cells)
            self._images[camera] = EncodedImagesReader(self.rows.file, len(cells), name, read)
        return self._images[camera]


_said: set[tuple[DatasetFiles, str]] = set()  # in this process


def _log_once(dataset: DatasetFiles, episode_index: int, kind: str, remark: str) -> None:
    """Log the first remark of a kind about a dataset; the notes of an episode's frames name each."""
    if (dataset, kind) not in _said:
        _said.add((dataset, kind))
        logger.warning("episode %d: %s (said once for the dataset)", episode_index, printable(remark))


def _check_depth(path: Path) -> None:
    """Raise EpisodeReadError for a video of more than 8 bits per channel: conversion would drop the lower ones."""
    try:
        with av.open(str(path)) as container:
            pixels = container.streams.video[0].format
            bits = max(component.bits for component in pixels.components)
    except (av.error.FFmpegError, OSError, IndexError, AttributeError):
        return  # the reader says it better
    if bits > 8:
        raise EpisodeReadError(path, f"no colour video, and {bits} bits per channel ({pixels.name}); 8 are read")


def _read_cell(files: DatasetFiles, cells: Sequence[Any], i: int) -> bytes:
    """The image in cell i of a column, which is bytes or the name of a file."""
    cell = cells[i]
    if isinstance(cell, bytes):
        return cell
    stored = cell if isinstance(cell, dict) else {"path": cell}
    if stored.get("bytes"):
        return stored["bytes"]
    if isinstance(path := stored.get("path"), str) and path:
        return files.path(path).read_bytes()
    raise ValueError("the cell is empty")
