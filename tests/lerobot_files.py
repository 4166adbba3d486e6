"""LeRobotDatasets v2.1 and v3.0 as the format's specification has them, written without lerobot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Clip = np.ndarray | Path  # uint8 (T, H, W, 3), or an mp4 to copy

PATHS = {
    "v3.0": (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    ),
    "v2.1": (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    ),
}


@dataclass(frozen=True)
class Layout:
    """One dataset to write; all lists are by episode. States are optional."""

    root: Path
    version: str
    fps: float
    lengths: list[int]
    vectors: dict[str, list[np.ndarray]]
    tasks: list[str]

    @property
    def is_v3(self) -> bool:
        return self.version == "v3.0"

    @property
    def offsets(self) -> np.ndarray:
        """First row of each episode in the whole dataset."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @property
    def known_tasks(self) -> list[str]:
        return list(dict.fromkeys(self.tasks))

    def rows(self, episode: int) -> dict:
        """Columns of one episode's data."""
        length = self.lengths[episode]
        return {
            **{name: list(values[episode]) for name, values in self.vectors.items()},
            "timestamp": (np.arange(length) / self.fps).astype("f4"),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, episode),
            "index": self.offsets[episode] + np.arange(length),
            "task_index": np.full(length, self.known_tasks.index(self.tasks[episode])),
        }

    def entry(self, episode: int) -> dict:
        """One episode's row in the metadata."""
        length, task = self.lengths[episode], self.tasks[episode]
        data = {"data/chunk_index": 0, "data/file_index": 0}
        return {"episode_index": episode, "tasks": [task], "length": length, **data}


def write_lerobot(
    root: Path,
    clips: dict[str, list[Clip]],
    write_video: Callable[..., Path],
    *,
    version: str = "v3.0",
    fps: float = 10,
    kind: str = "video",
    lengths: list[int] | None = None,
    actions: list[np.ndarray] | None = None,
    states: list[np.ndarray] | None = None,
    tasks: list[str] | None = None,
    **video: object,
) -> Path:
    """Write a dataset of `clips[camera][episode]` to `root`.

    v3.0 keeps all episodes of a camera in one mp4, encoded in one go (copied clips in one each); kind "image" keeps PNG
    in the data. `video` are keywords of `write_video`.
    """
    first = next(iter(clips.values()))
    lengths = lengths or [len(clip) for clip in first]
    actions = actions or [np.random.default_rng(e).normal(size=(n, 3)).astype("f4") for e, n in enumerate(lengths)]
    vectors = {"action": actions} | ({"observation.state": states} if states else {})
    layout = Layout(root, version, fps, lengths, vectors, tasks or ["push"] * len(lengths))
    rows = [layout.rows(episode) for episode in range(len(lengths))]
    entries = [layout.entry(episode) for episode in range(len(lengths))]
    (root / "meta").mkdir(parents=True)
    for camera, episodes in clips.items():
        if kind == "image":
            for table, frames in zip(rows, episodes, strict=True):
                table[camera] = [{"bytes": _png(frame), "path": None} for frame in frames]
        else:
            _write_videos(
                layout, camera, episodes, entries, lambda file, frames: write_video(file, frames, fps=fps, **video)
            )
    (_write_v3 if layout.is_v3 else _write_v2)(layout, rows, entries)
    _write_info(layout, {camera: {"dtype": kind, "shape": [48, 64, 3], "names": None} for camera in clips})
    return root


