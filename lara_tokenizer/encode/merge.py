"""Several tables of tokens of one model as one (`lara-tok tokens merge`). No torch, nothing is computed anew."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.encode.fingerprint import episodes_digest
from lara_tokenizer.encode.merge_metadata import check_joinable, joined_metadata, strides_are_even
from lara_tokenizer.encode.read import check_frames, iter_runs, iter_tables
from lara_tokenizer.encode.schema import KEY, read_metadata, token_files
from lara_tokenizer.encode.target import Target
from lara_tokenizer.encode.write import write_tokens

_TRACK = KEY[:3]
_UNEVEN = (
    "not all episodes have all strides: lara-tok verify would miss rows that are not there; verify the parts instead"
)


@dataclass(frozen=True, slots=True)
class MergeSummary:
    """What was joined.

    Fields:
        out: the table.
        rows: in it; of each of the tables in `rows_of`, by path.
        episodes: with rows.
        strides: of all tables.
        notes: sentences that a user must know.
    """

    out: str
    rows: int
    rows_of: dict[str, int]
    episodes: int
    strides: list[str]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-native values."""
        return asdict(self)


def merge_tokens(
    tables: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
) -> MergeSummary:
    """Join tables of other episodes, cameras or strides, made by one model in one way, into one.

    Everything is checked before anything is written; memory does not grow with the number of rows.

    Args:
        tables: files or folders, two at least. Episodes keep their names: encode sources whose names differ.
        out: "tokens.parquet" for one file, "tokens/" for a folder of shards; it must not exist.

    Raises:
        ValueError: the tables were made differently (another model, `every`, frame rate, ...), a row is in two of
            them, one is no table of tokens, or `out` exists.

    >>> merge_tokens(["left.parquet", "right.parquet"], "tokens.parquet").rows  # doctest: +SKIP
    2408
    """
    paths, target = [Path(table) for table in tables], Target.parse(out)
    if len(paths) < 2:
        raise ValueError(f"{len(paths)} tables to join: name two at least")
    if target.path.exists():
        raise ValueError(f"{target.path} exists already. Name a new --out, or delete it.")
    said = [read_metadata(path) for path in paths]
    check_joinable(paths, said)
    schema = _common_schema(paths)
    episodes = _check_keys(paths)
    rows_of = {str(path): sum(pq.read_metadata(file).num_rows for file in token_files(path)) for path in paths}
    metadata = joined_metadata(said, episodes)
    target.make_parent()
    with TemporaryDirectory(prefix=f"{target.path.name}.merge-", dir=target.path.parent) as scratch:
        write_tokens(_joined_rows(paths, schema), schema, metadata, target, Path(scratch), sum(rows_of.values()))
    return MergeSummary(
        out=os.fspath(out),
        rows=sum(rows_of.values()),
        rows_of=rows_of,
        episodes=episodes["count"],
        strides=metadata["strides"],
        notes=[] if strides_are_even(said) else [_UNEVEN],
    )


def _common_schema(paths: Sequence[Path]) -> pa.Schema:
    schemas = [pq.read_schema(token_files(path)[0]).remove_metadata() for path in paths]
    for path, schema in zip(paths[1:], schemas[1:], strict=True):
        if not schema.equals(schemas[0]):
            raise ValueError(
                f"{paths[0]} and {path} have other columns: {', '.join(_columns(schemas[0]))} and "
                f"{', '.join(_columns(schema))}. Encode one of them again."
            )
    return schemas[0]


def _columns(schema: pa.Schema) -> list[str]:
    return [f"{each.name} ({each.type})" for each in schema]


def _check_keys(paths: Sequence[Path]) -> dict[str, Any]:
    """How many episodes have rows, and the hash of their names. Raises ValueError for a row in two tables."""
    names: set[str] = set()
    for key, runs in _tracks(paths, KEY):
        names.add(key[0])
        where = np.concatenate([np.full(rows.num_rows, place) for place, rows in runs])
        frames = np.concatenate([rows["frame_index"].to_numpy() for _, rows in runs])
        order = np.argsort(frames, kind="stable")
        twice = np.flatnonzero(np.diff(frames[order]) == 0)
        if len(twice):
            one, other = (paths[where[order[twice[0] + step]]] for step in (0, 1))
            told = " ".join(part for part in key if part)
            raise ValueError(
                f"{told} frame {frames[order[twice[0]]]} is in {one} and in {other}: a table has each row once. "
                "Leave one of them out, or encode sources whose episodes have names of their own."
            )
    return episodes_digest(names)


def _joined_rows(paths: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    for _, runs in _tracks(paths, schema.names):
        # The names of a run alone, not of all that its row group held: equal rows then give equal bytes.
        tables = [_with_own_names(rows, schema) for _, rows in runs]
        if len(tables) == 1:
            yield tables[0]
        else:
            joined = pa.concat_tables(tables).unify_dictionaries()
            yield joined.take(np.argsort(joined["frame_index"].to_numpy(), kind="stable"))


def _tracks(
    paths: Sequence[Path], columns: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], list[tuple[int, pa.Table]]]]:
    """Each (episode, camera, stride) of any table, with its rows in those that have it and the tables' numbers."""
    everything = heapq.merge(
        *(_numbered_runs(number, path, columns) for number, path in enumerate(paths)), key=lambda run: run[0]
    )
    for key, runs in groupby(everything, key=lambda run: run[0]):
        yield key, [(number, rows) for _, number, rows in runs]


def _numbered_runs(number: int, path: Path, columns: Sequence[str]) -> Iterator[tuple[tuple[str, ...], int, pa.Table]]:
    for key, rows in iter_runs(iter_tables(path, columns), _TRACK, path):
        check_frames(rows, key[0], path)
        yield key, number, rows


def _with_own_names(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for each in schema:
        column = rows[each.name]
        if pa.types.is_dictionary(each.type):
            column = column.cast(each.type.value_type).dictionary_encode()
        columns.append(column)
    return pa.table(columns, schema=schema)
