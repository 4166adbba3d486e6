"""The JSON in a token table's metadata: model, options, source and versions that its rows depend on."""

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
# Entries that are no options of the job and not part of its fingerprint; tables of earlier releases lack them.
FRAMES = "frames"  # size, filter and crop of the processor
MOVING_PAIRS = "moving_pairs"  # motion counts by camera
# In the entry "episodes": digest of the content of all of them, where it is in local files; see `provenance.py`.
CONTENT = "content_sha256"


def token_files(tokens: str | Path) -> list[Path]:
    """The parquet files of a token table: one file, or the shards of a folder in order.

    Raises FileNotFoundError if there are none.
    """
    path = Path(tokens)
    files = sorted(path.glob("data/*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        reason = "not a token table" if path.exists() else "no such token table"
        raise FileNotFoundError(f"{path}: {reason} (a .parquet file, or a folder with data/*.parquet)")
    return files


def with_metadata(schema: pa.Schema, metadata: dict[str, Any]) -> pa.Schema:
    """The schema with `metadata` as JSON under one key; equal dicts give equal bytes."""
    return schema.with_metadata({METADATA_KEY: json.dumps(metadata, sort_keys=True).encode()})


def read_metadata(tokens: str | Path | pa.Schema) -> dict[str, Any]:
    """Metadata of a token table: model, weights, strides, versions, source.

    Raises:
        ValueError: not a token table, or a format version that this release does not read.

    >>> read_metadata("tokens.parquet")["format_version"]  # doctest: +SKIP
    2
    """
    name = "the table" if isinstance(tokens, pa.Schema) else str(tokens)
    schema = tokens if isinstance(tokens, pa.Schema) else _read_schema(token_files(tokens)[0])
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise ValueError(f"{name}: not a token table (its metadata has no {METADATA_KEY.decode()!r} entry)")
    metadata = json.loads(raw)
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{name}: written in format version {metadata.get('format_version')}, this release reads "
            f"{FORMAT_VERSION}. Use a matching release of lara-tokenizer, or encode again."
        )
    return metadata


def episodes_digest(ids: Iterable[str]) -> dict[str, Any]:
    """Number of episodes and a hash of their names, to detect that a source has changed."""
    # Sorted: the order in which a source lists its episodes does not matter.
    names = sorted(ids)
    return {"count": len(names), "ids_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest()}


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each entry that differs between two nested dicts, with both values.

    >>> differences({"model": {"id": "a"}, "strides": ["60s"]}, {"model": {"id": "b"}, "strides": ["0.3s", "0.6s"]})
    ['model.id was a and is b', 'strides was 60s and is 0.3s, 0.6s']
    """
    lines: list[str] = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{name}.")
        else:
            texts = _plain(old), _plain(new)
            # 3 and "3" differ only as Python values.
            before_text, after_text = texts if texts[0] != texts[1] else (repr(old), repr(new))
            lines.append(f"{prefix}{name} was {before_text} and is {after_text}")
    return lines


def _plain(value: Any) -> str:
    """A JSON value as text for a message.

    >>> _plain([{"name": "demos", "format": "video files", "revision": None}]), _plain(["0.3s", "0.6s"]), _plain(None)
    ('demos (video files)', '0.3s, 0.6s', 'not set')
    """
    match value:
        case None:
            return "not set"
        case "" | []:
            return "empty"
        case {"name": name, "format": kind, "revision": revision}:
            return f"{name} ({kind}{f', revision {revision}' if revision else ''})"
        case Mapping():
            return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or "empty"
        case list() | tuple():
            return ", ".join(map(_plain, value)) or "empty"
        case _:
            return str(value)


def _read_schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: not a parquet file ({str(error).splitlines()[0]})") from None
