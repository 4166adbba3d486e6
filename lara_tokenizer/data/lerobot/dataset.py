"""Listing of LeRobotDataset v2.0, v2.1 and v3.0, from a folder or the Hub. Reads metadata only.

Entries of the metadata without a file are reported in notes and ignored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.data.dataset_files import DatasetFiles, LocalFiles, open_hub
from lara_tokenizer.data.episode import ACTIONS, STATES, Episode, first_of
from lara_tokenizer.data.lerobot.info import EPISODES_V2, EPISODES_V3, INFO, LeRobotInfo
from lara_tokenizer.data.lerobot.reader import DataRows, LeRobotReader
from lara_tokenizer.data.listing import DEFAULT_OPTIONS, Listing, ListOptions, choose_cameras, last_part
from lara_tokenizer.errors import EpisodeReadError, first_line

LOOKED_FOR = f"{INFO} (LeRobotDataset)"


def detect(folder: Path, names: Set[str]) -> bool:
    """Whether a folder holds a LeRobotDataset."""
    return "meta" in names and (folder / INFO).is_file()


def list_episodes(source: str, options: ListOptions = DEFAULT_OPTIONS) -> Listing:
    """List the episodes of a folder, or of "user/name" on the Hub, of which only metadata is downloaded now.

    Cameras are feature keys; by default the first one that has files is taken. Ids are "episode_000000" and so on.
    Raises ValueError for a source that is not such a dataset, is empty, or lacks a camera.

    >>> list_episodes("demos").episodes[0].id  # doctest: +SKIP
    'episode_000000'
    """
    folder = Path(source)
    files: DatasetFiles
    if folder.is_dir():
        local = LocalFiles(str(folder.absolute()))
        files, names, name, revision = local, local.names(), folder.absolute().name, None
    else:
        hub, names = open_hub(source)
        files, name, revision = hub, hub.repo_id, hub.revision
    try:
        return _Dataset(files, names, name).list_episodes(options, revision)
    except (KeyError, IndexError, TypeError, AttributeError, ArithmeticError) as error:
        # Metadata is often written by custom scripts, so any of its fields may have a wrong type.
        raise ValueError(f"{name}: its metadata is invalid ({type(error).__name__}: {first_line(error)})") from error


@dataclass(frozen=True, slots=True)
class _EpisodeEntry:
    """One episode of the metadata; `entry` is its whole row."""

    episode_index: int
    length: int
    tasks: tuple[str, ...]
    entry: dict[str, Any]

    @classmethod
    def parse(cls, entry: dict[str, Any]) -> _EpisodeEntry:
        """An entry from its row. Raises KeyError, ValueError and TypeError."""
        tasks = tuple(str(task) for task in entry.get("tasks") or () if task is not None)
        return cls(int(entry["episode_index"]), int(entry["length"]), tasks, entry)


class _Dataset:
    """The opened metadata of one dataset."""

    def __init__(self, files: DatasetFiles, names: set[str], name: str) -> None:
        self.files = files
        self.names = names
        self.name = name
        self.notes: list[str] = []
        if INFO not in names:
            raise ValueError(f"{name}: not a LeRobotDataset: {INFO} is missing")
        try:
            self.info = LeRobotInfo.parse(files.path(INFO).read_text(encoding="utf-8"))
        except EpisodeReadError as error:
            raise ValueError(f"{name}: {error}") from error
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{name}: not a LeRobotDataset: {INFO}: {error}") from error
        self.version = self.info.version
        if not self.info.is_supported:
            raise ValueError(
                f"{name}: a LeRobotDataset {self.version}; v2.0, v2.1 and v3.0 are read. Convert it with lerobot"
            )

    def list_episodes(self, options: ListOptions, revision: str | None) -> Listing:
        entries = self._entries_v3() if self.info.is_v3 else self._entries_v2()
        if not entries:
            reason = f" ({'; '.join(self.notes)})" if self.notes else ""
            raise ValueError(
                f"{self.name}: a LeRobotDataset {self.version} without an episode{reason}; is it finished?"
            )
        if (promised := self.info.content.get("total_episodes", len(entries))) != len(entries):
            self.notes.append(f"{INFO} promises {promised} episodes, {len(entries)} are listed")
        cameras = self._cameras(entries, options.cameras)
        columns = self._signal_columns()
        episodes = [
            Episode(
                id=f"episode_{each.episode_index:06d}",
                reader=LeRobotReader(
                    self.files,
                    each.episode_index,
                    each.length,
                    self.info.fps,
                    {camera: self.info.video_span(camera, each.entry) for camera in cameras},
                    DataRows(self.info.data_file(each.entry), self.info.is_v3, columns),
                    options.decoder,
                ),
                cameras=cameras,
                index=each.episode_index,
                text="; ".join(each.tasks) or None,
                available_signals=tuple(signal for signal, _ in columns),
            )
            for each in sorted(entries, key=lambda each: each.episode_index)
        ]
        return Listing(f"LeRobotDataset {self.version}", self.name, episodes, self.notes, revision)

    def _entries_v2(self) -> list[_EpisodeEntry]:
        try:
            lines = self.files.path(EPISODES_V2).read_text(encoding="utf-8").split("\n")
        except (EpisodeReadError, OSError) as error:
            raise ValueError(f"{self.name}: {error}") from error
        entries = []
        for line_number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entries.append(_EpisodeEntry.parse(json.loads(line)))
            except (ValueError, KeyError, TypeError):
                self.notes.append(f"{EPISODES_V2}, line {line_number} cannot be read; that episode is left out")
        return entries

    def _entries_v3(self) -> list[_EpisodeEntry]:
        tables = sorted(name for name in self.names if name.startswith(EPISODES_V3) and name.endswith(".parquet"))
        entries = []
        for name in tables:
            try:
                path = self.files.path(name)
                # Per-episode statistics make up most of these files, and are not needed.
                columns = [column for column in pq.read_schema(path).names if not column.startswith("stats/")]
                entries += [_EpisodeEntry.parse(row) for row in pq.read_table(path, columns=columns).to_pylist()]
            except (EpisodeReadError, pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
                self.notes.append(f"{name} cannot be read ({first_line(error)}); its episodes are left out")
        if not entries and self.notes:
            raise ValueError(f"{self.name}: {'; '.join(self.notes)}")
        return entries

    def _cameras(self, entries: Sequence[_EpisodeEntry], requested: Sequence[str]) -> tuple[str, ...]:
        """The cameras to read. Masks and depth maps are stored like cameras; they are read only when named."""
        features = self.info.features
        keys = [key for key, feature in features.items() if feature.get("dtype") in ("video", "image")]
        existing = []
        for key in keys:
            if self._has_files(key, entries):
                existing.append(key)
                continue
            if key in requested or last_part(key) in requested:
                raise ValueError(f"{self.name}: camera {key!r} is named in {INFO}, but there are no files of it")
            self.notes.append(f"{INFO} names camera {key!r}, but there are no files of it")
        available = [key for key in existing if key in requested or self.info.is_camera(key)]
        cameras, notes = choose_cameras(available, requested, self.name)
        self.notes += notes
        return cameras

    def _has_files(self, camera: str, entries: Sequence[_EpisodeEntry]) -> bool:
        spans = (self.info.video_span(camera, each.entry) for each in entries)
        return any(span is None or span.file in self.names for span in spans)

    def _signal_columns(self) -> tuple[tuple[str, str], ...]:
        """The column of each available signal, as (signal, column)."""
        columns = [
            (signal, column)
            for signal, names in (("actions", ACTIONS), ("states", STATES))
            if (column := first_of(names, self.info.features)) is not None
        ]
        if "task_index" in self.info.features and self.info.tasks_file in self.names:
            columns.append(("text", "task_index"))
        return tuple(columns)
