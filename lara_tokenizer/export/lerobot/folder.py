"""A LeRobotDataset on the local disk, checked for adding columns: its version, episodes and rows.

v2.x  data/chunk-000/episode_000000.parquet   one episode per file; meta/episodes.jsonl
v3.0  data/chunk-000/file-000.parquet         many episodes per file; meta/episodes/*/*.parquet
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer._files import replace, summarize_names
from lara_tokenizer._parse import read_json_lines, read_parquet
from lara_tokenizer.data.lerobot.info import EPISODES_V2, EPISODES_V3, INFO, LeRobotInfo
from lara_tokenizer.errors import first_line
from lara_tokenizer.export.lerobot.files import carried_path, list_files
from lara_tokenizer.export.lerobot.needed import check_needed

_ROWS = 16_384  # in memory at a time; larger row groups are split
# Smaller files are copied: programs edit small files in place, and a link would change the old dataset with them.
_LINKED = 2**20  # bytes
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class DataFile:
    """One parquet file of rows.

    Attributes:
        name: relative to the dataset.
        episodes: indices of the episodes whose rows it contains, in its order.
        named_episode: the episode whose file it is by its name; None where only its rows name episodes.
    """

    name: str
    episodes: tuple[int, ...]
    named_episode: int | None


@dataclass(frozen=True, slots=True)
class LeRobotFolder:
    """A checked dataset: every listed episode has exactly its frames, in order, in one file.

    Attributes:
        root: with links resolved.
        info: of meta/info.json; its version is "v2.0", "v2.1" or "v3.0".
        lengths: count of frames by episode index, in the order of the list.
        data: the files of rows, sorted by name.
        names: of all files that a copy carries, relative to the root.
        left_out: names of links that lead out of the dataset and the like, with the reason; see `files`.
    """

    root: Path
    info: LeRobotInfo
    lengths: dict[int, int]
    data: tuple[DataFile, ...]
    names: frozenset[str]
    left_out: Mapping[str, str]

    @classmethod
    def open(cls, source: str | Path) -> LeRobotFolder:
        """Open and check a dataset.

        Raises ValueError for another folder, for rows that contradict its list, and where a link leads out of it in
        place of a file that it needs.
        """
        root = find_root(source)
        info = read_info(root)
        if info.version not in ("v2.0", "v2.1", "v3.0"):
            raise ValueError(f"{root.name}: a LeRobotDataset {info.version}; v2.0, v2.1 and v3.0 are taken.")
        files = list_files(root)
        check_needed(root, info, files.left_out)
        lengths = _lengths(root, files.names, info)
        data = tuple(_data_files(root, files.names, info, lengths))
        _check_lengths(root, lengths, data)
        return cls(root, info, lengths, data, files.names, files.left_out)

    def fingerprint(self) -> dict[str, Any]:
        """Identity of the dataset as plain JSON: its version, and a hash of info.json and of all names and sizes."""
        digest = hashlib.sha256((self.root / INFO).read_bytes())
        for name in sorted(self.names):
            digest.update(f"{name}\0{(self.root / name).stat().st_size}\0".encode("utf-8", "backslashreplace"))
        return {"codebase_version": self.info.version, "files_sha256": digest.hexdigest()}

    def modification_times(self) -> dict[str, Any]:
        """A hash of the modification times of rows and metadata, for the job of an unfinished export.

        An edit may keep all sizes. A finished export does not contain it: copies of a dataset have their own times.
        """
        return {"dataset_times_sha256": hashlib.sha256(repr(sorted(self._times().items())).encode()).hexdigest()}

    def check_unchanged(self, times: Mapping[str, Any]) -> None:
        """Raises ValueError where files came or went since it was opened, or its `modification_times` are others."""
        if list_files(self.root).names != self.names or self.modification_times() != times:
            raise ValueError(
                f"{self.root} was changed while it was exported: that is not finished. Delete the folder that ends in "
                ".partial, and export again."
            )

    def changed_since(self, time_ns: int) -> list[str]:
        """The files of rows and metadata that were written after a time, st_mtime_ns."""
        return sorted(name for name, written in self._times().items() if written > time_ns)

    def _times(self) -> dict[str, int]:
        names = (name for name in self.names if name.startswith(("data/", "meta/")))
        return {name: (self.root / name).stat().st_mtime_ns for name in names}

    def link_or_copy(self, target: Path, names: Iterable[str]) -> None:
        """Hard-link images, videos and large files to `target`; copy small files, metadata, and where links fail.

        Links within the dataset are followed: the result is a dataset of its own. Files that an earlier run has
        carried stay, if they are still the same.

        Raises ValueError where a file has become a link that leads out of the dataset.
        """
        for name in sorted(names):
            old, new = carried_path(self.root, name), target / name
            if new.exists():
                if is_same(old, new):
                    continue
                new.unlink()
            new.parent.mkdir(parents=True, exist_ok=True)
            is_media = name.startswith(("videos/", "images/")) or old.stat().st_size >= _LINKED
            if is_media and not name.startswith("meta/") and _link(old, new):
                continue
            unfinished = new.with_name(new.name + ".copying")
            shutil.copy2(old, unfinished)
            replace(unfinished, new, durable=False)

    def notes(self) -> list[str]:
        """Sentences for the manifest: what of the dataset is not in its copy."""
        reasons = dict.fromkeys(self.left_out.values())
        return [
            f"left out: {reason}: {summarize_names(sorted(n for n in self.left_out if self.left_out[n] == reason))}"
            for reason in reasons
        ]

    def write_info(self, target: Path, features: Mapping[str, Any], **changed: Any) -> None:
        """Write info.json below `target`, with `features` at the end and other entries changed."""
        write_json(target / INFO, {**self.info.content, "features": {**self.info.features, **features}, **changed})


class RowKeys:
    """Episode and frame index of the rows of a data file, batch by batch."""

    def __init__(self, file: DataFile) -> None:
        self._file = file
        self._episode: int | None = None
        self._next_frame = 0  # for files without a column frame_index

    @staticmethod
    def columns(names: list[str]) -> list[str]:
        """The columns, of those in a file, that `runs` needs."""
        return [name for name in ("episode_index", "frame_index") if name in names]

    def runs(self, batch: pa.RecordBatch) -> Iterator[tuple[int, np.ndarray]]:
        """Neighbouring rows of one episode after the other, as (episode index, frame indices int64 (R,)).

        Raises ValueError where neither rows nor file name identify the episode.
        """
        names = batch.schema.names
        if "episode_index" in names:
            episodes = batch.column("episode_index").to_numpy(zero_copy_only=False)
        elif self._file.named_episode is not None:
            episodes = np.full(batch.num_rows, self._file.named_episode)
        else:
            raise _unidentified(self._file)
        edges = [0, *(np.flatnonzero(np.diff(episodes)) + 1).tolist(), batch.num_rows] if batch.num_rows else [0]
        for start, stop in pairwise(edges):
            episode = int(episodes[start])
            if episode != self._episode:
                self._episode = episode
                self._next_frame = 0
            frames = np.arange(self._next_frame, self._next_frame + stop - start)
            if "frame_index" in names:
                frames = batch.column("frame_index").slice(start, stop - start).to_numpy(zero_copy_only=False)
            self._next_frame += stop - start
            yield episode, frames


def find_root(source: str | os.PathLike[str]) -> Path:
    """The folder of a dataset, with links resolved. Raises ValueError for another folder."""
    root = Path(str(source).removeprefix("lerobot:"))
    if not (root / INFO).is_file():
        raise ValueError(
            f"{root}: no folder of a LeRobotDataset ({INFO} is missing). Fetch one from the Hub with: "
            "hf download user/name --repo-type dataset --local-dir FOLDER"
        )
    return root.resolve()


def read_info(root: Path) -> LeRobotInfo:
    """Read meta/info.json. Raises ValueError where it is invalid."""
    try:
        return LeRobotInfo.parse((root / INFO).read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{root.name}: not a LeRobotDataset ({INFO}: {error})") from error


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise ValueError, naming the parquet file, where it turns out to be damaged within the block."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system; damage is an OSError for Arrow
            raise
        raise ValueError(f"{name} cannot be read ({first_line(error)})") from error


def batches(file: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file, at most one row group at a time."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(_ROWS, row_groups=[group], columns=columns, use_threads=False)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object per line.

    Raises ValueError, naming file and line, for anything else.
    """
    for number, entry in read_json_lines(path, path.name):
        if isinstance(entry, ValueError):
            raise entry
        if not isinstance(entry, dict):
            raise ValueError(f"{path.name}, line {number}: {json.dumps(entry)[:40]}, not a JSON object")
        yield entry


