"""`merge_tokens`: join token tables of one model into one (`lara-tok tokens merge`). Nothing is encoded again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lara_tokenizer._files import scratch_folder, summarize_names
from lara_tokenizer.table.metadata import (
    CARD,
    CONTENT,
    FRAMES,
    MOVING_PAIRS,
    differences,
    episodes_digest,
    read_metadata,
)
from lara_tokenizer.table.parquet import table_rows, table_schema, token_files
from lara_tokenizer.table.reader import matched_sequences
from lara_tokenizer.table.schema import KEY
from lara_tokenizer.table.shards import SHARD, are_shards, episodes_of_all
from lara_tokenizer.table.statistics import (
    MotionCounts,
    motion_counts_by_camera,
    motion_counts_from_metadata,
    motion_counts_to_metadata,
)
from lara_tokenizer.table.write import OutputPath, write_tokens

_UNEVEN = (
    "not all episodes have all strides: lara-tok verify would report rows that were never made as missing; verify the "
    "parts instead"
)
# Metadata in which the tables may differ. All the rest decides the codes, or how the source is found again.
_MAY_DIFFER = ("strides", "source", "versions", "episodes", FRAMES, MOVING_PAIRS, CARD)
# A model may have another name on another machine; its hashes identify it.
_MODEL_NAMES = ("id", "revision")


@dataclass(frozen=True, slots=True)
class MergeSummary:
    """Result of `merge_tokens`.

    Attributes:
        out: the table.
        rows, rows_of: number of rows in it, and in each of the tables, by path.
        episodes: number of episodes with rows.
        strides: of all tables.
        notes: remarks for the user.
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


