"""Frames, actions and text of one row of a Hugging Face dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lara_tokenizer.data.episode import CameraReaders, FrameReader, Signals, numeric_rows
from lara_tokenizer.data.huggingface.rows import ANYWHERE, MediaPlaces, Row, is_text
from lara_tokenizer.data.video import EncodedImagesReader, RemoteFile, SharedVideo
from lara_tokenizer.data.video.images import image_mode
from lara_tokenizer.errors import EpisodeReadError

_LISTS = (pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar)


@dataclass(frozen=True, slots=True)
class CellVideo:
    """A video stored as bytes in a cell of a table; a `Media`. The bytes are read anew each time it is opened."""

    name: str
    row: Row
    column: str

    def open(self) -> BinaryIO:
        """The bytes as a seekable file. Raises EpisodeReadError."""
        data = cell_media(self.row.cell(self.column), self.row.folder)
        assert isinstance(data, bytes)
        return BytesIO(data)

    def __str__(self) -> str:
        return f"{self.name}, {self.column}"


@dataclass(eq=False)
class DatasetsReader(CameraReaders):
    """A `FrameReader` and `SignalReader` for one row, whose cameras are columns."""

    name: str  # the episode's id, for errors
    row: Row
    cameras: tuple[str, ...]  # columns of videos or lists of images
    columns: Mapping[str, str]  # the column of "actions" and of "states", as far as there are any
    text: str | None  # the row's instruction
    decoder: str  # "pyav", "decord" or "torchcodec"
    places: MediaPlaces = ANYWHERE  # of the files that cells may name

    def open_camera(self, camera: str) -> FrameReader:
        """The video or the images in the column. Raises EpisodeReadError where there is none."""
        cell = self._cell(camera)
        if isinstance(cell, _LISTS):
            name, read = partial("{}, frame {}".format, camera), partial(_read_image, self.row, camera, self.places)
            return EncodedImagesReader(self.name, len(cell), name, read)
        media = cell_media(cell, self.row.folder, self.places)
        if media is None:
            raise EpisodeReadError(self.name, f"column {camera!r} is empty in this row")
        video = CellVideo(self.name, self.row, camera) if isinstance(media, bytes) else media
        return SharedVideo(video, self.decoder)

    def files(self, camera: str = "") -> tuple[Path, ...]:
        """The table's file, and those of the video or the images where the cell names some."""
        return (*self.row.files, *super().files(camera), *self._image_files(camera))

    def signals(self) -> Signals:
        """Actions, states and the text, as far as the dataset has them. Raises EpisodeReadError."""
        values = {signal: self._numbers(column) for signal, column in self.columns.items()}
        texts = None if self.text is None else (self.text,) * self.index(self.cameras[0]).num_frames
        return Signals(values.get("actions"), values.get("states"), texts)

    def _image_files(self, camera: str) -> Iterator[Path]:
        """The local files that the images of a list name; no image that is stored in the table is copied."""
        try:
            cell = self._cell(camera)
            if not isinstance(cell, _LISTS):
                return
            images = cell.values.storage if isinstance(cell.values, pa.ExtensionArray) else cell.values
            if pa.types.is_struct(images.type):
                images = pc.if_else(pc.is_null(pc.struct_field(images, "bytes")), pc.struct_field(images, "path"), None)
            names = images.to_pylist() if is_text(images.type) else []
        except (EpisodeReadError, pa.ArrowException, KeyError):  # as reading its frames will tell
            return
        for name in names:
            with suppress(EpisodeReadError):
                if isinstance(name, str) and isinstance(file := _named(name, self.row.folder, self.places), Path):
                    yield file

    def _numbers(self, column: str) -> np.ndarray:
        cell = self._cell(column)
        if len(cell) == 0:
            raise EpisodeReadError(self.name, f"column {column!r} has no rows of numbers in it")
        try:
            return numeric_rows(pa.chunked_array([cell.values]), column)
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


def _read_image(row: Row, column: str, places: MediaPlaces, i: int) -> bytes:
    """Image i of the list in a cell."""
    media = cell_media(_storage(row.cell(column)).values[i], row.folder, places)
    if media is None:
        raise ValueError("it is empty")
    if isinstance(media, Path):
        return media.read_bytes()
    return media.read() if isinstance(media, RemoteFile) else media


def first_mode(row: Row, column: str) -> str:
    """Pillow's mode of the first image of the list in a cell, from its header; "" for a video, and for none."""
    try:
        cell = _storage(row.cell(column))
        if not isinstance(cell, _LISTS) or not cell.is_valid or len(cell) == 0:
            return ""
        data = _storage(cell.values[0]).as_py()["bytes"]
        return image_mode(data) if isinstance(data, bytes) else ""
    except Exception:  # reading the episode will name the problem
        return ""


def cell_media(cell: pa.Scalar, folder: str, places: MediaPlaces = ANYWHERE) -> bytes | Path | RemoteFile | None:
    """Content of a cell of type Video or Image: bytes, or the file that it names; None for an empty cell.

    A relative path is relative to `folder`, the table's. Raises EpisodeReadError for a path or a URL that is not
    among `places`: a table of somebody else must name neither files nor servers within reach of the one who reads it.
    """
    value = _storage(cell).as_py()
    fields = value if isinstance(value, dict) else {"bytes": value, "path": value}
    data, path = fields.get("bytes"), fields.get("path")
    if isinstance(data, bytes):
        return data
    return _named(path, folder, places) if isinstance(path, str) and path else None


def _named(path: str, folder: str, places: MediaPlaces) -> Path | RemoteFile:
    """The file that a cell names; arguments and errors as `cell_media`."""
    if folder and "://" not in path and not os.path.isabs(path):
        path = f"{folder}/{path}"
    if "://" not in path:
        path = os.path.normpath(path)
        folders = places.folders
        if folders and not any(path.startswith(each.rstrip("/") + "/") for each in folders):
            raise EpisodeReadError(
                path,
                f"the table names a file outside {folders[0]}, which is not read. Copy it there, or save the dataset "
                "by save_to_disk, which stores videos inside",
            )
        return Path(path)
    if "::" in path or path.partition("://")[0] in ("file", "local"):
        raise EpisodeReadError(path, "the table names a local file by a URL, which is not read")
    if not places.urls:
        raise EpisodeReadError(
            path,
            "the table is in a folder and names a URL, which is not read. Download that file into the folder, and name "
            "its path",
        )
    return RemoteFile(path)


def _storage(cell: pa.Scalar) -> pa.Scalar:
    """The cell in its storage type: `datasets` defines extension types for arrays of a fixed shape."""
    return cell.value if isinstance(cell, pa.ExtensionScalar) else cell
