"""The state of an exported source: by it an export notices that a file was replaced since it began."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lara_tokenizer.data import Episode
from lara_tokenizer.errors import EpisodeReadError


@dataclass(frozen=True, slots=True)
class SequenceState:
    """One camera of an episode, as it was found.

    Attributes:
        episode, camera: its names.
        index: digest of its packets or frames, and their count.
        files: path, size and modification time (ns) of its local files; None for a file that is missing.
    """

    episode: str
    camera: str
    index: tuple[str, int]
    files: tuple[tuple[Path, tuple[int, int] | None], ...]

    @classmethod
    def of(cls, episode: Episode, camera: str) -> SequenceState:
        """Look at an episode. Raises EpisodeReadError."""
        index = episode.frame_index(camera)
        files = tuple((path, _stamp(path)) for path in episode.files(camera))
        return cls(episode.id, camera, (index.digest, index.num_frames), files)

    @property
    def num_frames(self) -> int:
        """Count of frames."""
        return self.index[1]

    @property
    def digest(self) -> str:
        """Hex digest of the state; a folder that was moved as a whole has the same."""
        content = [self.index, [(path.name.encode("utf-8", "backslashreplace").decode(), s) for path, s in self.files]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The episode, and the camera where it has a name."""
        return f"{self.episode} {self.camera}".rstrip()

    def check(self) -> None:
        """Raises EpisodeReadError where a file is another one now."""
        for path, before in self.files:
            if _stamp(path) != before:
                raise EpisodeReadError(
                    self.episode, f"{path.name} changed while it was exported. Delete the unfinished export"
                )


def by_name(states: Iterable[SequenceState]) -> dict[str, str]:
    """The digest of each state, by name."""
    return {state.name: state.digest for state in states}


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
