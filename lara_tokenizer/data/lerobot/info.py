"""`meta/info.json` of a LeRobotDataset, and the file names that follow from it, for reading and writing.

v2.x  meta/episodes.jsonl        meta/tasks.jsonl      one parquet and one mp4 per camera for each episode
v3.0  meta/episodes/*/*.parquet  meta/tasks.parquet    many episodes per parquet and per mp4
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lara_tokenizer._parse import format_template, load_json
from lara_tokenizer.data.dataset_files import checked_name
from lara_tokenizer.data.lerobot.spans import VideoSpan
from lara_tokenizer.data.listing import is_color_camera
from lara_tokenizer.errors import EpisodeReadError, printable

INFO = "meta/info.json"
EPISODES_V2, EPISODES_V3 = "meta/episodes.jsonl", "meta/episodes/"
TASKS_V2, TASKS_V3 = "meta/tasks.jsonl", "meta/tasks.parquet"

LARGEST_INDEX = 2**63 - 1  # of an int64 column
_SLOWEST, _FASTEST = 1e-3, 100_000  # frames per second that anybody records
_MOST_CAMERAS = 256
_MOST_NAMES, _LONGEST_NAME_OF_NUMBER = 4096, 80  # of the numbers of one column; characters
_LONGEST_NAME = 1000  # characters of a path; file systems take up to 4,096 bytes
_VERSION = re.compile(r"v([0-9]{1,4})(\.[0-9]{1,4})*")
_VISUAL = ("video", "image")
# ffmpeg's names: gray12le, yuv420p10le, p010le, gray16be, grayf32le.
_DEEP_PIXELS = re.compile(r"(9|1[0-6]|f32)(le|be)$")

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
class LeRobotInfo:
    """Content of `meta/info.json`, checked as far as reading needs it."""

    version: str  # version of the dataset format, such as "v2.1"
    fps: float
    features: Mapping[str, Any]  # description of each column and camera, by key
    content: Mapping[str, Any]  # the whole file

    @classmethod
    def parse(cls, text: str | bytes) -> LeRobotInfo:
        """Read the JSON text. Raises ValueError for content that is not a LeRobotDataset's.

        >>> text = '{"codebase_version": "2.1", "fps": 10, "features": {}, "data_path": "data.parquet"}'
        >>> LeRobotInfo.parse(text).version
        'v2.1'
        """
        try:
            return cls.check(load_json(text, INFO))
        except ValueError as error:
            raise ValueError(str(error).removeprefix(f"{INFO}: ")) from error

    @classmethod
    def check(cls, content: Any) -> LeRobotInfo:
        """The info of a parsed file. Raises ValueError for content that is not a LeRobotDataset's."""
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
        if missing := [key for key in ("codebase_version", "fps", "features", "data_path") if key not in content]:
            raise ValueError(f"no {missing[0]!r} in it")
        if not isinstance(content["features"], dict):
            raise ValueError(f"features {_short(content['features'])}: takes an object with a description by key")
        version = "v" + str(content["codebase_version"]).removeprefix("v")
        info = cls(version, _frame_rate(content["fps"]), content["features"], content)
        if info.is_supported:
            info._check_paths()
        return info

    @property
    def is_v3(self) -> bool:
        return self._major == 3

    @property
    def is_supported(self) -> bool:
        """Whether it is a version 2 or 3; the minor versions of each have one layout."""
        return self._major in (2, 3)

    @property
    def is_newer(self) -> bool:
        """Whether it is a later version than those supported."""
        return self._major > 3

    @property
    def tasks_file(self) -> str:
        """Name of the file with the instruction of each task index."""
        return TASKS_V3 if self.is_v3 else TASKS_V2

    def cameras(self) -> list[str]:
        """Keys of the features that are images or video."""
        return [
            key
            for key, feature in self.features.items()
            if isinstance(feature, dict) and feature.get("dtype") in _VISUAL
        ]

    def is_color(self, camera: str) -> bool:
        """Whether a camera is colour video by its name, description and shape, not a mask, depth or one channel."""
        feature = self.features[camera]
        description = self._description(camera)
        flags = (description.get(name) for name in ("video.is_depth_map", "is_depth_map"))
        is_depth = any(flag not in (None, False, "", "false", "False") for flag in flags)
        shape = feature.get("shape")
        # (H, W, 1) or (1, H, W): LeRobot stores both orders.
        has_one_channel = isinstance(shape, list | tuple) and (
            len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[-1]))
        )
        channels = description.get("video.channels", description.get("channels"))
        return not is_depth and not has_one_channel and channels != 1 and is_color_camera(camera)

    def names_of(self, column: str) -> tuple[str, ...]:
        """The name of each number of a column; () where they are not told, or not one for each.

        Writers nest them ([["x", "y"]], {"motors": ["x", "y"]}), or give each its place ({"x": 0, "y": 1}).
        """
        feature = self.features.get(column)
        if not isinstance(feature, dict):
            return ()
        names, shape = feature.get("names"), feature.get("shape")
        if isinstance(names, dict) and all(map(_is_index, names.values())):
            names = sorted(names, key=names.__getitem__)
        flat = _flat_texts(names)
        if not isinstance(shape, list | tuple) or not all(map(_is_index, shape)):
            return ()
        return tuple(flat) if 0 < len(flat) == math.prod(shape) else ()

    def deep_pixels(self, camera: str) -> str:
        """The pixel format of a camera of more than 8 bits per channel, as stated; "" for any other."""
        description = self._description(camera)
        stated = description.get("video.pix_fmt", description.get("pix_fmt"))
        return stated if isinstance(stated, str) and _DEEP_PIXELS.search(stated) else ""

    def data_file(self, entry: Mapping[str, Any]) -> str:
        """Name of the parquet file with the rows of an episode; `entry` is the episode's row of the metadata.

        It is "" where the row names none: then the rows are looked for in all files.
        """
        if not self.is_v3:
            return self._file("data_path", self._v2_values(entry))
        indices = _indices(entry, "data/")
        return "" if isinstance(indices, str) else self._file("data_path", indices)

    def video_span(self, camera: str, entry: Mapping[str, Any]) -> VideoSpan | None:
        """File and time range of a camera's frames of an episode; None where images are in the data's own column."""
        if self.features[camera]["dtype"] == "image":
            return None
        if not self.is_v3:
            return VideoSpan(self._file("video_path", {**self._v2_values(entry), "video_key": camera}))
        prefix = f"videos/{camera}/"
        indices = _indices(entry, prefix)
        if isinstance(indices, str):
            # Not an error yet: only a selected episode and camera need it.
            return VideoSpan(EPISODES_V3.rstrip("/"), problem=f"episode {entry['episode_index']}: {indices}")
        start, stop = (_seconds(entry.get(f"{prefix}{key}_timestamp")) for key in ("from", "to"))
        return VideoSpan(self._file("video_path", {**indices, "video_key": camera}), start, stop)

    @property
    def _major(self) -> int:
        match = _VERSION.fullmatch(self.version)
        return int(match[1]) if match else 0

    def _description(self, camera: str) -> dict[str, Any]:
        feature = self.features[camera]
        parts = (feature.get("info"), feature.get("video_info"))
        return {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}

    def _check_paths(self) -> None:
        """Raise ValueError for templates and camera names that cannot be formatted, or lead out of the dataset."""
        if not self.is_v3:
            size = self.content.get("chunks_size", CHUNK_SIZE)
            if not whole_number(size):
                raise ValueError(f"chunks_size {_short(size)}: takes a number of files above 0")
        keys = ("chunk_index", "file_index") if self.is_v3 else ("episode_chunk", "episode_index", "chunk_index")
        indices: dict[str, object] = dict.fromkeys(keys, 0)
        used = [("data_path", indices)]
        cameras = self.cameras()
        if len(cameras) > _MOST_CAMERAS:
            raise ValueError(f"features name {len(cameras):,} cameras; up to {_MOST_CAMERAS} are read")
        videos = [key for key in cameras if self.features[key]["dtype"] == "video"]
        used += [("video_path", {**indices, "video_key": key}) for key in videos]
        for template, values in used:
            name = format_template(self.content.get(template), values, template)
            try:
                checked_name(name)
            except EpisodeReadError as error:
                raise ValueError(f"{template}: {error}") from error
            if len(name) > _LONGEST_NAME:
                raise ValueError(f"{template}: a file name of {len(name):,} characters; takes up to {_LONGEST_NAME}")

    def _file(self, template: str, values: Mapping[str, Any]) -> str:
        # Checked with other indices by `_check_paths`; every index is a whole number.
        return self.content[template].format_map(values)

    def _v2_values(self, entry: Mapping[str, Any]) -> dict[str, int]:
        episode_index = int(entry["episode_index"])
        chunk = episode_index // int(self.content.get("chunks_size", CHUNK_SIZE))
        # AgiBot World 2026 calls the chunk as v3.0 does.
        return {"episode_chunk": chunk, "episode_index": episode_index, "chunk_index": chunk}


