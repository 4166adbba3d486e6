"""`meta/info.json` of a LeRobotDataset, and the file names that follow from it, for reading and writing.

v2.x  meta/episodes.jsonl        meta/tasks.jsonl      one parquet and one mp4 per camera for each episode
v3.0  meta/episodes/*/*.parquet  meta/tasks.parquet    many episodes per parquet and per mp4
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INFO = "meta/info.json"
EPISODES_V2, EPISODES_V3 = "meta/episodes.jsonl", "meta/episodes/"
TASKS_V2, TASKS_V3 = "meta/tasks.jsonl", "meta/tasks.parquet"

# File names of the version that is written.
CODEBASE_VERSION = "v3.0"
CHUNK_SIZE = 1000  # most files in one folder
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
INDEX_FEATURES = {  # columns that LeRobot expects in every dataset
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """The part of a video file that belongs to one episode; times are in seconds from the file's first frame."""

    file: str
    start: float | None = None  # LeRobot's from_timestamp; None where the file contains only this episode
    stop: float | None = None  # LeRobot's to_timestamp


@dataclass(frozen=True, slots=True)
class LeRobotInfo:
    """Content of `meta/info.json`, checked as far as reading needs it."""

    version: str  # version of the dataset format, such as "v2.1"
    fps: float
    features: Mapping[str, Any]  # description of each column and camera, by key
    content: Mapping[str, Any]  # the whole file

    @classmethod
    def parse(cls, text: str) -> LeRobotInfo:
        """Read the JSON text. Raises ValueError and TypeError for content that is not a LeRobotDataset's.

        >>> text = '{"codebase_version": "2.1", "fps": 10, "features": {}, "data_path": "data.parquet"}'
        >>> LeRobotInfo.parse(text).version
        'v2.1'
        """
        content = json.loads(text)
        if missing := [key for key in ("codebase_version", "fps", "features", "data_path") if key not in content]:
            raise ValueError(f"no {missing[0]!r} in it")
        if not 0 < float(content["fps"]) < math.inf:
            raise ValueError(f"fps {content['fps']!r}: takes frames per second above 0")
        version = "v" + str(content["codebase_version"]).removeprefix("v")
        return cls(version, float(content["fps"]), content["features"], content)

    @property
    def is_v3(self) -> bool:
        return self.version.startswith("v3")

    @property
    def is_supported(self) -> bool:
        """Whether it is a version 2 or 3."""
        return self.version.startswith(("v2", "v3"))

    @property
    def tasks_file(self) -> str:
        """Name of the file with the instruction of each task index."""
        return TASKS_V3 if self.is_v3 else TASKS_V2

    def is_camera(self, key: str) -> bool:
        """Whether a feature of images or video is a colour camera by its name and description, not a mask or depth."""
        feature = self.features[key]
        description = {**(feature.get("info") or {}), **(feature.get("video_info") or {})}
        is_depth = any(description.get(name) for name in ("video.is_depth_map", "is_depth_map"))
        return not is_depth and not {"mask", "masks", "depth"} & set(key.split("."))

    def data_file(self, entry: Mapping[str, Any]) -> str:
        """Name of the parquet file with the rows of an episode; `entry` is the episode's row of the metadata."""
        if not self.is_v3:
            return self._format_v2("data_path", entry)
        return self.content["data_path"].format(
            chunk_index=entry["data/chunk_index"], file_index=entry["data/file_index"]
        )

    def video_span(self, camera: str, entry: Mapping[str, Any]) -> VideoSpan | None:
        """File and time range of a camera's frames of an episode; None where images are in the data's own column."""
        if self.features[camera]["dtype"] == "image":
            return None
        if not self.is_v3:
            return VideoSpan(self._format_v2("video_path", entry, video_key=camera))
        prefix = f"videos/{camera}/"
        indices = {key: entry.get(f"{prefix}{key}") for key in ("chunk_index", "file_index")}
        if None in indices.values():
            # Not an error yet: only a selected episode and camera need it, and then this name is in the message.
            episode_index = int(entry["episode_index"])
            return VideoSpan(f"{prefix}(episode {episode_index} has no entry in meta/episodes)", 0.0, 0.0)
        return VideoSpan(
            self.content["video_path"].format(video_key=camera, **indices),
            entry[f"{prefix}from_timestamp"],
            entry[f"{prefix}to_timestamp"],
        )

    def _format_v2(self, template: str, entry: Mapping[str, Any], **values: Any) -> str:
        episode_index = int(entry["episode_index"])
        chunk = episode_index // int(self.content.get("chunks_size", CHUNK_SIZE))
        return self.content[template].format(episode_chunk=chunk, episode_index=episode_index, **values)


def new_info(
    features: Mapping[str, Any], *, fps: int, robot_type: str | None, episodes: int, frames: int, tasks: int
) -> dict[str, Any]:
    """Content of `meta/info.json` for a dataset with one video file per episode and all rows in one parquet file."""
    return {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": robot_type,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNK_SIZE,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": dict(features),
    }


def video_feature(height: int, width: int, fps: int, pixel_format: str) -> dict[str, Any]:
    """Description of an H.264 camera in the features of `meta/info.json`."""
    return {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": pixel_format,
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
        },
    }
