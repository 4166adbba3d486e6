"""Tables of shards: which of them make up the table of the whole source, and what that records of its episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lara_tokenizer._files import summarize_names
from lara_tokenizer.data.shard import Shard
from lara_tokenizer.table.metadata import CONTENT, episodes_digest
from lara_tokenizer.table.provenance import joint_sha256

SHARD = "shard"  # entry of "load" in the metadata
# In the entry "episodes" of a shard's table: the content digest of each of its episodes, None where it failed. From
# those of all shards the digest of the whole source is computed.
CONTENTS = "contents"


def shard_contents(load: Mapping[str, Any], episodes: Iterable[str], contents: Mapping[str, str]) -> dict[str, Any]:
    """The entry `CONTENTS` of a table; none for the table of a whole source.

    Args:
        load: the options that the source was loaded with.
        episodes: ids of all episodes of the job.
        contents: digests of those that did not fail, by id.
    """
    return {CONTENTS: {name: contents.get(name) for name in episodes}} if load.get(SHARD) else {}


def are_shards(paths: Sequence[Path], parts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these tables are all shards of one job; False for tables of whole sources.

    Raises ValueError for shards that are incomplete, of several splits, or mixed with other tables.
    """
    names = [metadata["load"].get(SHARD) for metadata in parts]
    if not any(names):
        return False
    if not all(names):
        whole, part = (paths[[bool(name) for name in names].index(flag)] for flag in (False, True))
        raise ValueError(
            f"{part} is one shard of a source, and {whole} is not. Merge the shards first, then the tables."
        )
    shards = [Shard.parse(name) for name in names]
    counts = sorted({shard.count for shard in shards})
    if len(counts) > 1:
        raise ValueError(
            f"these are shards of a split into {counts[0]} and of one into {counts[-1]}. Merge those of one split."
        )
    given = [shard.index for shard in shards]
    if missing := [f"{index}/{counts[0]}" for index in range(counts[0]) if index not in given]:
        raise ValueError(
            f"shard{'s' * (len(missing) > 1)} {summarize_names(missing)} of the source are not among the tables. "
            "Encode and name all of them."
        )
    if twice := [index for index in given if given.count(index) > 1]:
        raise ValueError(f"shard {twice[0]}/{counts[0]} is there twice. Name each table once.")
    return True


def episodes_of_all(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entry "episodes" of the whole source's table, from those of all its shards."""
    entries = [metadata["episodes"] for metadata in parts]
    contents = {name: content for entry in entries for name, content in entry[CONTENTS].items()}
    made_of = {name: content for name, content in contents.items() if content is not None}
    return {
        **episodes_digest(contents),
        "failed": len(contents) - len(made_of),
        **({CONTENT: joint_sha256(made_of)} if any(CONTENT in entry for entry in entries) else {}),
    }
