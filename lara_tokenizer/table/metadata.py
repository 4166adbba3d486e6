"""The JSON in a token table's metadata: model, options, source and versions that its rows depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from lara_tokenizer._parse import load_json, shown
from lara_tokenizer.errors import printable
from lara_tokenizer.table.parquet import check_columns, table_schema, token_files
from lara_tokenizer.table.schema import FORMAT_VERSION, METADATA_KEY, OPTIONAL_COLUMNS, token_schema

__all__ = [
    "CARD",
    "FRAMES",
    "METADATA_KEY",
    "MOVING_PAIRS",
    "TableMetadata",
    "differences",
    "episodes_digest",
    "read_metadata",
    "token_files",
    "with_metadata",
]

# Entries that are no options of the job and not part of its fingerprint; tables of earlier releases lack them.
FRAMES = "frames"  # size, filter and crop of the processor
MOVING_PAIRS = "moving_pairs"  # motion counts by camera
CARD = "card"  # of the checkpoint: what it was trained on, and its verdicts
# In the entry "episodes": digest of the content of all of them, where it is in local files; see `provenance.py`.
CONTENT = "content_sha256"


def with_metadata(schema: pa.Schema, metadata: dict[str, Any]) -> pa.Schema:
    """The schema with `metadata` as JSON under one key; equal dicts give equal bytes."""
    return schema.with_metadata({METADATA_KEY: json.dumps(metadata, sort_keys=True).encode()})


class TableMetadata(dict[str, Any]):
    """Entries of a table's metadata. One that is missing is a ValueError that names the table, not a KeyError."""

    def __init__(self, entries: Any = (), table: str = "the table") -> None:
        super().__init__(entries)
        self.table = table

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"{self.table}: its metadata has no {name!r}: it was edited, or made by something else.")

    def pop(self, name: str, *default: Any) -> Any:
        """Remove an entry and return it."""
        return super().pop(name, *default) if name in self or default else self[name]


def read_metadata(tokens: str | Path | pa.Schema) -> TableMetadata:
    """Metadata of a token table: model, weights, strides, versions, source.

    Raises:
        ValueError: not a token table, damaged, edited, or a format version that this release does not read.

    >>> read_metadata("tokens.parquet")["format_version"]  # doctest: +SKIP
    2
    """
    name = "the table" if isinstance(tokens, pa.Schema) else str(tokens)
    file = None
    if isinstance(tokens, pa.Schema):
        schema = tokens
    else:
        file = token_files(tokens)[0]
        schema = table_schema(file)
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise ValueError(f"{name}: not a token table (its metadata has no {METADATA_KEY.decode()!r} entry)")
    metadata = load_json(raw, f"{name}: its metadata")
    version = metadata.get("format_version") if isinstance(metadata, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{name}: written in format version {shown(version)}, this release reads "
            f"{FORMAT_VERSION}. Use a matching release of lara-tokenizer, or encode again."
        )
    entries = _checked(metadata, _ENTRIES, name, "")
    if file is not None:
        model = entries["model"]
        sizes = model["num_latents"], model["codebook_dim"], model["codebook_size"]
        check_columns(file, schema, token_schema(*sizes), token_schema(*sizes, OPTIONAL_COLUMNS))
    return entries


class _Whole:
    """A whole number within limits."""

    def __init__(self, least: int, most: int, or_none: bool = False) -> None:
        self.least, self.most, self.or_none = least, most, or_none

    def __contains__(self, value: Any) -> bool:
        if value is None:
            return self.or_none
        return isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most

    def __str__(self) -> str:
        return f"a whole number, {self.least:,} to {self.most:,}{' or null' if self.or_none else ''}"


class _Either:
    """One of several types."""

    def __init__(self, *types: Any) -> None:
        self.types = types


# Types of the entries: of values, of the items of a list, or of the entries of a dictionary; "*" is any other name.
_COUNT = _Whole(0, 2**63)
_TEXT, _TEXT_OR_NONE, _FLAG, _NUMBER = (str,), (str, type(None)), (bool,), (int, float)
_ANY = (object,)
_PIXEL_SUMS = ("frames", "brightness", "contrast")
_ENTRIES: dict[str, Any] = {
    "model": {
        "id": _TEXT,
        "revision": _TEXT_OR_NONE,
        "weights_sha256": {"*": _TEXT},
        "config_sha256": _TEXT,
        "processor_sha256": _TEXT,
        "num_latents": _Whole(1, 2**16),
        "codebook_dim": _Whole(1, 2**20),
        "codebook_size": _Whole(2, 2**15, or_none=True),
        "*": _ANY,
    },
    "strides": [_TEXT],
    "every": _TEXT,
    "columns": [_TEXT],
    "keep_tail": _FLAG,
    "min_motion": _NUMBER,
    "batch_size": _Whole(1, 2**31),
    "dtype": _TEXT,
    "device": _TEXT,
    "source": [{"name": _TEXT, "format": _TEXT, "revision": _TEXT_OR_NONE, "*": _ANY}],
    "load": {
        "decoder": _TEXT,
        "fps": _Either(_NUMBER, {"*": _NUMBER}),
        "limit": _Whole(1, 2**63),
        "cameras": _Either(_TEXT, [_TEXT]),
        "split": _TEXT,
        "subset": _TEXT,
        "streaming": _FLAG,
        "episodes": _Either(_TEXT, [_COUNT]),
        "tasks": _Either(_TEXT, [_TEXT]),
        "segment": _TEXT,
        "from_list": _TEXT,
        "shard": _TEXT,
    },
    "versions": {"*": _TEXT_OR_NONE},
    "episodes": {"count": _COUNT, "ids_sha256": _TEXT, "failed": _COUNT, "*": _ANY},
    FRAMES: {"*": _ANY},
    MOVING_PAIRS: {"*": {"pairs": _COUNT, "whole_picture": _COUNT, **dict.fromkeys(_PIXEL_SUMS, _COUNT)}},
    "*": _ANY,
}


def _checked(value: Any, expected: Any, table: str, where: str) -> Any:
    """A value of the metadata, its dictionaries as `TableMetadata`. Raises ValueError for another type."""
    if isinstance(expected, _Either):
        fitting = [
            kind for kind in expected.types if isinstance(value, kind if isinstance(kind, tuple) else type(kind))
        ]
        if not fitting:
            raise _wrong(value, "another type", table, where)
        return _checked(value, fitting[0], table, where)
    if isinstance(expected, dict):
        if not isinstance(value, dict):
            raise _wrong(value, "names and values", table, where)
        entries = {}
        for name, item in value.items():
            kind = expected.get(name, expected.get("*"))
            if kind is None:
                raise ValueError(f"{table}: its metadata has an unknown entry {shown(name)} in {where}. Encode again.")
            entries[name] = _checked(item, kind, table, f"{where}.{name}" if where else name)
        return TableMetadata(entries, table)
    if isinstance(expected, list):
        if not isinstance(value, list):
            raise _wrong(value, "a list", table, where)
        return [_checked(item, expected[0], table, where) for item in value]
    if isinstance(expected, _Whole):
        if value not in expected:
            raise _wrong(value, str(expected), table, where)
    elif not isinstance(value, expected) or (isinstance(value, bool) and expected == _NUMBER):
        raise _wrong(value, " or ".join(kind.__name__ for kind in expected), table, where)
    return value


def _wrong(value: Any, expected: str, table: str, where: str) -> ValueError:
    return ValueError(
        f"{table}: {printable(where)[:80]} in its metadata is {shown(value)}, expected {expected}: it was edited, or "
        "made by something else. Encode again."
    )


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
