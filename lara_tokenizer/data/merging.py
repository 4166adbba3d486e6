"""Listings of several sources as one: ids that are unique among all of them and that can be stored as UTF-8."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lara_tokenizer.data import video
from lara_tokenizer.data.episode import Episode, is_storable, storable_text
from lara_tokenizer.data.folders import storable
from lara_tokenizer.data.listing import Listing


@dataclass(slots=True)
class ResolvedSource:
    """One listed source and its position on disk, from which ids that are unique among all sources are made."""

    listing: Listing
    base: Path | None  # the folder that the user named; None on the Hub
    root: Path | None  # the dataset's own folder; None on the Hub
    is_file: bool = False  # whether a single video or tar was named: all of those together form one dataset

    def origin(self, episode: Episode) -> object:
        """The file or dataset of an episode, which distinguishes it from another episode of the same id."""
        if isinstance(episode.reader, video.VideoReader):
            return episode.reader.path, episode.text
        if isinstance(episode.reader, video.ImageFolderReader):
            return episode.reader.folder, episode.reader.sequence
        return self.root, self.listing.format, self.listing.name, self.listing.revision


def merge_listings(sources: Sequence[ResolvedSource]) -> list[Listing]:
    """The listings sorted by name, with episode ids and dataset names that are unique among all of them.

    An episode of a source that was named twice is listed once. Raises ValueError where two different episodes would
    have the same id.
    """
    common = _common_folder(sources)
    listings: list[tuple[str, Listing]] = []
    files: dict[str, Listing] = {}  # by format: the dataset that single files form together
    seen: dict[str, object] = {}
    for source in sources:
        listing = source.listing
        prefix = "."
        if source.root is not None:
            prefix = source.root.relative_to(common).as_posix()
        elif len(sources) > 1:
            prefix = listing.name
        listing.name, listing.notes = storable(listing.name), [storable(note) for note in listing.notes]
        listing.episodes = list(_new_episodes(source, "" if prefix == "." else f"{prefix}/", seen))
        if source.is_file and (others := files.setdefault(listing.format, listing)) is not listing:
            others.episodes += listing.episodes
            others.notes += [note for note in listing.notes if note not in others.notes]
            others.name = common.name
            continue
        listings.append((prefix, listing))
    names = Counter(listing.name for _, listing in listings)
    for prefix, listing in listings:
        for episode in listing.episodes:
            episode.dataset = listing.name if names[listing.name] == 1 else f"{listing.name} ({prefix})"
    return sorted((listing for _, listing in listings), key=lambda listing: (listing.name, listing.format))


def _common_folder(sources: Sequence[ResolvedSource]) -> Path:
    """The folder that ids of local episodes are relative to."""
    local = [source.base for source in sources if source.base is not None]
    common = Path(os.path.commonpath(local)) if local else Path()
    # Next to datasets of the Hub, whose ids begin with their names, ids of a folder begin with its name too.
    return common.parent if local and len(local) < len(sources) else common


def _new_episodes(source: ResolvedSource, prefix: str, seen: dict[str, object]) -> Iterator[Episode]:
    """Episodes with their final ids, except those that an earlier source has listed; `seen` is extended.

    Ids can be stored as UTF-8; the file keeps its name. Where an escaped id is that of another file, "#2" follows it.
    """
    # Names that need no escape first: they keep their ids.
    for episode in sorted(source.listing.episodes, key=lambda episode: not is_storable(episode.id)):
        name = prefix + episode.id
        episode.id = escaped = storable(name)
        episode.text = None if episode.text is None else storable_text(episode.text)
        origin = source.origin(episode)
        count = 1
        while escaped != name and seen.get(episode.id, origin) != origin:
            count += 1
            episode.id = f"{escaped}#{count}"
        if episode.id not in seen:
            seen[episode.id] = origin
            yield episode
        elif seen[episode.id] != origin:
            raise ValueError(
                f"two different episodes are called {episode.id!r}, one of them in {source.listing.name}: encode these "
                "sources one by one"
            )
