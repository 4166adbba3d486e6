"""The local files that an episode is made from: their state, to notice a change, and a digest of their content.

A state (size and times) belongs to this machine and tells at once whether a file is still the one that was read. A
digest is made from content alone, so that two copies of a folder have the same: sizes of files, a few blocks of each,
and the frame index, which for a video is a digest of the sizes and times of all its packets.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from lara_tokenizer.data import Episode, FrameIndex, Signals

# Files whose states are kept one by one; an episode of thousands of images has one state for all.
_MOST_STATES = 16
# Files of an episode, and blocks of each, that enter its digest. Equal sizes of packets do not prove equal pixels where
# frames are not compressed (rawvideo, DV), so a few blocks count as well; to read whole files would take too long.
_SAMPLED_FILES, _BLOCKS, _BLOCK_BYTES = 32, 16, 4096
# Some file systems keep times in steps of two seconds.
_CLOCK_STEP_NS = 2 * 10**9


@dataclass(frozen=True, slots=True)
class FileState:
    """A local file as the file system describes it; several files of one episode may share a state.

    Attributes:
        path: of the file; of the folder, where it is the state of many files.
        size: bytes; -1 where there is no such file.
        modified_ns: time of the last change of its content (mtime).
        changed_ns: time of the last change of anything (ctime). No program can set it, but a new link or other
            permissions change it, too: a reason to look closer, not a proof.
    """

    path: str
    size: int
    modified_ns: int
    changed_ns: int

    @property
    def name(self) -> str:
        """The last part of the path."""
        return os.path.basename(self.path)

    @property
    def exists(self) -> bool:
        """Whether the file was there."""
        return self.size >= 0

    def has_content_of(self, other: FileState) -> bool:
        """Whether size and time of modification are equal; the path may differ, if the whole source was moved."""
        return (self.size, self.modified_ns) == (other.size, other.modified_ns)


StateCache = dict[Path, FileState]
States = tuple[FileState, ...]


def file_states(episode: Episode, cache: StateCache | None = None) -> States:
    """States of all local files of an episode, each once; none where its reader does not name them.

    Args:
        episode: nothing of it is opened.
        cache: of states by path, for episodes that share files and are looked at together.
    """
    cache = {} if cache is None else cache
    paths = local_files(episode)
    states = [cache[path] if path in cache else cache.setdefault(path, _state(path)) for path in paths]
    return tuple(states) if len(states) <= _MOST_STATES else (_joint_state(states),)


def local_files(episode: Episode) -> list[Path]:
    """The local files of all cameras of an episode, each once."""
    return list(dict.fromkeys(Path(path) for camera in episode.cameras for path in episode.files(camera)))


def change_of(before: Sequence[FileState], now: Sequence[FileState]) -> str:
    """The first difference between two states of an episode's files, for a message; "" if their content is the same.

    >>> before, now = FileState("clip.mp4", 10, 1, 1), FileState("clip.mp4", 12, 2, 2)
    >>> change_of([before], [now]), change_of([before], [before])
    ('clip.mp4 changed', '')
    """
    for old, new in zip(before, now, strict=False):
        if not new.exists and old.exists:
            return f"{old.name} is gone"
        if not new.has_content_of(old):
            return f"{old.name} changed"
    if len(before) == len(now):
        return ""
    longer = max(before, now, key=len)
    return f"{longer[min(len(before), len(now))].name} {'was added' if len(now) > len(before) else 'is gone'}"


def are_untouched(before: Sequence[FileState], now: Sequence[FileState]) -> bool:
    """Whether nothing at all has changed, except that the whole source may be in another place now."""
    return [astuple(state)[1:] for state in before] == [astuple(state)[1:] for state in now]


def gone_of(states: Iterable[FileState]) -> str:
    """Name of the first file that was there, and now is not; "" if there is none."""
    return next((state.name for state in states if state.exists and not os.path.exists(state.path)), "")


def states_to_json(states: States) -> str:
    """States as JSON, for `states_from_json`."""
    return json.dumps([astuple(state) for state in states])


def states_from_json(text: str | None) -> States:
    """States from the JSON of `states_to_json`; none for None."""
    return tuple(FileState(*values) for values in json.loads(text or "[]"))


def newer_files(episodes: Iterable[Episode], time_ns: int) -> list[str]:
    """Names of the episodes with a file that is gone, or has changed in any way since `time_ns`."""
    cache: StateCache = {}
    names = []
    for episode in episodes:
        states = file_states(episode, cache)
        if any(not state.exists or state.changed_ns > time_ns - _CLOCK_STEP_NS for state in states):
            names.append(episode.id)
    return names


def content_sha256(episode: Episode, indices: Mapping[str, FrameIndex], signals: Signals | None = None) -> str:
    """Hex SHA-256 of an episode's content: frame indices, sizes and a few blocks of its files, and its signals.

    Args:
        episode: its files are sampled where they are local.
        indices: by camera.
        signals: None where the rows do not contain them.
    """
    digest = hashlib.sha256()
    for camera, index in sorted(indices.items()):
        _add(digest, camera, str(index.num_frames), index.digest or hashlib.sha256(index.timestamps.tobytes()).digest())
    paths = local_files(episode)
    sampled = set(paths[:: max(1, -(-len(paths) // _SAMPLED_FILES))])
    for path in paths:
        state = _state(path)
        _add(digest, str(state.size), *(_blocks(path, state.size) if path in sampled else ()))
    if signals is not None:
        for array in (signals.actions, signals.states):
            _add(
                digest,
                "" if array is None else f"{array.dtype}{array.shape}",
                b"" if array is None else array.tobytes(),
            )
        _add(digest, *(signals.texts or ()))
    return digest.hexdigest()


def joint_sha256(contents: Mapping[str, str]) -> str:
    """Hex SHA-256 of a whole source from the digests of its episodes by id, in any order."""
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        _add(digest, name, content)
    return digest.hexdigest()


def _state(path: Path) -> FileState:
    try:
        status = path.stat()
    except (OSError, ValueError):  # a path with a null byte is a ValueError
        return FileState(str(path), -1, -1, -1)
    return FileState(str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _joint_state(states: Sequence[FileState]) -> FileState:
    """One state for many files; their sizes and times are all in the number in the place of the time."""
    digest = hashlib.sha256(repr([(state.name, state.size, state.modified_ns) for state in states]).encode())
    return FileState(
        os.path.dirname(states[0].path),
        sum(state.size for state in states) if all(state.exists for state in states) else -1,
        int.from_bytes(digest.digest()[:7]),
        max(state.changed_ns for state in states),
    )


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    """Blocks of a regular file at even distances, the first and the last included; of a small file all."""
    try:
        with path.open("rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return
            if size <= _BLOCKS * _BLOCK_BYTES:
                yield stream.read(size)
                return
            for k in range(_BLOCKS):
                stream.seek((size - _BLOCK_BYTES) * k // (_BLOCKS - 1))
                yield stream.read(_BLOCK_BYTES)
    except OSError:
        return  # whoever reads its frames reports the error


def _add(digest: hashlib._Hash, *parts: str | bytes) -> None:
    """Add parts with their lengths, so that no two lists of parts look alike."""
    digest.update(b"%d:" % len(parts))
    for part in parts:
        # Names and texts from JSON may contain halves of surrogate pairs.
        raw = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(raw) + raw)
