"""The parquet files of a token table: names, columns and rows, each checked before it is used.

A table may come from anywhere. Damage, columns of other types, and shards that are missing or from another table are a
ValueError that names the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer._files import summarize_names
from lara_tokenizer.errors import first_line, printable
from lara_tokenizer.table.schema import METADATA_KEY, OPTIONAL_COLUMNS, token_schema

_MOST_ROWS = 65_536  # read at once: as many as a row group of this package has
# Columns with a value in each row, whatever a rewritten file says of itself.
_FILLED = {field.name for field in token_schema(1, 1, 2, OPTIONAL_COLUMNS) if not field.nullable}
_SHARD = re.compile(r"train-([0-9]{5})-of-([0-9]{5})\.parquet")


def token_files(tokens: str | Path) -> list[Path]:
    """The parquet files of a token table: one file, or the shards of a folder in order.

    Raises FileNotFoundError if there are none, and ValueError if a shard is missing or of another set.
    """
    path = Path(tokens)
    files = sorted(path.glob("data/*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        reason = "not a token table" if path.exists() else "no such token table"
        raise FileNotFoundError(f"{path}: {reason} (a .parquet file, or a folder with data/*.parquet)")
    numbers = [_SHARD.fullmatch(file.name) for file in files]
    if path.is_dir() and all(numbers):
        found = [(int(match[1]), int(match[2])) for match in numbers if match]
        if found != [(shard, len(found)) for shard in range(len(found))]:
            names = summarize_names(file.name for file in files)
            raise ValueError(
                f"{path}: its shards are incomplete or of several tables ({names}). Download it, or encode, again."
            )
    return files


def table_schema(file: Path) -> pa.Schema:
    """The schema of a parquet file. Raises ValueError if it is none, or damaged."""
    with _damage_of(file, "not a parquet file"):
        return pq.read_schema(file)


def table_rows(tokens: str | Path) -> int:
    """Number of rows of a table. Raises ValueError for a damaged file."""
    rows = 0
    for file in token_files(tokens):
        with _damage_of(file, "not a parquet file"):
            rows += pq.read_metadata(file).num_rows
    return rows


def iter_tables(tokens: str | Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Iterate over the row groups of a table, in order; large ones come in parts.

    Raises ValueError for damage, a shard of another table, a column that is missing, and a missing value in a column
    that has one in each row.
    """
    first: pa.Schema | None = None
    for path in token_files(tokens):
        with _damage_of(path), pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            first = schema if first is None else first
            _check_shard(path, schema, first)
            if missing := [name for name in columns or () if name not in schema.names]:
                raise ValueError(f"{path}: not a token table, it has no column {missing[0]!r}")
            for group in range(file.num_row_groups):
                # A group may claim any number of rows. Its metadata is not asked for: pyarrow aborts the process where
                # entries of it contradict each other.
                for batch in file.iter_batches(_MOST_ROWS, row_groups=[group], columns=columns):
                    rows = pa.Table.from_batches([batch])
                    _check_values(path, rows)
                    yield rows


def check_columns(file: Path, schema: pa.Schema, required: pa.Schema, optional: pa.Schema) -> None:
    """Raise ValueError for a column that is missing or of another type than the table's metadata says."""
    for expected in optional:
        index = schema.get_field_index(expected.name)  # -1 also for two columns of one name
        if index < 0 and (expected.name in required.names or expected.name in schema.names):
            raise ValueError(
                f"{file}: not a token table that can be used, it has no column {expected.name!r}, or several"
            )
        if index >= 0 and not schema.field(index).type.equals(expected.type):
            raise ValueError(
                f"{file}: column {expected.name!r} is {printable(schema.field(index).type)[:100]}, a table of this "
                f"model has {expected.type}: the file was made by something else. Encode again."
            )


@contextmanager
def _damage_of(file: Path, reason: str = "damaged") -> Iterator[None]:
    """Errors of Arrow on a damaged file, of many types, as a ValueError of one line."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except pa.ArrowException as error:  # before ValueError: ArrowInvalid is one
        raise _damaged(file, reason, error) from error
    except (OSError, MemoryError, OverflowError, UnicodeDecodeError, NotImplementedError) as error:
        raise _damaged(file, reason, error) from error


def _damaged(file: Path, reason: str, error: BaseException) -> ValueError:
    return ValueError(f"{file}: {reason} ({printable(first_line(error))[:200]}). Download it, or encode, again.")


def _check_shard(path: Path, schema: pa.Schema, first: pa.Schema) -> None:
    if not schema.equals(first) or _own(schema) != _own(first):
        raise ValueError(f"{path}: a shard of another table than those before it. Download the folder again.")


def _own(schema: pa.Schema) -> bytes | None:
    metadata: Mapping[bytes, bytes] = schema.metadata or {}
    return metadata.get(METADATA_KEY)


def _check_values(path: Path, rows: pa.Table) -> None:
    """Raise ValueError for a missing value where the format has one in each row."""
    for field in rows.schema:
        column = rows[field.name]
        nulls = column.null_count if field.name in _FILLED else 0
        if pa.types.is_fixed_size_list(field.type):
            nulls = column.null_count or sum(chunk.flatten().null_count for chunk in column.chunks)
        if nulls:
            raise ValueError(f"{path}: {nulls:,} values are missing in column {field.name!r}. Encode again.")