def whole_number(value: Any) -> int | None:
    """A count or an index of metadata, which some writers store as 8.0 or "8"; None for anything else.

    >>> whole_number(8), whole_number(8.0), whole_number("8"), whole_number(8.5), whole_number("../x")
    (8, 8, 8, None, None)
    """
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None
    elif isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_INDEX
    return value if is_number else None


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _flat_texts(names: Any, depth: int = 3) -> list[str]:
    """The texts of nested lists and objects, in order; nothing where anything else is among them, or too deep."""
    if isinstance(names, str):
        return [printable(names)[:_LONGEST_NAME_OF_NUMBER]]
    parts = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(parts, list) or len(parts) > _MOST_NAMES or not depth:
        return []
    nested = [_flat_texts(part, depth - 1) for part in parts]
    return [text for texts in nested for text in texts] if all(nested) else []


def _indices(entry: Mapping[str, Any], prefix: str) -> dict[str, int] | str:
    """Chunk and file index of an episode's rows or video, or the reason why there are none."""
    indices = {key: whole_number(entry.get(f"{prefix}{key}")) for key in ("chunk_index", "file_index")}
    valid = {key: value for key, value in indices.items() if value is not None}
    if len(valid) == len(indices):
        return valid
    key = prefix + next(key for key, value in indices.items() if value is None)
    value = entry.get(key)
    return f"it has no {key}" if value is None else f"{key} is {_short(value)}, not a whole number"


def _frame_rate(value: Any) -> float:
    try:
        fps = float(value) if not isinstance(value, bool) else 0.0
    except (TypeError, ValueError, OverflowError):
        fps = 0.0
    if not _SLOWEST <= fps <= _FASTEST:
        raise ValueError(f"fps {_short(value)}: takes frames per second above 0, that is {_SLOWEST:g} to {_FASTEST:,}")
    return fps


def _seconds(value: Any) -> float | None:
    """A time of metadata; None for anything that is not a time within a video."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and abs(seconds) < LARGEST_INDEX else None


def _short(value: Any) -> str:
    return f"{value!r:.40}"


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
