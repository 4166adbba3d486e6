"""`damage`: a file as an unlucky or hostile stranger might hand it over, by the rules of its format."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from fuzz.byte_mutations import BYTE_MUTATIONS, splice
from fuzz.parts import FORMATS, damage_part
from fuzz.texts import HOSTILE, damage_json, damage_json_lines, damage_table, damage_text, damage_yaml

TEXTS = (".json", ".jsonl", ".yaml", ".csv", ".tsv", ".txt")
CANARY = "/tmp/lara-fuzz-executed"  # a file that appears only if somebody executes what a file says


def damage(rng: Random, name: str, data: bytes, donors: Sequence[bytes] = ()) -> bytes:
    """`data` of a file called `name`, damaged at random; equal generators give equal damage.

    Args:
        donors: other files of the kind, for splices.
    """
    if not data:
        return rng.randbytes(rng.randrange(64))
    suffix = ".tfrecord" if ".tfrecord" in name else PurePosixPath(name).suffix.lower()
    if rng.random() < 0.7:
        # What was damaged before may not be read as what its name says.
        with suppress(
            ValueError, OSError, ArithmeticError, RecursionError, csv.Error, pa.ArrowException, yaml.YAMLError
        ):
            return _damaged_as(rng, suffix, data)
    if rng.random() < 0.12:
        return splice(rng, data, donors)
    damaged = rng.choice(BYTE_MUTATIONS)(rng, data)
    return rng.choice(BYTE_MUTATIONS)(rng, damaged) if damaged and rng.random() < 0.2 else damaged


def _damaged_as(rng: Random, suffix: str, data: bytes) -> bytes:
    """Damage by the rules of a format. Raises ValueError and others where there are none, or `data` break them."""
    if suffix in TEXTS:
        return _damaged_text(rng, suffix, data.decode("utf-8", "surrogateescape"))
    if suffix == ".parquet" and rng.random() < 0.7:
        return damage_columns(rng, data)
    if suffix not in FORMATS:
        raise ValueError(f"no rules for {suffix}")
    for _ in range(rng.choice((1, 1, 1, 2))):
        parts = list(FORMATS[suffix](data))
        if not parts:
            raise ValueError(f"no part of {suffix} in it")
        data = damage_part(rng, data, parts)
    return data


def _damaged_text(rng: Random, suffix: str, text: str) -> bytes:
    match suffix:
        case ".json":
            damaged = damage_json(rng, text)
        case ".jsonl":
            damaged = damage_json_lines(rng, text)
        case ".yaml":
            damaged = damage_yaml(rng, text, CANARY)
        case ".csv" | ".tsv":
            damaged = damage_table(rng, text)
        case _:
            damaged = damage_text(rng, text)
    encoding = rng.choice(("utf-8",) * 20 + ("utf-16", "latin-1"))
    return damaged.encode(encoding, "surrogateescape" if encoding == "utf-8" else "replace")


def damage_columns(rng: Random, data: bytes) -> bytes:
    """A valid parquet file with other content: a column dropped, renamed, retyped, with a changed cell; rows moved."""
    table = pq.read_table(io.BytesIO(data))
    k = rng.randrange(table.num_columns)
    column, name = table.column(k), table.column_names[k]
    match rng.choice(
        ("drop", "rename", "cell", "cell", "cell", "null", "retype", "shuffle", "repeat", "empty", "meta")
    ):
        case "drop":
            table = table.drop_columns([name])
        case "rename":
            names = list(table.column_names)
            names[k] = rng.choice(("", "\x1b[31m", "action", "timestamp", "video", rng.choice(names)))
            table = table.rename_columns(names)
        case "cell":
            table = table.set_column(k, name, _with_another_cell(rng, column))
        case "null":
            table = table.set_column(k, name, pa.nulls(len(table), column.type))
        case "retype":
            values = [rng.choice((None, "a", "1", "", "\x1b[31m")) for _ in range(len(table))]
            table = table.set_column(k, name, pa.array(values, pa.string()))
        case "shuffle":
            table = table.take(rng.sample(range(len(table)), len(table)))
        case "repeat":
            table = pa.concat_tables([table, table.slice(0, max(1, len(table) // 2))])
        case "empty":
            table = table.slice(0, 0)
        case _:
            entries = dict(table.schema.metadata or {b"huggingface": b"{}"})
            key = rng.choice(sorted(entries))
            entries[key] = damage_json(rng, entries[key].decode("utf-8", "replace")).encode("utf-8", "surrogatepass")
            table = table.replace_schema_metadata(entries)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _with_another_cell(rng: Random, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """The column with one value replaced by a hostile one of its type, or by another row's."""
    values = column.to_pylist()
    if not values:
        return column
    k = rng.randrange(len(values))
    for value in (rng.choice(HOSTILE), rng.choice(values), None):
        values[k] = value
        try:
            return pa.array(values, column.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeError):
            continue
    return column
