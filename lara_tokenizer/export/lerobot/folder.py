"""A LeRobotDataset on this disk as something to add columns to: its version, episodes and rows, checked.

v2.x  data/chunk-000/episode_000000.parquet   one episode a file; meta/episodes.jsonl
v3.0  data/chunk-000/file-000.parquet         many episodes a file; meta/episodes/*/*.parquet
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.data.files import LocalFiles
from lara_tokenizer.errors import first_line

INFO = "meta/info.json"
EPISODES_V2, EPISODES_V3 = "meta/episodes.jsonl", "meta/episodes/"
_ROWS = 16_384  # in memory at a time; row groups that are larger are split


@dataclass(frozen=True, slots=True)
class DataFile:
    """One parquet file of rows.

    Fields:
        name: relative to the dataset.
        episodes: those that have their rows in it, in its order.
        alone: the episode whose file it is, by its name; None where the rows must say.
    """

    name: str
    episodes: tuple[int, ...]
    alone: int | None


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring rows of one episode: rows `start` to `stop` of a batch are its `frames`, int64 (R,)."""

    episode: int
    start: int
    stop: int
    frames: np.ndarray


@dataclass(frozen=True, slots=True)
class LeRobotFolder:
    """A dataset that was looked through: every listed episode has just its frames, in order, in one file.

    Fields:
        root: with links resolved.
        info: what meta/info.json says.
        version: "v2.0", "v2.1" or "v3.0".
        lengths: in frames, by episode, in the order of the list.
        data: the files of rows, by name.
        names: of all files, relative to the root.
    """

    root: Path
    info: dict[str, Any]
    version: str
    lengths: dict[int, int]
    data: tuple[DataFile, ...]
    names: frozenset[str]

    @classmethod
    def open(cls, source: str | Path) -> LeRobotFolder:
        """Look through a dataset. Raises ValueError for what is none, and for rows that are not as its list says."""
        root = find_root(source)
        info = read_info(root)
        version = dataset_version(info)
        if version not in ("v2.0", "v2.1", "v3.0"):
            raise ValueError(f"{root.name}: a LeRobotDataset {version}; v2.0, v2.1 and v3.0 are taken.")
        names = frozenset(LocalFiles(str(root)).names())
        lengths = _lengths(root, names, version)
        data = tuple(_data_files(root, names, info, lengths))
        _check_lengths(root, lengths, data)
        return cls(root, info, version, lengths, data, names)

    def fingerprint(self) -> dict[str, Any]:
        """On what a labelled copy depends beside the table, as plain JSON: names and sizes of all files, the rates."""
        digest = hashlib.sha256((self.root / INFO).read_bytes())
        for name in sorted(self.names):
            digest.update(f"{name}\0{(self.root / name).stat().st_size}\0".encode("utf-8", "backslashreplace"))
        return {"codebase_version": self.version, "files_sha256": digest.hexdigest()}

    def last_changes(self) -> dict[str, Any]:
        """When rows and metadata were written, hashed, for the job of an unfinished export: an edit may keep all sizes.
        A finished export does not tell it, as copies of one dataset have times of their own."""
        return {"dataset_times_sha256": hashlib.sha256(repr(sorted(self._times().items())).encode()).hexdigest()}

    def changed_since(self, time_ns: int) -> list[str]:
        """The files of rows and metadata that were written after a time, st_mtime_ns."""
        return sorted(name for name, written in self._times().items() if written > time_ns)

    def _times(self) -> dict[str, int]:
        names = (name for name in self.names if name.startswith(("data/", "meta/")))
        return {name: (self.root / name).stat().st_mtime_ns for name in names}


class RowKeys:
    """Tells, batch by batch, whose the rows of a data file are."""

    def __init__(self, file: DataFile) -> None:
        self._file = file
        self._episode: int | None = None
        self._next = 0  # frame, where the rows do not say

    @staticmethod
    def columns(names: list[str]) -> list[str]:
        """Which of a file's columns `runs` needs."""
        return [name for name in ("episode_index", "frame_index") if name in names]

    def runs(self, batch: pa.RecordBatch) -> Iterator[Run]:
        """The episodes of a batch of rows. Raises ValueError where neither rows nor file name say which."""
        names = batch.schema.names
        if "episode_index" in names:
            episodes = batch.column("episode_index").to_numpy(zero_copy_only=False)
        elif self._file.alone is not None:
            episodes = np.full(batch.num_rows, self._file.alone)
        else:
            raise ValueError(f"{self._file.name}: no column episode_index in it, and its name is no episode's")
        edges = [0, *(np.flatnonzero(np.diff(episodes)) + 1).tolist(), batch.num_rows] if batch.num_rows else [0]
        for start, stop in pairwise(edges):
            episode = int(episodes[start])
            if episode != self._episode:
                self._episode, self._next = episode, 0
            frames = np.arange(self._next, self._next + stop - start)
            if "frame_index" in names:
                frames = batch.column("frame_index").slice(start, stop - start).to_numpy(zero_copy_only=False)
            self._next += stop - start
            yield Run(episode, start, stop, frames)


