"""The last step: rows in order, in fixed row groups, into files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.encode.schema import with_metadata
from lara_tokenizer.encode.target import Target

ROW_GROUP = 65_536
ROWS_PER_SHARD = 16 * ROW_GROUP

# Readers other than Arrow meet these encodings everywhere; small whole numbers and names repeat, floats do not.
_DICTIONARY_COLUMNS = ["episode", "episode_index", "camera", "stride", "codes.list.element", "valid", "text"]


def write_tokens(
    pieces: Iterable[pa.Table],
    schema: pa.Schema,
    metadata: dict[str, Any],
    target: Target,
    scratch: Path,
    num_rows: int,
) -> None:
    """Write a table of tokens; the target changes at the very end, in one step.

    Args:
        pieces: tables of `schema`, in the table's order.
        metadata: what `read_metadata` will give back.
        target: the file or folder; what is there is replaced.
        scratch: a folder on the same disk for what is unfinished.
        num_rows: of all pieces together; it decides the number of shards.

    Equal pieces and metadata give equal bytes.
    """
    schema = with_metadata(schema, metadata)
    groups = row_groups(pieces, schema)
    if not target.is_folder:
        unfinished = scratch / f"{target.path.name}.tmp"
        _write_file(groups, schema, unfinished)
        os.replace(unfinished, target.path)
        _sync(target.path.parent)
        return
    unfinished = scratch / "table"
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "data").mkdir(parents=True)
    shards = max(1, -(-num_rows // ROWS_PER_SHARD))
    for shard in range(shards):
        file = unfinished / "data" / f"train-{shard:05d}-of-{shards:05d}.parquet"
        _write_file(islice(groups, ROWS_PER_SHARD // ROW_GROUP), schema, file)
    provenance = json.dumps({**metadata, "rows": num_rows}, indent=2, sort_keys=True) + "\n"
    (unfinished / "provenance.json").write_text(provenance)
    _replace_folder(unfinished, target.path, scratch / "previous")


def row_groups(pieces: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Pieces of any length to tables of exactly `ROW_GROUP` rows, and a last one with the rest."""
    waiting: list[pa.Table] = []
    missing = ROW_GROUP
    for piece in pieces:
        # Pieces are cut before they are joined: the dictionary of a group then names its own episodes only.
        while piece.num_rows >= missing:
            yield _joined([*waiting, piece.slice(0, missing)])
            piece = piece.slice(missing)
            waiting, missing = [], ROW_GROUP
        if piece.num_rows:
            waiting.append(piece)
            missing -= piece.num_rows
    if waiting:
        yield _joined(waiting)


def write_text_atomically(file: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    unfinished = file.with_name(file.name + ".tmp")
    unfinished.write_text(text)
    os.replace(unfinished, file)


def _joined(pieces: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(pieces).unify_dictionaries().combine_chunks()


def _write_file(groups: Iterable[pa.Table], schema: pa.Schema, file: Path) -> None:
    with (
        file.open("wb") as stream,
        pq.ParquetWriter(
            stream,
            schema,
            compression="zstd",
            use_dictionary=[name for name in _DICTIONARY_COLUMNS if name.split(".")[0] in schema.names],
            write_page_index=True,
        ) as writer,
    ):
        for group in groups:
            writer.write_table(group.replace_schema_metadata(schema.metadata), row_group_size=ROW_GROUP)
    _sync(file)


def _replace_folder(new: Path, target: Path, previous: Path) -> None:
    shutil.rmtree(previous, ignore_errors=True)
    if target.exists():
        os.replace(target, previous)
    os.replace(new, target)
    _sync(target.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _sync(path: Path) -> None:
    """Ask the disk to keep a file, or the names in a folder, before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