def write_lines(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write a file with one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for entry in entries:
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, indented as LeRobot does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False), encoding="utf-8")


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, or files of equal bytes."""
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def _link(old: Path, new: Path) -> bool:
    """Hard-link a file; False where the file systems do not allow it."""
    try:
        os.link(old, new)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    return True


def _unidentified(file: DataFile) -> ValueError:
    return ValueError(f"{file.name}: no column episode_index in it, and its name is no episode's")


def _lengths(root: Path, names: frozenset[str], info: LeRobotInfo) -> dict[int, int]:
    """Count of frames by episode index, from the list of episodes."""
    try:
        if info.is_v3:
            tables = sorted(name for name in names if name.startswith(EPISODES_V3) and name.endswith(".parquet"))
            parts = [read_parquet(root / name, name, columns=["episode_index", "length"]) for name in tables]
            entries: Iterator[dict[str, Any]] = (entry for part in parts for entry in part.to_pylist())
        else:
            entries = read_lines(root / EPISODES_V2)
        rows = [(int(entry["episode_index"]), int(entry["length"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f"no {error} in an entry" if isinstance(error, KeyError) else first_line(error)
        raise ValueError(f"{root.name}: its list of episodes cannot be read ({reason})") from error
    if not rows or len(dict(rows)) < len(rows):
        raise ValueError(f"{root.name}: its list of episodes {'is empty' if not rows else 'has one of them twice'}")
    if negative := [row for row in rows if min(row) < 0]:
        raise ValueError(f"{root.name}: its list of episodes has episode {negative[0][0]} of {negative[0][1]} frames")
    return dict(rows)


def _data_files(root: Path, names: frozenset[str], info: LeRobotInfo, lengths: Mapping[int, int]) -> Iterator[DataFile]:
    """All parquet files below data/: LeRobot loads them all, so all must have the same columns."""
    named = _named_files(info, lengths)
    for name in sorted(name for name in names if name.startswith("data/") and name.endswith(".parquet")):
        unread = DataFile(name, (), named.get(name))
        with reading(f"{name} of {root.name}"):
            episodes = _check_rows(root, unread, lengths)
        yield DataFile(name, tuple(episodes), unread.named_episode)


def _named_files(info: LeRobotInfo, lengths: Mapping[int, int]) -> dict[str, int]:
    """The episode of each data file whose name contains the episode's index. Raises ValueError for other templates."""
    if info.is_v3 or "{episode_index" not in info.content["data_path"]:
        return {}
    return {info.data_file({"episode_index": episode}): episode for episode in lengths}


