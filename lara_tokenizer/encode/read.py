"""Reading a table of tokens back, and saying what a table or a checkpoint is (`lara-tok info`)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.encode.counts import TokenCounts
from lara_tokenizer.encode.health import health_of
from lara_tokenizer.encode.moving_pairs import moving_pairs_from_metadata
from lara_tokenizer.encode.schema import read_metadata, token_files


def read_tokens(tokens: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The whole table, or some of its columns. Raises ValueError for a table that is not ours.

    >>> read_tokens("tokens.parquet", ["codes"]).num_rows  # doctest: +SKIP
    1204
    """
    read_metadata(tokens)
    return pa.concat_tables([pq.read_table(file, columns=columns) for file in token_files(tokens)]).unify_dictionaries()


def iter_tables(tokens: str | Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The table in pieces of one row group."""
    for path in token_files(tokens):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns)


def iter_runs(
    pieces: Iterable[pa.Table], names: Sequence[str], source: str | Path
) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    """Rows of a table that agree in `names`, all of them together, with what they agree in; in the table's order.

    Args:
        pieces: of a table that is sorted by `names`, as `iter_tables` gives them; a run may go over several.
        names: columns of text: the first of the table's key.
        source: the table, for the error.

    Raises ValueError for rows that are not in the table's order.
    """
    waiting: list[pa.Table] = []
    before: tuple[str, ...] = ()
    for piece in pieces:
        for key, rows in _runs(piece, names):
            if waiting and key < before:
                raise ValueError(f"{source} is not sorted by {', '.join(names)}: it was edited.")
            if waiting and key != before:
                yield before, _one_table(waiting)
                waiting = []
            waiting.append(rows)
            before = key
    if waiting:
        yield before, _one_table(waiting)


def check_frames(run: pa.Table, episode: str, source: str | Path) -> None:
    """Raises ValueError where the frames of a run of one episode, camera and stride do not increase."""
    if not (np.diff(run["frame_index"].to_numpy()) > 0).all():
        raise ValueError(f"{source}: rows of episode {episode!r} are out of order, or there twice: it was edited.")


def matrix(table: pa.Table, name: str) -> np.ndarray | None:
    """A column of lists of one length as (rows, length); None where the table has no such column."""
    if name not in table.column_names:
        return None
    values = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, table.schema.field(name).type.list_size)


def _runs(table: pa.Table, names: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    """Neighbouring rows that agree, with what they agree in."""
    if not table.num_rows:
        return
    table = table.unify_dictionaries().combine_chunks()
    columns = [_dictionary(table, name) for name in names]
    changes = np.zeros(table.num_rows - 1, bool)
    for column in columns:
        changes |= np.diff(column.indices.to_numpy()) != 0
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), table.num_rows]
    for start, stop in pairwise(edges):
        yield tuple(column[start].as_py() for column in columns), table.slice(start, stop - start)


def _dictionary(table: pa.Table, name: str) -> pa.DictionaryArray:
    column = table[name].combine_chunks()
    return column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()


def _one_table(pieces: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(pieces).unify_dictionaries().combine_chunks()


def describe(target: str | Path) -> dict[str, Any]:
    """What a checkpoint or a table of tokens is, as plain JSON. `kind` is "checkpoint" or "tokens".

    Args:
        target: a table (file or folder), or a checkpoint: "lara-lam", a folder or a Hub id.

    Raises ValueError for what is neither.

    >>> describe("tokens.parquet")["pairs"]  # doctest: +SKIP
    {'0.6s': 1204}
    """
    path = Path(target)
    if path.suffix == ".parquet" or (path / "data").is_dir():
        return _describe_tokens(path)
    return _describe_checkpoint(str(target))


def _describe_tokens(path: Path) -> dict[str, Any]:
    metadata = read_metadata(path)
    counts = TokenCounts(
        metadata["model"]["num_latents"],
        metadata["model"]["codebook_size"],
        moving_by_camera=moving_pairs_from_metadata(metadata),
    )
    episodes: set[str] = set()
    cameras: set[str] = set()
    for table in counts.watch(iter_tables(path)):
        episodes |= set(table["episode"].unique().to_pylist())
        cameras |= set(table["camera"].unique().to_pylist())
    files = token_files(path)
    schema = pq.read_schema(files[0])
    return {
        "kind": "tokens",
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "rows": counts.rows,
        "pairs": dict(sorted(counts.pairs.items())),
        "episodes": len(episodes),
        "cameras": sorted(cameras),
        "columns": {field.name: str(field.type) for field in schema},
        "codes_used": counts.codes_used,
        "perplexity": counts.perplexity,
        "perplexity_per_position": counts.perplexity_per_position,
        "idle_share": counts.idle_share,
        **health_of(counts).to_dict(),
        "histogram": None if counts.histogram is None else counts.histogram.tolist(),
        "provenance": metadata,
    }


def _describe_checkpoint(name: str) -> dict[str, Any]:
    from lara_tokenizer.encode.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(name)
    config = json.loads((checkpoint.folder / "config.json").read_text())
    parameters: dict[str, int] = {}
    for file in checkpoint.weights_sha256:
        for tensor, shape in _parameter_shapes(checkpoint.folder / file).items():
            part = tensor.split(".")[0]
            parameters[part] = parameters.get(part, 0) + prod(shape)
    vision = config.get("vision_config", {})
    return {
        "kind": "checkpoint",
        "bytes": checkpoint.weights_bytes,
        "parameters": {**dict(sorted(parameters.items())), "total": sum(parameters.values())},
        "image_size": config.get("image_size"),
        "vision_encoder": vision.get("model_type"),
        "strides": list(checkpoint.strides),
        **checkpoint.identity(),
    }


def _parameter_shapes(file: Path) -> dict[str, list[int]]:
    """Names and shapes from the header of a safetensors file: a length (8 bytes, little endian), then JSON.

    Integers are counters, not parameters.
    """
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return {name: entry["shape"] for name, entry in header.items() if entry["dtype"][0] not in "IU"}
