"""The state of an exported source: by it an export notices that files were replaced, since encode or since it began."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lara_tokenizer._files import summarize_names
from lara_tokenizer.data import Episode
from lara_tokenizer.errors import EpisodeReadError
from lara_tokenizer.table.metadata import CONTENT, episodes_digest
from lara_tokenizer.table.parquet import iter_tables, token_files
from lara_tokenizer.table.provenance import States, change_of, content_sha256, file_states, joint_sha256, newer_files
from lara_tokenizer.table.reader import TokenTable


@dataclass(frozen=True, slots=True)
class SequenceState:
    """One camera of an episode, as it was found.

    Attributes:
        episode, camera: which one.
        num_frames: count of its frames.
        index: digest of its packets; "" where it has none.
        files: states of the episode's local files.
    """

    episode: Episode
    camera: str
    num_frames: int
    index: str
    files: States

    @classmethod
    def of(cls, episode: Episode, camera: str) -> SequenceState:
        """Look at an episode. Raises EpisodeReadError."""
        index = episode.frame_index(camera)
        return cls(episode, camera, index.num_frames, index.digest, file_states(episode))

    @property
    def digest(self) -> str:
        """Hex digest of the state; a folder that was moved as a whole has the same."""
        content = [self.num_frames, self.index, [[state.size, state.modified_ns] for state in self.files]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The episode, and the camera where it has a name."""
        return f"{self.episode.id} {self.camera}".rstrip()

    def check(self) -> None:
        """Raises EpisodeReadError where a file is another one now."""
        if change := change_of(self.files, file_states(self.episode)):
            raise EpisodeReadError(
                self.episode.id, f"{change} while it was exported. Delete the unfinished export, and begin again"
            )


def by_name(states: Iterable[SequenceState]) -> dict[str, str]:
    """The digest of each state, by name."""
    return {state.name: state.digest for state in states}


def check_content(table: TokenTable, episodes: Mapping[str, Episode]) -> None:
    """Compare the content of a source with the one that a table records, where files are newer than the table.

    Nothing is compared where the table records none, has failed episodes, or was made from a part of the source that
    its metadata does not name.

    Args:
        episodes: of the source, by id.

    Raises ValueError where they differ, EpisodeReadError for an episode that cannot be read.
    """
    recorded = table.metadata["episodes"]
    if recorded.get(CONTENT) is None or recorded["failed"]:
        return
    written = min(file.stat().st_mtime_ns for file in token_files(table.path))
    newer = newer_files(episodes.values(), written)
    with_rows = episodes_with_rows(table) if newer else set()
    for names in (episodes.keys(), with_rows & episodes.keys()) if newer else ():
        if episodes_digest(names)["ids_sha256"] == recorded["ids_sha256"]:
            of_table = {name: episodes[name] for name in sorted(names)}
            if _content(table, of_table, with_rows) != recorded[CONTENT]:
                raise ValueError(
                    f"{table.path} was made from other files than the source has now; newer than the table: "
                    f"{summarize_names(newer)}. Encode again, or name the right source."
                )
            return


def _content(table: TokenTable, episodes: Mapping[str, Episode], with_rows: set[str]) -> str:
    """The digest that encode records of these episodes."""
    has_signals = bool({"actions", "text"} & set(table.metadata["columns"]))
    contents = {}
    for name, episode in episodes.items():
        try:
            indices = {camera: episode.frame_index(camera) for camera in episode.cameras}
            signals = episode.signals() if has_signals and name in with_rows else None
            contents[name] = content_sha256(episode, indices, signals)
        finally:
            episode.close()
    return joint_sha256(contents)


def episodes_with_rows(table: TokenTable) -> set[str]:
    """Ids of the episodes of a table, of all strides and cameras."""
    names: set[str] = set()
    for rows in iter_tables(table.path, ["episode"]):
        names |= set(rows["episode"].unique().to_pylist())
    return names
