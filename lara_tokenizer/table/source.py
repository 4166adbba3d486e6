"""The source of a table: the episodes it is made from, and how they are found again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, cast

from lara_tokenizer.data import Episode, Episodes, LoadOptions, SourceFacts, load_episodes
from lara_tokenizer.errors import JobMismatchError

Source = str | Path | Sequence[str | Path] | Sequence[Episode]


def find_episodes(source: Source, load: LoadOptions) -> tuple[Episodes, dict[str, Episode]]:
    """The episodes with what is known of their source, and by id. Raises ValueError for episodes among paths, and
    where two have one id."""
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    given = [item for item in sources if isinstance(item, Episode)]
    if not given:
        loaded = load_episodes([item for item in sources if isinstance(item, (str, Path))], **load)
        return loaded, _by_id(loaded)
    if len(given) < len(sources):
        raise ValueError("the source mixes episodes and paths: pass either")
    signature(load_episodes).bind_partial(**load)  # an unknown keyword is a TypeError here as it is there
    defaults = signature(load_episodes).parameters
    for name, value in load.items():
        if name != "limit" and value != defaults[name].default:
            raise ValueError(f"{name}: these episodes are loaded already. Give it to load_episodes")
    limit = load.get("limit")
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit}: must be at least 1 episode")
    if isinstance(source, Episodes):
        loaded = source[:limit]
    else:
        loaded = Episodes(sorted(given, key=lambda episode: episode.id)[:limit])
        loaded.options["fps"] = {episode.id: episode.fps for episode in loaded if episode.fps is not None} or None
    return loaded, _by_id(loaded)


def recorded_load_options(
    metadata: Mapping[str, Any], source: Source, from_list: str | os.PathLike[str] | None = None
) -> LoadOptions:
    """The options that a table's source was loaded with, for loading it again; none for episodes.

    Raises ValueError where the table was made from a list of clips and none is given.
    """
    items = [source] if isinstance(source, (str, Path)) else list(source)
    if any(isinstance(item, Episode) for item in items):
        return {}
    options = {name: value for name, value in metadata["load"].items() if name != "from_list"}
    if from_list is not None:
        options["from_list"] = os.fspath(from_list)
    elif "from_list" in metadata["load"]:
        raise ValueError(f"the table was made from the list {metadata['load']['from_list']!r}: give it too (--from)")
    return cast(LoadOptions, options)


def check_revisions(metadata: Mapping[str, Any], sources: Iterable[SourceFacts]) -> None:
    """Raises JobMismatchError where a dataset of the Hub, or a list, is another one than a table was made from."""
    now = {source.name: source.revision for source in sources}
    for source in metadata["source"]:
        name, before = source["name"], source["revision"]
        if now.get(name, before) != before:
            is_list = source["format"] == "list of clips"
            cure = "Give the list as it was" if is_list else f"Name the source with its commit: {name}@{before}"
            raise JobMismatchError(f"the table was made from {name} at {before}, and that is now {now[name]}. {cure}")


def _by_id(episodes: Iterable[Episode]) -> dict[str, Episode]:
    by_id: dict[str, Episode] = {}
    for episode in episodes:
        # File names may hold bytes that are no text; tables and databases hold text only.
        episode.id = episode.id.encode("utf-8", "backslashreplace").decode()
        if episode.id in by_id:
            raise ValueError(f"two episodes are called {episode.id!r}: ids must be unique within a source")
        by_id[episode.id] = episode
    return by_id
