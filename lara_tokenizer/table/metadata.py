"""The JSON in a table's metadata: how it was made and from which source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.table.schema import FORMAT_VERSION

METADATA_KEY = b"lara_tokenizer"
# In the metadata of a table, but no option of its job: what the processor makes of frames. Older tables have none.
FRAMES = "frames"


def with_metadata(schema: pa.Schema, metadata: dict[str, Any]) -> pa.Schema:
    """The schema with `metadata` as JSON under one key; equal dicts give equal bytes."""
    return schema.with_metadata({METADATA_KEY: json.dumps(metadata, sort_keys=True).encode()})


def token_files(tokens: str | Path) -> list[Path]:
    """The parquet files of a table of tokens: one file, or the shards of a folder in order.

    Raises FileNotFoundError for neither.
    """
    path = Path(tokens)
    files = sorted(path.glob("data/*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"{path}: no such table of tokens (a .parquet file, or a folder with data/*.parquet)")
    return files


def read_metadata(tokens: str | Path | pa.Schema) -> dict[str, Any]:
    """What a table of tokens says about itself: model, weights, strides, versions, source.

    Raises:
        ValueError: for a table that is not ours, and for a format version that this release does not know.

    >>> read_metadata("tokens.parquet")["format_version"]  # doctest: +SKIP
    1
    """
    name = "the table" if isinstance(tokens, pa.Schema) else str(tokens)
    schema = tokens if isinstance(tokens, pa.Schema) else _read_schema(token_files(tokens)[0])
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise ValueError(f"{name}: not a table of tokens (its metadata has no {METADATA_KEY.decode()!r} entry)")
    metadata = json.loads(raw)
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{name}: written in format version {metadata.get('format_version')}, this release reads "
            f"{FORMAT_VERSION}. Take a matching release of lara-tokenizer, or encode again."
        )
    return metadata


def episodes_digest(ids: Iterable[str]) -> dict[str, Any]:
    """How many episodes a table was made from and a hash of their names: tells whether a source has grown."""
    names = sorted(ids)
    return {"count": len(names), "ids_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest()}


def differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each entry that differs, with both values.

    >>> differences({"model": {"id": "a"}, "every": "1f"}, {"model": {"id": "b"}, "every": "1f"})
    ["model.id was 'a' and is 'b'"]
    """
    lines: list[str] = []
    for name in sorted({*then, *now}):
        before, after = then.get(name), now.get(name)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix}{name} was {before!r} and is {after!r}")
    return lines


def _read_schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: not a parquet file ({str(error).splitlines()[0]})") from None
