"""LeRobotDataset v2.0, v2.1 and v3.0, from a folder or the Hub: what episodes and cameras there are.

    v2.x  meta/info.json  episodes.jsonl  tasks.jsonl            one parquet and one mp4 a camera for each episode
    v3.0  meta/info.json  episodes/*/*.parquet  tasks.parquet    many episodes in one parquet, and in one mp4

Only metadata is read here. What info.json says and the folder does not hold is said, not believed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.data.dataset_files import Files, LocalFiles, open_hub
from lara_tokenizer.data.episode import Episode
from lara_tokenizer.data.lerobot.reader import TASKS_V2, TASKS_V3, DataRows, LeRobotReader, VideoSpan
from lara_tokenizer.data.listing import Found, choose_cameras, last_part
from lara_tokenizer.data.names import ACTIONS, STATES, first_of
from lara_tokenizer.errors import EpisodeReadError, first_line

INFO = "meta/info.json"
_EPISODES_V2, _EPISODES_V3 = "meta/episodes.jsonl", "meta/episodes/"


@dataclass(frozen=True, slots=True)
class _Row:
    """An episode as the metadata has it."""

    number: int
    length: int
    tasks: tuple[str, ...]
    entry: dict[str, Any]


def is_lerobot(folder: Path) -> bool:
    """Whether a folder holds a LeRobotDataset."""
    return (folder / INFO).is_file()


def find_lerobot(source: str | Path, *, cameras: Sequence[str] = (), decoder: str = "pyav") -> Found:
    """List the episodes of a dataset: a folder, or "user/name" on the Hub, of which only metadata is fetched now.

    `cameras` are feature keys, their last parts or "all"; none given takes the first one that has files. Ids are
    "episode_000000" and so on. Raises ValueError for what is no such dataset, is empty, or lacks a camera.

    >>> find_lerobot("demos").episodes[0].id  # doctest: +SKIP
    'episode_000000'
    """
    local = Path(source)
    files: Files
    if local.is_dir():
        local_files = LocalFiles(str(local.absolute()))
        files, names, name, revision = local_files, local_files.names(), local.absolute().name, None
    else:
        hub, names = open_hub(str(source))
        files, name, revision = hub, hub.repo_id, hub.revision
    try:
        return _Dataset(files, names, name).find(cameras, decoder, revision)
    except (KeyError, IndexError, TypeError, AttributeError, ArithmeticError) as error:
        # info.json and what it leads to come from anybody's scripts.
        raise ValueError(
            f"{name}: its metadata makes no sense ({type(error).__name__}: {first_line(error)})"
        ) from error


class _Dataset:
    """The metadata of one dataset, opened."""

    def __init__(self, files: Files, names: set[str], name: str) -> None:
        self.files, self.names, self.name = files, names, name
        self.notes: list[str] = []
        self.info = self._load_info()
        version = str(self.info["codebase_version"])
        self.version = version if version.startswith("v") else f"v{version}"
        self.is_v3 = self.version.startswith("v3")
        if not self.is_v3 and not self.version.startswith("v2"):
            raise ValueError(
                f"{name}: a LeRobotDataset {self.version}; v2.0, v2.1 and v3.0 are read. Convert it with lerobot"
            )

    def find(self, cameras: Sequence[str], decoder: str, revision: str | None) -> Found:
        rows = self._rows_v3() if self.is_v3 else self._rows_v2()
        if not rows:
            wrong = f" ({'; '.join(self.notes)})" if self.notes else ""
            raise ValueError(f"{self.name}: a LeRobotDataset {self.version} without an episode{wrong}; is it finished?")
        if (promised := self.info.get("total_episodes", len(rows))) != len(rows):
            self.notes.append(f"{INFO} promises {promised} episodes, {len(rows)} are listed")
        chosen = self._cameras(rows, cameras)
        columns = self._signal_columns()
        episodes = [
            Episode(
                id=f"episode_{row.number:06d}",
                reader=LeRobotReader(
                    self.files,
                    row.number,
                    row.length,
                    float(self.info["fps"]),
                    {camera: self._span(camera, row) for camera in chosen},
                    DataRows(self._data_file(row), self.is_v3, columns),
                    decoder,
                ),
                cameras=chosen,
                index=row.number,
                text="; ".join(row.tasks) or None,
                offers=tuple(signal for signal, _ in columns),
            )
            for row in sorted(rows, key=lambda row: row.number)
        ]
        return Found(f"LeRobotDataset {self.version}", self.name, episodes, self.notes, revision)

    def _load_info(self) -> dict[str, Any]:
        try:
            info = json.loads(self.files.path(INFO).read_text(encoding="utf-8"))
            needed = ("codebase_version", "fps", "features", "data_path")
            if missing := [key for key in needed if key not in info]:
                raise ValueError(f"no {missing[0]!r} in it")
            if not 0 < float(info["fps"]) < math.inf:
                raise ValueError(f"fps {info['fps']!r}: takes frames per second above 0")
            return info
        except (EpisodeReadError, OSError, ValueError, TypeError) as error:
            raise ValueError(f"{self.name}: no LeRobotDataset ({INFO}: {error})") from error

    def _rows_v2(self) -> list[_Row]:
        try:
            lines = self.files.path(_EPISODES_V2).read_text(encoding="utf-8").split("\n")
        except (EpisodeReadError, OSError) as error:
            raise ValueError(f"{self.name}: {error}") from error
        rows = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                rows.append(_row(entry))
            except (ValueError, KeyError, TypeError):
                self.notes.append(f"{_EPISODES_V2}, line {number} cannot be read; that episode is left out")
        return rows

    def _rows_v3(self) -> list[_Row]:
        tables = sorted(name for name in self.names if name.startswith(_EPISODES_V3) and name.endswith(".parquet"))
        rows = []
        for name in tables:
            try:
                path = self.files.path(name)
                # Statistics of each episode make up most of these files.
                columns = [column for column in pq.read_schema(path).names if not column.startswith("stats/")]
                entries = pq.read_table(path, columns=columns).to_pylist()
                rows += [_row(entry) for entry in entries]
            except (EpisodeReadError, pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
                self.notes.append(f"{name} cannot be read ({first_line(error)}); its episodes are left out")
        if not rows and self.notes:
            raise ValueError(f"{self.name}: {'; '.join(self.notes)}")
        return rows

    def _cameras(self, rows: Sequence[_Row], asked: Sequence[str]) -> tuple[str, ...]:
        """The cameras to read. Masks and depth are pictures too; they are read only when they are named."""
        features: dict[str, Any] = self.info["features"]
        pictures = [key for key, feature in features.items() if feature.get("dtype") in ("video", "image")]
        empty = [key for key in pictures if features[key]["dtype"] == "video" and not self._has_files(key, rows)]
        for key in empty:
            if key in asked or last_part(key) in asked:
                raise ValueError(f"{self.name}: camera {key!r} is named in {INFO}, but there are no files of it")
            self.notes.append(f"{INFO} names camera {key!r}, but there are no files of it")
        there = [key for key in pictures if key not in empty]
        named = [key for key in there if key in asked]
        cameras, notes = choose_cameras(
            [key for key in there if key in named or self._is_camera(key)], asked, self.name
        )
        self.notes += notes
        return cameras

    def _is_camera(self, key: str) -> bool:
        feature = self.info["features"][key]
        facts = {**(feature.get("info") or {}), **(feature.get("video_info") or {})}
        is_depth = any(facts.get(name) for name in ("video.is_depth_map", "is_depth_map"))
        return not is_depth and not {"mask", "masks", "depth"} & set(key.split("."))

    def _has_files(self, camera: str, rows: Sequence[_Row]) -> bool:
        return any((span := self._span(camera, row)) is not None and span.file in self.names for row in rows)

    def _span(self, camera: str, row: _Row) -> VideoSpan | None:
        """Where a camera's frames of an episode lie; None for pictures in the data."""
        if self.info["features"][camera]["dtype"] == "image":
            return None
        if not self.is_v3:
            return VideoSpan(self._format("video_path", row, video_key=camera))
        prefix = f"videos/{camera}/"
        place = {key: row.entry.get(f"{prefix}{key}") for key in ("chunk_index", "file_index")}
        if None in place.values():
            return VideoSpan(f"{prefix}(episode {row.number} has no entry in meta/episodes)", 0.0, 0.0)
        return VideoSpan(
            self.info["video_path"].format(video_key=camera, **place),
            row.entry[f"{prefix}from_timestamp"],
            row.entry[f"{prefix}to_timestamp"],
        )

    def _data_file(self, row: _Row) -> str:
        if not self.is_v3:
            return self._format("data_path", row)
        return self.info["data_path"].format(
            chunk_index=row.entry["data/chunk_index"], file_index=row.entry["data/file_index"]
        )

    def _format(self, template: str, row: _Row, **values: Any) -> str:
        chunk = row.number // int(self.info.get("chunks_size", 1000))
        return self.info[template].format(episode_chunk=chunk, episode_index=row.number, **values)

    def _signal_columns(self) -> tuple[tuple[str, str], ...]:
        features = self.info["features"]
        columns = [
            (signal, name)
            for signal, published in (("actions", ACTIONS), ("states", STATES))
            if (name := first_of(published, features)) is not None
        ]
        if "task_index" in features and (TASKS_V3 if self.is_v3 else TASKS_V2) in self.names:
            columns.append(("text", "task_index"))
        return tuple(columns)


def _row(entry: dict[str, Any]) -> _Row:
    """Raises KeyError, ValueError and TypeError."""
    tasks = tuple(str(task) for task in entry.get("tasks") or () if task is not None)
    return _Row(int(entry["episode_index"]), int(entry["length"]), tasks, entry)


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of a Hub id.

    >>> is_hub_id("lerobot/pusht"), is_hub_id("a/b@v2.1"), is_hub_id("data/sets/x"), is_hub_id("pusht")
    (True, True, False, False)
    """
    parts = text.partition("@")[0].split("/")
    return len(parts) == 2 and all(part and part[0] not in ".~" for part in parts)
