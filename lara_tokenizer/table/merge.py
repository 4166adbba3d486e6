"""Several tables of tokens of one model as one (`lara-tok tokens merge`). No torch, nothing is computed anew."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.table.metadata import FRAMES, differences, episodes_digest, read_metadata, token_files
from lara_tokenizer.table.reader import check_frames, iter_runs, iter_tables
from lara_tokenizer.table.schema import KEY
from lara_tokenizer.table.statistics import (
    MOVING_PAIRS,
    MotionCounts,
    motion_counts_from_metadata,
    motion_counts_to_metadata,
)
from lara_tokenizer.table.write import OutputPath, write_tokens

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
    paths, target = [Path(table) for table in tables], OutputPath.parse(out)
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


# What tables that belong together may differ in; the rest decides the codes, or how the source is found again.
_JOINED = ("strides", "source", "versions", "episodes", FRAMES, MOVING_PAIRS)
# Names of one model in two places: what it is, its hashes say.
_NAMES = ("id", "revision")


def check_joinable(paths: Sequence[Path], said: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError where the tables do not belong together, with what the first two such differ in."""
    for path, metadata in zip(paths[1:], said[1:], strict=True):
        if changed := differences(_must_agree(said[0]), _must_agree(metadata)):
            raise ValueError(
                f"{paths[0]} and {path} were made differently, and cannot be one table: {'; '.join(changed)}. "
                "Encode one of them again."
            )
    revisions: dict[tuple[str, str], str | None] = {}
    for source in (each for metadata in said for each in metadata["source"]):
        before = revisions.setdefault((source["name"], source["format"]), source["revision"])
        if before != source["revision"]:
            raise ValueError(
                f"the tables were made from {source['name']} ({source['format']}) at {before} and at "
                f"{source['revision']}: one table has one of them. Encode one of them again."
            )


def joined_metadata(said: Sequence[Mapping[str, Any]], episodes: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of the joined table.

    Args:
        said: of tables that `check_joinable` let pass. The model keeps the name that the first one gives it.
        episodes: how many have rows in the joined table, and the hash of their names.
    """
    metadata = {
        **said[0],
        "strides": sorted({stride for each in said for stride in each["strides"]}),
        "source": _sources(said),
        "load": _load(said),
        "versions": _versions(said),
        "episodes": _episodes(said, episodes),
    }
    metadata.pop(MOVING_PAIRS, None)
    return {**metadata, **motion_counts_to_metadata(_moving_pairs(said))}


def strides_are_even(said: Sequence[Mapping[str, Any]]) -> bool:
    """Whether each set of episodes comes with the same strides, as if one job had made the table."""
    by_episodes: dict[str, set[str]] = {}
    for metadata in said:
        by_episodes.setdefault(metadata["episodes"]["ids_sha256"], set()).update(metadata["strides"])
    return len({frozenset(strides) for strides in by_episodes.values()}) == 1


def _must_agree(metadata: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in metadata.items() if name not in _JOINED}
    kept["model"] = {name: value for name, value in metadata["model"].items() if name not in _NAMES}
    kept["load"] = dict(metadata["load"])
    if kept["load"].get("cameras"):  # those that were asked for by name add up; the first of a dataset has none here
        kept["load"]["cameras"] = "by name"
    return kept


def _sources(said: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = {(source["name"], source["format"]): source for metadata in said for source in metadata["source"]}
    return [found[key] for key in sorted(found)]


def _load(said: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    load = dict(said[0]["load"])
    if "cameras" in load:
        names = sorted({name for metadata in said for name in metadata["load"]["cameras"]})
        load["cameras"] = ["all"] if "all" in names else names
    return load


def _versions(said: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """Of packages; where tables were made with several, all of them: "2.13.0, 2.14.1"."""
    joined: dict[str, str | None] = {}
    for package in sorted({name for metadata in said for name in metadata["versions"]}):
        there = [metadata["versions"].get(package) for metadata in said]
        joined[package] = ", ".join(sorted({one for text in there if text for one in text.split(", ")})) or None
    return joined


def _episodes(said: Sequence[Mapping[str, Any]], episodes: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of the same episodes keep what they say of them. Otherwise only those with rows are known by name."""
    parts = [metadata["episodes"] for metadata in said]
    if len({part["ids_sha256"] for part in parts}) == 1:
        return {**parts[0], "failed": max(part["failed"] for part in parts)}
    return {**episodes, "failed": sum(part["failed"] for part in parts)}


def _moving_pairs(said: Sequence[Mapping[str, Any]]) -> dict[str, MotionCounts] | None:
    """The sums by camera; None where one of the tables does not know."""
    sums: dict[str, MotionCounts] = {}
    for metadata in said:
        by_camera = motion_counts_from_metadata(metadata)
        if by_camera is None:
            return None
        for camera, moving in by_camera.items():
            sums[camera] = sums.get(camera, MotionCounts()) + moving
    return sums
