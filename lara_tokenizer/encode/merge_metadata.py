"""What a table says of itself when it was joined from others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lara_tokenizer.encode.fingerprint import differences
from lara_tokenizer.encode.moving_pairs import (
    NAME,
    MovingPairs,
    moving_pairs_from_metadata,
    moving_pairs_to_metadata,
)
from lara_tokenizer.encode.schema import FRAMES

# What tables that belong together may differ in; the rest decides the codes, or how the source is found again.
_JOINED = ("strides", "source", "versions", "episodes", FRAMES, NAME)
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
    metadata.pop(NAME, None)
    return {**metadata, **moving_pairs_to_metadata(_moving_pairs(said))}


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


def _moving_pairs(said: Sequence[Mapping[str, Any]]) -> dict[str, MovingPairs] | None:
    """The sums by camera; None where one of the tables does not know."""
    sums: dict[str, MovingPairs] = {}
    for metadata in said:
        by_camera = moving_pairs_from_metadata(metadata)
        if by_camera is None:
            return None
        for camera, moving in by_camera.items():
            sums[camera] = sums.get(camera, MovingPairs()) + moving
    return sums