def find_root(source: str | os.PathLike[str]) -> Path:
    """The folder of a dataset, with links resolved. Raises ValueError for one of something else."""
    root = Path(str(source).removeprefix("lerobot:"))
    if not (root / INFO).is_file():
        raise ValueError(
            f"{root}: no folder of a LeRobotDataset ({INFO} is missing). One of the Hub is fetched by: "
            "hf download user/name --repo-type dataset --local-dir FOLDER"
        )
    return root.resolve()


def batches(file: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file, at most one row group at a time."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(_ROWS, row_groups=[group], columns=columns, use_threads=False)


def dataset_version(info: Mapping[str, Any]) -> str:
    """LeRobot's version of the format, e.g. "v3.0", by what info.json says."""
    return "v" + str(info["codebase_version"]).removeprefix("v")


def read_info(root: Path) -> dict[str, Any]:
    """meta/info.json. Raises ValueError where it is none."""
    try:
        info = json.loads((root / INFO).read_text(encoding="utf-8"))
        if missing := [key for key in ("codebase_version", "features", "data_path", "fps") if key not in info]:
            raise ValueError(f"no {missing[0]!r} in it")
        return info
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{root.name}: no LeRobotDataset ({INFO}: {error})") from error


def _lengths(root: Path, names: frozenset[str], version: str) -> dict[int, int]:
    try:
        if version == "v3.0":
            tables = sorted(name for name in names if name.startswith(EPISODES_V3) and name.endswith(".parquet"))
            pieces = [pq.read_table(root / name, columns=["episode_index", "length"]) for name in tables]
            rows = [(row["episode_index"], row["length"]) for piece in pieces for row in piece.to_pylist()]
        else:
            lines = (root / EPISODES_V2).read_text(encoding="utf-8").split("\n")
            entries = [json.loads(line) for line in lines if line.strip()]
            rows = [(int(entry["episode_index"]), int(entry["length"])) for entry in entries]
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{root.name}: its list of episodes cannot be read ({first_line(error)})") from error
    if not rows or len(dict(rows)) < len(rows):
        raise ValueError(f"{root.name}: its list of episodes {'is empty' if not rows else 'has one of them twice'}")
    return dict(rows)


def _data_files(
    root: Path, names: frozenset[str], info: Mapping[str, Any], lengths: Mapping[int, int]
) -> Iterator[DataFile]:
    """All parquet below data/: LeRobot loads them all, so all must have the same columns."""
    alone: dict[str, int] = {}
    if "{episode_index" in info["data_path"]:
        size = int(info.get("chunks_size", 1000))
        alone = {info["data_path"].format(episode_chunk=e // size, episode_index=e): e for e in lengths}
    for name in sorted(name for name in names if name.startswith("data/") and name.endswith(".parquet")):
        unread = DataFile(name, (), alone.get(name))
        try:
            yield DataFile(name, tuple(_look_through(root, unread, lengths)), unread.alone)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{name} of {root.name} cannot be read ({first_line(error)})") from error


def _look_through(root: Path, file: DataFile, lengths: Mapping[int, int]) -> list[int]:
    """The episodes of a file, each with its frames 0, 1, 2, ... in order."""
    expected: dict[int, int] = {}  # the next frame of each episode
    keys = RowKeys(file)
    with pq.ParquetFile(root / file.name) as parquet:
        columns = RowKeys.columns(parquet.schema_arrow.names)
        if not columns:
            if file.alone is None:
                raise ValueError(f"{file.name}: no column episode_index in it, and its name is no episode's")
            expected[file.alone] = parquet.metadata.num_rows
        for batch in batches(parquet, columns) if columns else ():
            for run in keys.runs(batch):
                first = expected.get(run.episode, 0)
                wanted = np.arange(first, first + len(run.frames))
                again = run.episode in expected and run.episode != next(reversed(expected))
                if again or not np.array_equal(run.frames, wanted):
                    raise ValueError(f"{file.name}: rows of episode {run.episode} are out of order, or there twice")
                expected[run.episode] = first + len(run.frames)
    for episode, rows in expected.items():
        if episode in lengths and rows != lengths[episode]:
            raise ValueError(f"{file.name}: {rows} rows for episode {episode} of {lengths[episode]} frames")
    return list(expected)


def _check_lengths(root: Path, lengths: Mapping[int, int], data: tuple[DataFile, ...]) -> None:
    """Every listed episode has its rows, and in one file only."""
    seen: set[int] = set()
    for file in data:
        if twice := seen & set(file.episodes):
            raise ValueError(f"{root.name}: episode {min(twice)} has rows in {file.name} and in another file")
        seen |= set(file.episodes)
    if missing := [episode for episode in lengths if episode not in seen]:
        raise ValueError(f"{root.name}: episode {missing[0]} is listed and has no rows in data/")
