"""Frames, actions and text of one row of a Hugging Face dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from lara_tokenizer.data.camera_readers import CameraReaders
from lara_tokenizer.data.columns import number_rows
from lara_tokenizer.data.episode import FrameReader, Signals
from lara_tokenizer.data.huggingface.rows import Row
from lara_tokenizer.data.video.media import EncodedImagesReader, RemoteFile
from lara_tokenizer.data.video.open_videos import SharedVideo
from lara_tokenizer.errors import EpisodeReadError

_LISTS = (pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar)


@dataclass(frozen=True, slots=True)
class CellVideo:
    """A video whose bytes are a cell of a table; a `Media`. They are read anew each time it is opened."""

    name: str
    row: Row
    column: str

    def __str__(self) -> str:
        return f"{self.name}, {self.column}"

    def open(self) -> BinaryIO:
        found = content(self.row.cell(self.column), self.row.folder)
        assert isinstance(found, bytes)
        return BytesIO(found)


@dataclass(frozen=True, slots=True)
class CellImages:
    """Images that are a list in one cell of a table."""

    row: Row
    column: str
    count: int

    def __len__(self) -> int:
        return self.count

    def name(self, i: int) -> str:
        return f"{self.column}, frame {i}"

    def read(self, i: int) -> bytes:
        found = content(_storage(self.row.cell(self.column)).values[i], self.row.folder)
        if found is None:
            raise ValueError("it is empty")
        if isinstance(found, Path):
            return found.read_bytes()
        return found.read() if isinstance(found, RemoteFile) else found


class DatasetsReader(CameraReaders):
    """A `FrameReader` and `SignalReader` for one row; cameras are columns.

    `columns` names those of actions and states, `text` is the row's instruction, `name` stands in errors.
    """

    def __init__(
        self, name: str, row: Row, cameras: tuple[str, ...], columns: Mapping[str, str], text: str | None, decoder: str
    ) -> None:
        super().__init__()
        self.name, self.row, self.cameras = name, row, cameras
        self.columns, self.text, self.decoder = columns, text, decoder

    def open_camera(self, camera: str) -> FrameReader:
        """The video or the images in the column. Raises EpisodeReadError where there is none."""
        cell = self._cell(camera)
        if isinstance(cell, _LISTS):
            return EncodedImagesReader(self.name, CellImages(self.row, camera, len(cell)))
        found = content(cell, self.row.folder)
        if found is None:
            raise EpisodeReadError(self.name, f"column {camera!r} is empty in this row")
        video = CellVideo(self.name, self.row, camera) if isinstance(found, bytes) else found
        return SharedVideo(video, self.decoder)

    def signals(self) -> Signals:
        """Actions, states and the text, as far as the dataset has them. Raises EpisodeReadError."""
        numbers = {signal: self._numbers(column) for signal, column in self.columns.items()}
        texts = None if self.text is None else (self.text,) * self.index(self.cameras[0]).num_frames
        return Signals(numbers.get("actions"), numbers.get("states"), texts)

    def _numbers(self, column: str) -> np.ndarray:
        cell = self._cell(column)
        if len(cell) == 0:
            raise EpisodeReadError(self.name, f"column {column!r} has no rows of numbers in it")
        try:
            return number_rows(pa.chunked_array([cell.values]), column)
        except EpisodeReadError as error:
            raise EpisodeReadError(self.name, error.reason) from error

    def _cell(self, column: str) -> pa.Scalar:
        try:
            cell = _storage(self.row.cell(column))
        except EpisodeReadError as error:
            raise EpisodeReadError(self.name, error.reason) from error
        if not cell.is_valid:
            raise EpisodeReadError(self.name, f"column {column!r} is empty in this row")
        return cell


def content(cell: pa.Scalar, folder: str) -> bytes | Path | RemoteFile | None:
    """What a cell of type Video or Image holds: bytes, or where the file is; None for nothing.

    A relative path is one from the table's `folder`.
    """
    value = _storage(cell).as_py()
    parts = value if isinstance(value, dict) else {"bytes": value, "path": value}
    data, path = parts.get("bytes"), parts.get("path")
    if isinstance(data, bytes):
        return data
    if not isinstance(path, str) or not path:
        return None
    if folder and "://" not in path and not os.path.isabs(path):
        path = f"{folder}/{path}"
    return RemoteFile(path) if "://" in path else Path(path)


def _storage(cell: pa.Scalar) -> pa.Scalar:
    """The cell as Arrow's own type: `datasets` has types of its own for arrays of a fixed shape."""
    return cell.value if isinstance(cell, pa.ExtensionScalar) else cell
