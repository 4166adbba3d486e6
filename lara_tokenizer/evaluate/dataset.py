"""Episodes with their actions, from a LeRobotDataset v3.0 folder that has one video file an episode and camera."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.data import Episode, load_episodes

CODEBASE_VERSION = "v3.0"


@dataclass(frozen=True, slots=True)
class ActionEpisode:
    """One episode: `actions` float64 (T, A), row t is what was done at frame t; `cameras` maps a name to its video."""

    index: int
    task: str  # the instruction
    actions: np.ndarray
    cameras: Mapping[str, Episode]


def load_action_episodes(folder: str | Path, limit: int | None = None) -> list[ActionEpisode]:
    """The episodes of a dataset folder, by number.

    >>> load_action_episodes("mw-heldout")[0].actions.shape  # doctest: +SKIP
    (93, 4)

    Raises ValueError for a folder that is no such dataset, or packs several episodes into one video.
    """
    folder = Path(folder)
    info_path = folder / "meta" / "info.json"
    if not info_path.exists():
        raise ValueError(f"{folder} has no meta/info.json: takes a LeRobotDataset {CODEBASE_VERSION} folder.")
    info = json.loads(info_path.read_text(encoding="utf-8"))
    if info.get("codebase_version") != CODEBASE_VERSION:
        raise ValueError(f"{folder} is a LeRobotDataset {info.get('codebase_version')}; takes {CODEBASE_VERSION}.")
    cameras = [
        key for key, feature in info["features"].items() if feature["dtype"] == "video" and ".images." in f".{key}"
    ]
    actions = _actions(folder)
    rows = _read_all(folder / "meta" / "episodes").to_pylist()
    seen: set[str] = set()
    episodes = []
    for row in sorted(rows, key=lambda row: row["episode_index"])[:limit]:
        videos = {camera: _video(folder, info, camera, row) for camera in cameras}
        if seen & set(videos.values()):
            raise ValueError(f"{folder} packs several episodes into one video; takes one file an episode and camera.")
        seen |= set(videos.values())
        number = row["episode_index"]
        opened = {camera: load_episodes(path, fps=info["fps"])[0] for camera, path in videos.items()}
        episodes.append(ActionEpisode(number, "; ".join(row["tasks"]), actions[number], opened))
    return episodes


def _video(folder: Path, info: Mapping[str, Any], camera: str, row: Mapping[str, Any]) -> str:
    numbers = {name: row[f"videos/{camera}/{name}"] for name in ("chunk_index", "file_index")}
    return str(folder / info["video_path"].format(video_key=camera, **numbers))


def _actions(folder: Path) -> dict[int, np.ndarray]:
    table = _read_all(folder / "data", columns=["episode_index", "frame_index", "action"]).sort_by(
        [("episode_index", "ascending"), ("frame_index", "ascending")]
    )
    grouped: dict[int, list[Any]] = defaultdict(list)
    for episode, action in zip(table["episode_index"].to_pylist(), table["action"].to_pylist(), strict=True):
        grouped[episode].append(action)
    return {episode: np.asarray(rows, np.float64).reshape(len(rows), -1) for episode, rows in grouped.items()}


def _read_all(folder: Path, columns: list[str] | None = None) -> pa.Table:
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise ValueError(f"{folder} holds no parquet file: the dataset is not finished.")
    return pa.concat_tables([pq.read_table(file, columns=columns) for file in files])
