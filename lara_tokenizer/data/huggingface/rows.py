"""Random access to rows of tables in local or remote files, reading only the needed column of the needed row group.

Rows are small and picklable. Opened files are cached per process: a few files, and of parquet one row group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.errors import EpisodeReadError, first_line

_OPEN_FILES = 4
# Row groups of videos may hold 100 MB and more, so only one is cached.
_CACHED_GROUPS = 1


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file by its path, or by a URL that fsspec opens."""

    url: str
    version: int = 0  # modification time of a local file, so that caches do not serve an earlier file of the same name

    @classmethod
    def at(cls, url: str) -> DataFile:
        """The file in its current version. Raises OSError for a missing local file."""
        return cls(url) if "://" in url else cls(os.path.abspath(url), os.stat(url).st_mtime_ns)


class Row(Protocol):
    """One row of a table. Picklable."""

    def cell(self, column: str) -> pa.Scalar:
        """The value of a column. Raises EpisodeReadError."""

    @property
    def folder(self) -> str:
        """Path or URL of the folder that contains the table; "" for a table in memory."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """A row of a file: of a parquet row group, or of an Arrow file as `datasets` saves it."""

    file: DataFile
    row: int
    group: int | None = None
    """The parquet row group that `row` counts from; None for an Arrow file, which is memory-mapped."""

    def cell(self, column: str) -> pa.Scalar:
        with _as_episode_error(self.file.url, column):
            table = _arrow_table(self.file) if self.group is None else _row_group(self.file, self.group)
            return table.column(column)[self.row]

    @property
    def folder(self) -> str:
        return self.file.url.rpartition("/")[0]


@dataclass(frozen=True, eq=False, slots=True)
class MemoryRow:
    """A row in memory, with names of files and other small values."""

    cells: Mapping[str, Any]

    def cell(self, column: str) -> pa.Scalar:
        with _as_episode_error("row", column):
            return pa.scalar(self.cells[column])

    @property
    def folder(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class TablePart:
    """Rows of a table that are in one file, or in memory."""

    schema: pa.Schema
    rows: Sequence[Row]
    values: Callable[[Sequence[str]], dict[str, list[Any]]]
    """Whole columns by name, for columns of small values. Raises ValueError."""


def parquet_part(url: str) -> TablePart:
    """A parquet file. Reads its footer, of a remote file by one or two requests. Raises ValueError."""
    try:
        file = DataFile.at(url)
        with _open_parquet(file) as opened:
            schema, footer = opened.schema_arrow, opened.metadata
    except Exception as error:  # errors of Arrow, the disk and the Hub share no base class
        raise ValueError(f"{url} cannot be read as parquet ({first_line(error)})") from error
    lengths = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    rows = [FileRow(file, row, group) for group, length in enumerate(lengths) for row in range(length)]

    def values(columns: Sequence[str]) -> dict[str, list[Any]]:
        try:
            with _open_parquet(file, footer) as opened:
                table = opened.read(columns=list(columns), use_threads=False)
        except Exception as error:
            raise ValueError(f"{file.url}, {', '.join(columns)}: cannot be read ({first_line(error)})") from error
        return {column: table.column(column).to_pylist() for column in columns if column in table.column_names}

    return TablePart(schema, rows, values)


def arrow_part(path: str) -> TablePart:
    """A local Arrow file. Raises ValueError."""
    try:
        file = DataFile.at(path)
        table = _arrow_table(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Arrow ({first_line(error)})") from error
    rows = [FileRow(file, row) for row in range(table.num_rows)]
    return TablePart(
        table.schema,
        rows,
        lambda columns: {column: _arrow_table(file).column(column).to_pylist() for column in columns},
    )


def memory_part(schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> TablePart:
    """Rows in memory, given as dicts."""
    return TablePart(
        schema,
        [MemoryRow(row) for row in rows],
        lambda columns: {column: [row[column] for row in rows] for column in columns},
    )


class _RowGroup:
    """Columns of one row group, each read when first requested."""

    def __init__(self, file: DataFile, group: int) -> None:
        self._file = _parquet(file)
        self._group = group
        self._columns: dict[str, pa.ChunkedArray] = {}

    def column(self, name: str) -> pa.ChunkedArray:
        if name not in self._columns:
            # One thread: worker processes share the cores.
            table = self._file.read_row_group(self._group, columns=[name], use_threads=False)
            self._columns[name] = table.column(name)
        return self._columns[name]


@lru_cache(maxsize=_CACHED_GROUPS)
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
    # With pre_buffer Arrow requests a whole column at once; a read-ahead cache would only download more.
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
    except Exception as error:  # errors of Arrow, the disk and the Hub share no base class
        raise EpisodeReadError(source, f"column {column!r} cannot be read ({first_line(error)})") from error