def merge_tokens(tables: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> MergeSummary:
    """Join tables of different episodes, cameras or strides, made by one model with the same options, into one.

    Of all shards of a source it makes the table, byte by byte, that one job would have made of the whole source.
    Everything is checked before anything is written; memory does not grow with the number of rows.

    Args:
        tables: at least two files or folders. Episodes keep their names, which must be unique.
        out: "tokens.parquet" for one file, "tokens/" for a folder of shards; it must not exist.

    Raises:
        ValueError: the tables were made differently (another model, `every`, frame rate, ...), a row is in two of
            them, one is not a token table, or `out` exists.

    >>> merge_tokens(["left.parquet", "right.parquet"], "tokens.parquet").rows  # doctest: +SKIP
    2408
    """
    paths, output = [Path(table) for table in tables], OutputPath.parse(out)
    if len(paths) < 2:
        raise ValueError(f"{len(paths)} tables to join: name two at least")
    if output.path.exists():
        raise ValueError(f"{output.path} exists already. Name a new --out, or delete it.")
    parts = [read_metadata(path) for path in paths]
    are_whole = are_shards(paths, parts)
    _check_joinable(paths, parts)
    schema = _common_schema(paths)
    episodes = _check_keys(paths)
    rows_of = {str(path): table_rows(path) for path in paths}
    metadata = _joined_shards(parts) if are_whole else _joined_metadata(parts, episodes)
    output.make_parent()
    with scratch_folder(output.path.parent, output.path.name) as scratch:
        write_tokens(_joined_rows(paths, schema), schema, metadata, output, scratch, sum(rows_of.values()))
    return MergeSummary(
        out=os.fspath(out),
        rows=sum(rows_of.values()),
        rows_of=rows_of,
        episodes=episodes["count"],
        strides=metadata["strides"],
        notes=[] if _strides_are_even(parts) else [_UNEVEN],
    )


def _common_schema(paths: Sequence[Path]) -> pa.Schema:
    schemas = [table_schema(token_files(path)[0]).remove_metadata() for path in paths]
    for path, schema in zip(paths[1:], schemas[1:], strict=True):
        if not schema.equals(schemas[0]):
            one, other = _columns(schemas[0]), _columns(schema)
            only = [
                summarize_names([each for each in a if each not in b]) or "none"
                for a, b in ((one, other), (other, one))
            ]
            raise ValueError(
                f"{paths[0]} and {path} have other columns, or another order: {only[0]} only in the first, {only[1]} "
                "only in the second. Encode one of them again."
            )
    return schemas[0]


def _columns(schema: pa.Schema) -> list[str]:
    return [f"{each.name} ({each.type})" for each in schema]


def _check_keys(paths: Sequence[Path]) -> dict[str, Any]:
    """The digest of the episodes that have rows. Raises ValueError if a row is in two tables."""
    names: set[str] = set()
    for key, runs in matched_sequences(paths, KEY):
        names.add(key[0])
        tables = np.concatenate([np.full(rows.num_rows, table) for table, rows in runs.items()])
        frames = np.concatenate([rows["frame_index"].to_numpy() for rows in runs.values()])
        # Stable: of two equal frames the earlier table comes first, and is named first.
        order = np.argsort(frames, kind="stable")
        duplicates = np.flatnonzero(np.diff(frames[order]) == 0)
        if len(duplicates):
            one, other = (paths[tables[order[duplicates[0] + offset]]] for offset in (0, 1))
            sequence = " ".join(part for part in key if part)
            raise ValueError(
                f"{sequence} frame {frames[order[duplicates[0]]]} is in {one} and in {other}: a table has each row "
                "once. Leave one of them out, or encode sources whose episodes have names of their own."
            )
    return episodes_digest(names)


def _joined_rows(paths: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    for _, runs in matched_sequences(paths, schema.names):
        # Dictionaries with the names of this run alone, not of its whole row group: equal rows then give equal bytes.
        tables = [_with_own_dictionaries(rows, schema) for rows in runs.values()]
        if len(tables) == 1:
            yield tables[0]
        else:
            joined = pa.concat_tables(tables).unify_dictionaries()
            yield joined.take(np.argsort(joined["frame_index"].to_numpy(), kind="stable"))


def _with_own_dictionaries(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for each in schema:
        column = rows[each.name]
        if pa.types.is_dictionary(each.type):
            column = column.cast(each.type.value_type).dictionary_encode()
        columns.append(column)
    return pa.table(columns, schema=schema)


def _check_joinable(paths: Sequence[Path], parts: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError, with the differences, for the first table that was made differently from the first one."""
    for path, metadata in zip(paths[1:], parts[1:], strict=True):
        if changed := differences(_must_agree(parts[0]), _must_agree(metadata)):
            raise ValueError(
                f"{paths[0]} and {path} were made differently, and cannot be one table: {'; '.join(changed)}. "
                "Encode one of them again."
            )
    _check_contents(paths, parts)
    revisions: dict[tuple[str, str], str | None] = {}
    for source in (each for metadata in parts for each in metadata["source"]):
        before = revisions.setdefault((source["name"], source["format"]), source["revision"])
        if before != source["revision"]:
            raise ValueError(
                f"the tables were made from {source['name']} ({source['format']}) at {before or 'no revision'} and at "
                f"{source['revision'] or 'no revision'}: one table has one of them. Encode one of them again."
            )


def _check_contents(paths: Sequence[Path], parts: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError for two tables of the same episodes whose files had another content, where that is known."""
    known: dict[str, tuple[Path, str]] = {}
    for path, entry in zip(paths, (metadata["episodes"] for metadata in parts), strict=True):
        # With failures it is the content of those that did not fail.
        if CONTENT in entry and not entry["failed"]:
            other, content = known.setdefault(entry["ids_sha256"], (path, entry[CONTENT]))
            if content != entry[CONTENT]:
                raise ValueError(
                    f"{other} and {path} have the same episodes, made from files of another content: they changed in "
                    "between. Encode one of them again."
                )


def _must_agree(metadata: Mapping[str, Any]) -> dict[str, Any]:
    common = {name: value for name, value in metadata.items() if name not in _MAY_DIFFER}
    common["model"] = {name: value for name, value in metadata["model"].items() if name not in _MODEL_NAMES}
    common["load"] = {name: value for name, value in metadata["load"].items() if name != SHARD}
    if common["load"].get("cameras"):
        # Cameras requested by name add up; a table of the default camera has no entry here, and differs.
        common["load"]["cameras"] = "by name"
    return common


def _joined_metadata(parts: Sequence[Mapping[str, Any]], episodes: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of the joined table; the model keeps the name that it has in the first one.

    Args:
        parts: metadata of tables that passed `_check_joinable`.
        episodes: digest of the episodes that have rows in the joined table.
    """
    sources = {(source["name"], source["format"]): source for metadata in parts for source in metadata["source"]}
    metadata = {
        **parts[0],
        "strides": sorted({stride for each in parts for stride in each["strides"]}),
        "source": [sources[key] for key in sorted(sources)],
        "load": _load(parts),
        "versions": _versions(parts),
        "episodes": _episodes(parts, episodes),
    }
    # Of the first table only; the sums follow, or nothing if one table has no counts.
    metadata.pop(MOVING_PAIRS, None)
    return {**metadata, **motion_counts_to_metadata(_motion_counts(parts))}


def _joined_shards(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metadata of the table that one job would have made of the whole source."""
    load = {name: value for name, value in parts[0]["load"].items() if name != SHARD}
    metadata = {**parts[0], "load": load, "versions": _versions(parts), "episodes": episodes_of_all(parts)}
    metadata.pop(MOVING_PAIRS, None)
    return {**metadata, **motion_counts_to_metadata(_motion_counts(parts))}


def _strides_are_even(parts: Sequence[Mapping[str, Any]]) -> bool:
    """True if each set of episodes has the same strides, as if one job had made the table."""
    # The digest of the episodes' names identifies the set of episodes.
    by_episodes: dict[str, set[str]] = {}
    for metadata in parts:
        by_episodes.setdefault(metadata["episodes"]["ids_sha256"], set()).update(metadata["strides"])
    return len({frozenset(strides) for strides in by_episodes.values()}) == 1


def _load(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    load = dict(parts[0]["load"])
    if "cameras" in load:
        names = sorted({name for metadata in parts for name in metadata["load"]["cameras"]})
        load["cameras"] = ["all"] if "all" in names else names
    return load


def _versions(parts: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """Versions of packages; all of them where tables were made with several: "2.13.0, 2.14.1"."""
    joined: dict[str, str | None] = {}
    for package in sorted({name for metadata in parts for name in metadata["versions"]}):
        versions = [metadata["versions"].get(package) for metadata in parts]
        # A part may be a merged table itself, with several versions in one string.
        joined[package] = ", ".join(sorted({one for text in versions if text for one in text.split(", ")})) or None
    return joined


def _episodes(parts: Sequence[Mapping[str, Any]], episodes: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of the same episodes keep their entry; otherwise only the episodes with rows are known by name."""
    entries = [metadata["episodes"] for metadata in parts]
    if len({entry["ids_sha256"] for entry in entries}) == 1:
        joined = {**entries[0], "failed": max(entry["failed"] for entry in entries)}
        if len({entry.get(CONTENT) for entry in entries}) > 1:
            joined.pop(CONTENT, None)
        return joined
    return {**episodes, "failed": sum(entry["failed"] for entry in entries)}


def _motion_counts(parts: Sequence[Mapping[str, Any]]) -> dict[str, MotionCounts] | None:
    """Sums by camera; None if one of the tables has no counts."""
    counts = [motion_counts_from_metadata(metadata) for metadata in parts]
    known = [by_camera for by_camera in counts if by_camera is not None]
    if len(known) < len(counts):
        return None
    return motion_counts_by_camera(entry for by_camera in known for entry in by_camera.items())
