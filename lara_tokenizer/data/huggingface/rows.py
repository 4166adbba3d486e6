"""Random access to rows of tables in local or remote files, reading only the needed column of the needed row group.

Rows are small and picklable. Opened files are cached per process: a few files, and of parquet one row group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer._parse import check_parquet_rows
from lara_tokenizer.errors import EpisodeReadError, first_line

_OPEN_FILES = 4
_FEW_ROWS = 10_000  # below which the number of rows is not compared with the file's size
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


@dataclass(frozen=True, slots=True)
class MediaPlaces:
    """Places of the files that cells of a table may name: a table of somebody else must not fetch what it likes."""

    folders: tuple[str, ...] = ()  # that a local path must be below; empty: any
    urls: bool = True  # whether cells may name URLs, as those of a dataset on the Hub do


ANYWHERE = MediaPlaces()


class Row(Protocol):
    """One row of a table. Picklable."""

    def cell(self, column: str) -> pa.Scalar:
        """The value of a column. Raises EpisodeReadError."""

    @property
    def folder(self) -> str:
        """Path or URL of the folder that contains the table; "" for a table in memory."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The table's local file."""


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

    @property
    def files(self) -> tuple[Path, ...]:
        return () if "://" in self.file.url else (Path(self.file.url),)


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

    @property
    def files(self) -> tuple[Path, ...]:
        return ()


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
        lengths = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    except Exception as error:  # errors of Arrow, the disk and the Hub share no base class
        raise ValueError(f"{url} cannot be read as parquet ({first_line(error)})") from error
    _check_rows(url, lengths)
    rows = [FileRow(file, row, group) for group, length in enumerate(lengths) for row in range(length)]

    def values(columns: Sequence[str]) -> dict[str, list[Any]]:
        try:
            # As dictionaries: a text that all rows share is stored once, and a million rows do not multiply it.
            texts = [field.name for field in schema if field.name in columns and is_text(field.type, in_lists=False)]
            with _open_parquet(file, footer, texts=texts) as opened:
                table = opened.read(columns=list(columns), use_threads=False)
                return _values(table, columns)
        except Exception as error:
            raise ValueError(f"{file.url}, {', '.join(columns)}: cannot be read ({first_line(error)})") from error

    return TablePart(schema, rows, values)


def arrow_part(path: str) -> TablePart:
    """A local Arrow file. Raises ValueError."""
    try:
        file = DataFile.at(path)
        table = _arrow_table(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Arrow ({first_line(error)})") from error
    _check_rows(path, [table.num_rows])
    rows = [FileRow(file, row) for row in range(table.num_rows)]

    def values(columns: Sequence[str]) -> dict[str, list[Any]]:
        try:
            return _values(_arrow_table(file), columns)
        except Exception as error:
            raise ValueError(f"{path}, {', '.join(columns)}: cannot be read ({first_line(error)})") from error

    return TablePart(table.schema, rows, values)


def memory_part(schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> TablePart:
    """Rows in memory, given as dicts."""
    return TablePart(
        schema,
        [MemoryRow(row) for row in rows],
        lambda columns: {column: [row[column] for row in rows] for column in columns},
    )


def is_text(kind: pa.DataType | None, *, in_lists: bool = True) -> bool:
    """Whether a column of an Arrow type holds texts: strings or bytes of any kind, as categories, or in lists.

    >>> is_text(pa.dictionary(pa.int32(), pa.string())), is_text(pa.list_(pa.string_view())), is_text(pa.int64())
    (True, True, False)
    """
    is_list = kind is not None and isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType)
    while kind is not None and (pa.types.is_dictionary(kind) or (in_lists and is_list)):
        kind, is_list = kind.value_type, False
    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return kind is not None and any(getattr(pa.types, f"is_{name}")(kind) for name in tests)


def _check_rows(file: str, lengths: Sequence[int]) -> None:
    """Raise ValueError for more rows than a table of episodes has, or than the bytes of a local file can hold."""
    count = sum(lengths)
    check_parquet_rows(min(lengths, default=0) if min(lengths, default=0) < 0 else count, file)
    if "://" not in file and count > max(_FEW_ROWS, os.path.getsize(file)):
        raise ValueError(f"{file}: it promises {count:,} rows and has {os.path.getsize(file):,} bytes")


def _values(table: pa.Table, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Whole columns, as far as the table has them; a text that is not UTF-8 as bytes."""
    values = {}
    for name in columns:
        if name not in table.column_names:
            continue
        column = table.column(name)
        _check_offsets(column)
        values[name] = [each for chunk in column.chunks for each in _python_values(chunk)]
    return values


def _check_offsets(column: pa.ChunkedArray) -> None:
    """Raise ArrowInvalid where offsets or category numbers reach beyond the data; texts that are not UTF-8 may pass."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise


def _python_values(chunk: pa.Array) -> list[Any]:
    if pa.types.is_dictionary(chunk.type):
        categories = _python_values(chunk.dictionary)
        return [None if index is None else categories[index] for index in chunk.indices.to_pylist()]
    try:
        return chunk.to_pylist()
    except UnicodeDecodeError:
        return [_python_value(cell) for cell in chunk]


def _python_value(cell: pa.Scalar) -> Any:
    """The value of a cell, None for lists with a text that is not UTF-8."""
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return cell.as_buffer().to_pybytes() if hasattr(cell, "as_buffer") else None


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


def _open_parquet(file: DataFile, footer: pq.FileMetaData | None = None, texts: Sequence[str] = ()) -> pq.ParquetFile:
    options = {"metadata": footer, "read_dictionary": list(texts)}
    if "://" not in file.url:
        return pq.ParquetFile(file.url, **options)
    from fsspec.core import url_to_fs

    fs, path = url_to_fs(file.url)
    # With pre_buffer Arrow requests a whole column at once; a read-ahead cache would only download more.
    return pq.ParquetFile(fs.open(path, "rb", cache_type="none"), pre_buffer=True, **options)


@lru_cache(maxsize=_OPEN_FILES)
def _arrow_table(file: DataFile) -> pa.Table:
    with pa.memory_map(file.url) as source:
        table = pa.ipc.open_stream(source).read_all()
        table.validate()  # lengths that exceed the file would be read as they are: it is mapped, not copied
        return table


@contextmanager
def _as_episode_error(source: str, column: str) -> Iterator[None]:
    try:
        yield
    except EpisodeReadError:
        raise
    except Exception as error:  # errors of Arrow, the disk and the Hub share no base class
        raise EpisodeReadError(source, f"column {column!r} cannot be read ({first_line(error)})") from error