def read_numbers(frames: np.ndarray) -> list[int]:
    """The numbers that the fixture `numbered_frames` drew into decoded frames."""
    edges = [bit * frames.shape[2] // 10 for bit in range(11)]
    bright = [frames[:, 2:6, left + 2 : right - 2].mean((1, 2, 3)) > 125 for left, right in pairwise(edges)]
    return sum(is_set.astype(int) << bit for bit, is_set in enumerate(bright)).tolist()


def edit_episodes(root: Path, edit: Callable[[list[dict]], list[dict] | None]) -> None:
    """Rewrite the episodes of the metadata: `edit` changes a list of rows, or returns another one."""
    file = root / "meta/episodes/chunk-000/file-000.parquet"
    if file.exists():
        rows = pq.read_table(file).to_pylist()
        pq.write_table(pa.Table.from_pylist(edit(rows) or rows), file)
    else:
        file = root / "meta/episodes.jsonl"
        rows = [json.loads(line) for line in file.read_text().split("\n") if line]
        _write_lines(file, edit(rows) or rows)


def edit_info(root: Path, **changes: object) -> None:
    """Change entries of meta/info.json."""
    file = root / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _write_videos(
    layout: Layout, camera: str, episodes: list[Clip], entries: list[dict], write: Callable[[Path, np.ndarray], Path]
) -> None:
    """The mp4s of one camera, and in v3.0 where each episode begins and ends in them."""
    copied = isinstance(episodes[0], Path)
    folder = layout.root / f"videos/{camera}/chunk-000"
    if layout.is_v3 and not copied:
        write(folder / "file-000.mp4", np.concatenate(episodes))
    for episode, clip in enumerate(episodes):
        index = episode if copied else 0
        file = folder / f"file-{index:03d}.mp4"
        if layout.is_v3:
            start = 0.0 if copied else layout.offsets[episode] / layout.fps
            prefix = f"videos/{camera}"
            entries[episode] |= {f"{prefix}/chunk_index": 0, f"{prefix}/file_index": index}
            entries[episode] |= {f"{prefix}/from_timestamp": start}
            entries[episode] |= {f"{prefix}/to_timestamp": start + layout.lengths[episode] / layout.fps}
        else:
            file = layout.root / f"videos/chunk-000/{camera}/episode_{episode:06d}.mp4"
        if copied:
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(clip, file)
        elif not layout.is_v3:
            write(file, clip)


def _write_v3(layout: Layout, rows: list[dict], entries: list[dict]) -> None:
    root, known = layout.root, layout.known_tasks
    (root / "data/chunk-000").mkdir(parents=True)
    pq.write_table(pa.concat_tables([pa.table(table) for table in rows]), root / "data/chunk-000/file-000.parquet")
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(entries), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": range(len(known)), "task": known}), root / "meta/tasks.parquet")


def _write_v2(layout: Layout, rows: list[dict], entries: list[dict]) -> None:
    root = layout.root
    (root / "data/chunk-000").mkdir(parents=True)
    for episode, table in enumerate(rows):
        pq.write_table(pa.table(table), root / f"data/chunk-000/episode_{episode:06d}.parquet")
    keys = ("episode_index", "tasks", "length")
    _write_lines(root / "meta/episodes.jsonl", [{key: entry[key] for key in keys} for entry in entries])
    tasks = [{"task_index": index, "task": task} for index, task in enumerate(layout.known_tasks)]
    _write_lines(root / "meta/tasks.jsonl", tasks)


def _write_lines(file: Path, values: list[dict]) -> None:
    file.write_text("\n".join(json.dumps(value) for value in values) + "\n")


def _write_info(layout: Layout, features: dict[str, dict]) -> None:
    data_path, video_path = PATHS["v3.0" if layout.is_v3 else "v2.1"]
    for name, values in layout.vectors.items():
        features[name] = {"dtype": "float32", "shape": [values[0].shape[1]], "names": None}
    features["task_index"] = {"dtype": "int64"}
    info = {
        "codebase_version": layout.version,
        "fps": layout.fps,
        "total_episodes": len(layout.lengths),
        "chunks_size": 1000,
        "data_path": data_path,
        "video_path": video_path,
        "features": features,
    }
    (layout.root / "meta/info.json").write_text(json.dumps(info))


def _png(frame: np.ndarray) -> bytes:
    sink = BytesIO()
    Image.fromarray(frame).save(sink, "PNG")
    return sink.getvalue()