def _check_rows(root: Path, file: DataFile, lengths: Mapping[int, int]) -> list[int]:
    """The episodes of a file. Raises ValueError unless each has its frames 0, 1, 2, ... in order."""
    expected: dict[int, int] = {}  # the next frame of each episode
    keys = RowKeys(file)
    with pq.ParquetFile(root / file.name) as parquet:
        columns = RowKeys.columns(parquet.schema_arrow.names)
        if not columns:
            if file.named_episode is None:
                raise _unidentified(file)
            expected[file.named_episode] = parquet.metadata.num_rows
        for batch in batches(parquet, columns) if columns else ():
            for episode, frames in keys.runs(batch):
                first = expected.get(episode, 0)
                in_order = np.arange(first, first + len(frames))
                again = episode in expected and episode != next(reversed(expected))
                if again or not np.array_equal(frames, in_order):
                    raise ValueError(f"{file.name}: rows of episode {episode} are unsorted or duplicated")
                expected[episode] = first + len(frames)
    for episode, rows in expected.items():
        if episode in lengths and rows != lengths[episode]:
            raise ValueError(f"{file.name}: {rows} rows for episode {episode} of {lengths[episode]} frames")
    return list(expected)


def _check_lengths(root: Path, lengths: Mapping[int, int], data: tuple[DataFile, ...]) -> None:
    """Raises ValueError unless every listed episode has its rows, in one file only."""
    seen: set[int] = set()
    for file in data:
        if twice := seen & set(file.episodes):
            raise ValueError(f"{root.name}: episode {min(twice)} has rows in {file.name} and in another file")
        seen |= set(file.episodes)
    if missing := [episode for episode in lengths if episode not in seen]:
        raise ValueError(f"{root.name}: episode {missing[0]} is listed and has no rows in data/")
