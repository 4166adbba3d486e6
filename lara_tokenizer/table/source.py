"""The source of a table: the episodes it is made from, and how to reopen them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, cast

from lara_tokenizer.data import Episode, Episodes, LoadOptions, SourceInfo, load_episodes
from lara_tokenizer.data.folders import storable
from lara_tokenizer.errors import JobMismatchError

Source = str | Path | Sequence[str | Path] | Sequence[Episode]


def find_episodes(source: Source, load: LoadOptions) -> tuple[Episodes, dict[str, Episode]]:
    """Load the episodes of a source, with the information about it, and by id.

    Args:
        source: paths for `load_episodes`, or episodes that are loaded already.
        load: the keywords of `load_episodes`; of episodes that are loaded already only `limit` applies.

    Raises ValueError for a mixture of paths and episodes, and for two episodes of one id.
    """
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    given = [item for item in sources if isinstance(item, Episode)]
    if not given:
        loaded = load_episodes([item for item in sources if isinstance(item, (str, Path))], **load)
        return loaded, _by_id(loaded)
    if len(given) < len(sources):
        raise ValueError("the source mixes episodes and paths: pass either")
    call = signature(load_episodes)
    call.bind_partial(**load)  # an unknown keyword is a TypeError, as in `load_episodes`
    for name, value in load.items():
        if name != "limit" and value != call.parameters[name].default:
            raise ValueError(f"{name}: these episodes are loaded already. Give it to load_episodes")
    limit = load.get("limit")
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit}: must be at least 1 episode")
    if isinstance(source, Episodes):
        # A slice of `Episodes` keeps its sources and options, a plain list has none.
        loaded = source[:limit]
    else:
        loaded = Episodes(sorted(given, key=lambda episode: episode.id)[:limit])
        loaded.options["fps"] = {episode.id: episode.fps for episode in loaded if episode.fps is not None} or None
    return loaded, _by_id(loaded)


def recorded_load_options(
    metadata: Mapping[str, Any], source: Source, from_list: str | os.PathLike[str] | None = None
) -> LoadOptions:
    """The options that a table's source was loaded with, for loading it again; none for loaded episodes.

    Raises ValueError if the table was made from a list of clips and none is given.
    """
    if any(isinstance(item, Episode) for item in _items(source)):
        return {}
    # A shard's table is compared with the whole source, as one that was made with a limit is.
    options = {name: value for name, value in metadata["load"].items() if name not in ("from_list", "shard")}
    if from_list is not None:
        options["from_list"] = os.fspath(from_list)
    elif "from_list" in metadata["load"]:
        raise ValueError(f"the table was made from the list {metadata['load']['from_list']!r}: pass it too (--from)")
    return cast(LoadOptions, options)


def named_paths(source: Source) -> list[Path]:
    """Absolute paths of the files and folders of a source as the user named them; of a glob, and on the Hub, none."""
    names = [os.fspath(item) for item in _items(source) if not isinstance(item, Episode)]
    # "lerobot:demos" is a folder too.
    names = [name if os.path.exists(name) else re.sub(r"^[a-z][a-z0-9]+:", "", name) for name in names]
    return [Path(os.path.abspath(name)) for name in names if os.path.exists(name)]


def glob_folders(source: Source) -> list[Path]:
    """Absolute path of the folder before the first wildcard or brace, of each glob of a source."""
    names = [os.fspath(item) for item in _items(source) if not isinstance(item, Episode)]
    split = [re.split(r"[*?{\[]", re.sub(r"^[a-z][a-z0-9]+:", "", name)) for name in names if not os.path.exists(name)]
    return [Path(os.path.abspath(os.path.dirname(parts[0]))) for parts in split if len(parts) > 1]


def check_revisions(metadata: Mapping[str, Any], sources: Iterable[SourceInfo]) -> None:
    """Raise JobMismatchError if a dataset of the Hub, or a list of clips, changed since the table was made."""
    now = {source.name: source.revision for source in sources}
    for source in metadata["source"]:
        name, before = source["name"], source["revision"]
        if now.get(name, before) != before:
            is_list = source["format"] == "list of clips"
            hint = "Give the list as it was" if is_list else f"Name the source with its commit: {name}@{before}"
            raise JobMismatchError(f"the table was made from {name} at {before}, and that is now {now[name]}. {hint}")


def _items(source: Source) -> Sequence[str | Path | Episode]:
    return [source] if isinstance(source, (str, Path)) else source


def _by_id(episodes: Iterable[Episode]) -> dict[str, Episode]:
    by_id: dict[str, Episode] = {}
    for episode in episodes:
        # Listed episodes have such ids already; those that a caller made may not. Tables and databases hold text only.
        episode.id = storable(episode.id)
        if episode.id in by_id:
            raise ValueError(f"two episodes are called {episode.id!r}: ids must be unique within a source")
        by_id[episode.id] = episode
    return by_id
