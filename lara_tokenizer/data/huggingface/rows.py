"""Rows of tables on this disk or on a server, read by random access: only the columns and the row group needed.

Rows are small and picklable. What they open is kept once a process: a few open files, and of parquet one row group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.errors import EpisodeReadError, first_line

_OPEN_FILES = 4
# Row groups of videos hold up to 100 MB or so: no more than one is kept.
_KEPT_GROUPS = 1


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file by its path, or by a URL that fsspec opens. `version` tells it from what lay there before."""

    url: str
    version: int = 0

    @classmethod
    def at(cls, url: str) -> DataFile:
        """The file as it is now. Raises OSError where there is none on this disk."""
        return cls(url) if "://" in url else cls(os.path.abspath(url), os.stat(url).st_mtime_ns)

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


class Row(Protocol):
    """One row of a table. Picklable."""

    def cell(self, column: str) -> pa.Scalar:
        """Raises EpisodeReadError."""

    @property
    def folder(self) -> str:
        """Path or URL of the folder that its table lies in; "" where there is none."""


@dataclass(frozen=True, slots=True)
class ParquetRow:
    """A row of a parquet file. `cell` reads the column of its row group, and keeps it until another group is read."""

    file: DataFile
    group: int
    row: int

    def cell(self, column: str) -> pa.Scalar:
        with _as_episode_error(self.file.url, column):
            return _row_group(self.file, self.group).column(column)[self.row]

    @property
    def folder(self) -> str:
        return self.file.url.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class ArrowRow:
    """A row of an Arrow file on this disk, as `datasets` saves and caches them; it is mapped, not read."""

    file: DataFile
    row: int

    def cell(self, column: str) -> pa.Scalar:
        with _as_episode_error(self.file.url, column):
            return _arrow_table(self.file).column(column)[self.row]

    @property
    def folder(self) -> str:
        return self.file.url.rpartition("/")[0]


@dataclass(frozen=True, eq=False, slots=True)
class GivenRow:
    """A row whose cells are at hand: names of files, and what is as small."""

    cells: Mapping[str, Any]

    def cell(self, column: str) -> pa.Scalar:
        with _as_episode_error("row", column):
            return pa.scalar(self.cells[column])

    @property
    def folder(self) -> str:
        return ""


class TablePart(Protocol):
    """A part of a table that lies in one place."""

    @property
    def schema(self) -> pa.Schema: ...

    def rows(self) -> Sequence[Row]: ...

    def values(self, columns: Sequence[str]) -> dict[str, list[Any]]:
        """Whole columns, for those that are small. Raises ValueError."""


class ParquetPart:
    """A parquet file: its footer is read now, on a server by one or two requests. Raises ValueError."""

    def __init__(self, url: str) -> None:
        try:
            self.file = DataFile.at(url)
            with _open_parquet(self.file) as opened:
                self.schema, self._footer = opened.schema_arrow, opened.metadata
        except Exception as error:  # Arrow's, the disk's and the Hub's errors share no base
            raise ValueError(f"{url} cannot be read as parquet ({first_line(error)})") from error

    def rows(self) -> Sequence[Row]:
        lengths = [self._footer.row_group(group).num_rows for group in range(self._footer.num_row_groups)]
        return [ParquetRow(self.file, group, row) for group, n in enumerate(lengths) for row in range(n)]

    def values(self, columns: Sequence[str]) -> dict[str, list[Any]]:
        try:
            with _open_parquet(self.file, self._footer) as opened:
                table = opened.read(columns=list(columns), use_threads=False)
        except Exception as error:
            raise ValueError(f"{self.file.url}, {', '.join(columns)}: cannot be read ({first_line(error)})") from error
        return {column: table.column(column).to_pylist() for column in columns if column in table.column_names}


class ArrowPart:
    """An Arrow file on this disk. Raises ValueError."""

    def __init__(self, path: str) -> None:
        try:
            self.file = DataFile.at(path)
            self.schema = _arrow_table(self.file).schema
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} cannot be read as Arrow ({first_line(error)})") from error

    def rows(self) -> Sequence[Row]:
        return [ArrowRow(self.file, row) for row in range(_arrow_table(self.file).num_rows)]

    def values(self, columns: Sequence[str]) -> dict[str, list[Any]]:
        return {column: _arrow_table(self.file).column(column).to_pylist() for column in columns}


class GivenPart:
    """Rows that are at hand as dicts."""

    def __init__(self, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> None:
        self.schema, self._rows = schema, rows

    def rows(self) -> Sequence[Row]:
        return [GivenRow(row) for row in self._rows]

    def values(self, columns: Sequence[str]) -> dict[str, list[Any]]:
        return {column: [row[column] for row in self._rows] for column in columns}


class _RowGroup:
    """Columns of one row group, each read when it is first asked for."""

    def __init__(self, file: DataFile, group: int) -> None:
        self._file, self._group = _parquet(file), group
        self._columns: dict[str, pa.ChunkedArray] = {}

    def column(self, name: str) -> pa.ChunkedArray:
        if name not in self._columns:
            # One thread: workers share the cores.
            table = self._file.read_row_group(self._group, columns=[name], use_threads=False)
            self._columns[name] = table.column(name)
        return self._columns[name]


@lru_cache(maxsize=_KEPT_GROUPS)
def _row_group(file: DataFile, group: int) -> _RowGroup:
    return _RowGroup(file, group)


@lru_cache(maxsize=_OPEN_FILES)
def _parquet(file: DataFile) -> pq.ParquetFile:
    return _open_parquet(file)


# Two processes must not read through one open file: a forked child opens its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_parquet.cache_clear)
    os.register_at_fork(after_in_child=_row_group.cache_clear)


def _open_parquet(file: DataFile, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    if "://" not in file.url:
        return pq.ParquetFile(file.url, metadata=footer)
    from fsspec.core import url_to_fs

    fs, path = url_to_fs(file.url)
    # Arrow knows what it will read: with pre_buffer it asks for a column at once, and a cache would only fetch more.
    return pq.ParquetFile(fs.open(path, "rb", cache_type="none"), metadata=footer, pre_buffer=True)


@lru_cache(maxsize=_OPEN_FILES)
def _arrow_table(file: DataFile) -> pa.Table:
    with pa.memory_map(file.url) as source:
        return pa.ipc.open_stream(source).read_all()


@contextmanager
def _as_episode_error(source: str, column: str) -> Iterator[None]:
    try:
        yield
    except EpisodeReadError:
        raise
    except Exception as error:  # as above
        raise EpisodeReadError(source, f"column {column!r} cannot be read ({first_line(error)})") from error
