"""Frames, actions and text of one sample of a WebDataset tar, read from the tar where they lie."""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lara_tokenizer.data.camera_readers import CameraReaders
from lara_tokenizer.data.episode import FrameIndex, FrameReader, Signals
from lara_tokenizer.data.names import ACTIONS, STATES, TEXTS, first_of
from lara_tokenizer.data.video.images import IMAGE_SUFFIXES, missing_number, natural_key
from lara_tokenizer.data.video.media import EncodedImagesReader, FileSlice
from lara_tokenizer.data.video.open_videos import SharedVideo
from lara_tokenizer.data.video.reader import VIDEO_SUFFIXES
from lara_tokenizer.data.webdataset.tar import Sample, Span
from lara_tokenizer.errors import EpisodeReadError

VIDEO_EXTENSIONS = tuple(suffix.removeprefix(".") for suffix in VIDEO_SUFFIXES)
_IMAGE_EXTENSIONS = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
# A camera is called after what stands beside a frame's number, unless that only says that it is a frame.
_ANY_FRAME = ("", "f", "frame", "frames", "image", "images", "img", "im", "rgb")


def camera_of(extension: str) -> tuple[str, bool] | None:
    """The camera that a member is of, and whether it is a video (or else one frame); None for other members.

    >>> camera_of("mp4"), camera_of("top.mp4"), camera_of("top.frame_0012.jpg"), camera_of("left_012.png")
    (('', True), ('top', True), ('top', False), ('left', False))
    >>> camera_of("jpg"), camera_of("actions.npy")
    (None, None)
    """
    *parts, suffix = extension.split(".")
    if suffix in VIDEO_EXTENSIONS:
        return ".".join(parts), True
    number = re.fullmatch(r"(.*?)(\d+)(\D*)", parts[-1]) if suffix in _IMAGE_EXTENSIONS and parts else None
    if number is None:
        return None
    beside = (number[1] + number[3]).strip("_- ")
    return ".".join([*parts[:-1], *([] if beside in _ANY_FRAME else [beside])]), False


def cameras_of(sample: Sample) -> dict[str, list[str]]:
    """The extensions of each camera: one video, or its frames in natural order."""
    cameras: dict[str, list[str]] = {}
    videos = set()
    for extension in sample.members:
        found = camera_of(extension)
        if found is None:
            continue
        camera, is_video = found
        if is_video:
            videos.add(camera)
            cameras[camera] = [extension]
        elif camera not in videos:
            cameras.setdefault(camera, []).append(extension)
    return {camera: sorted(extensions, key=natural_key) for camera, extensions in cameras.items()}


def signal_members(sample: Sample) -> dict[str, str]:
    """The extension of the member for each signal that has one of its own."""
    names = {"actions": [f"{name}.npy" for name in ACTIONS], "states": [f"{name}.npy" for name in STATES]}
    found = {signal: first_of(options, sample.members) for signal, options in (names | {"text": ["txt"]}).items()}
    return {signal: extension for signal, extension in found.items() if extension is not None}


def json_text(facts: Mapping[str, Any]) -> str | None:
    """The instruction among a sample's facts."""
    texts = (facts.get(name) for name in TEXTS)
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), None)


@dataclass(frozen=True)
class TarImages:
    """Images that lie in one tar; `spans` is int64 (n, 2), each one's offset and size."""

    tar: str
    key: str
    camera: str
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.spans)

    def name(self, i: int) -> str:
        return f"{self.key}, frame {i}" + (f" of {self.camera}" if self.camera else "")

    def read(self, i: int) -> bytes:
        offset, size = self.spans[i].tolist()
        return FileSlice(self.tar, offset, size, self.name(i)).read()


class WebDatasetReader(CameraReaders):
    """A `FrameReader` and `SignalReader` for one sample.

    A sample's own rate ("fps" in its .json) wins over its video's; frames without one need a rate from the episode.
    """

    def __init__(self, tar: str, sample: Sample, cameras: Sequence[str], decoder: str) -> None:
        super().__init__()
        self.tar, self.key, self.decoder = tar, sample.key, decoder
        there = cameras_of(sample)
        self.cameras = tuple(cameras)
        self.there = tuple(there)
        self._missing = {camera: missing_number(there[camera]) for camera in cameras if camera in there}
        # Of a video its one span, of images int64 (n, 2).
        self._pixels = {camera: _compact(sample, there[camera]) for camera in cameras if camera in there}
        signals = signal_members(sample)
        self._signals = {signal: (extension, sample.members[extension]) for signal, extension in signals.items()}
        self._json = sample.members.get("json")
        self._facts: dict[str, Any] | None = None

    def index(self, camera: str) -> FrameIndex:
        """Count the frames, and time them. Raises EpisodeReadError."""
        fps = self._fps()
        index = super().index(camera)
        return index if math.isnan(fps) else FrameIndex(np.arange(index.num_frames) / fps, fps, index.note)

    def open_camera(self, camera: str) -> FrameReader:
        """The video or the images. Raises EpisodeReadError where the sample has none."""
        if camera not in self._pixels:
            there = ", ".join(repr(each) for each in self.there) or "none"
            raise EpisodeReadError(self._name, f"no camera {camera!r} in this sample (it has {there})")
        if missing := self._missing[camera]:
            raise EpisodeReadError(self._name, f"{missing}: what comes after it would have a wrong time")
        spans = self._pixels[camera]
        if isinstance(spans, Span):
            return SharedVideo(FileSlice(self.tar, *spans, self.key), self.decoder)
        return EncodedImagesReader(self._name, TarImages(self.tar, self.key, camera, spans))

    def signals(self) -> Signals:
        """Actions, states and the text, as far as the sample has them. Raises EpisodeReadError."""
        text = self.text()
        return Signals(
            actions=self._numbers("actions", ACTIONS),
            states=self._numbers("states", STATES),
            texts=None if text is None else (text,) * self.index(self.cameras[0]).num_frames,
        )

    def text(self) -> str | None:
        """The instruction. Raises EpisodeReadError."""
        if "text" in self._signals:
            return self._read(*self._signals["text"]).decode(errors="replace").strip() or None
        return json_text(self.facts())

    def facts(self) -> dict[str, Any]:
        """The sample's .json; empty where it has none. Raises EpisodeReadError."""
        if self._facts is None:
            facts: Any = {}
            if self._json is not None:
                try:
                    facts = json.loads(self._read("json", self._json))
                except (ValueError, RecursionError) as error:
                    raise EpisodeReadError(self._name, f"its .json cannot be read ({error})") from error
            self._facts = facts if isinstance(facts, dict) else {}
        return self._facts

    def close(self) -> None:
        """Let go of open files, and forget the .json; the next call reads them again."""
        super().close()
        self._facts = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_facts": None}

    @property
    def _name(self) -> str:
        return f"{os.path.basename(self.tar)}, {self.key}"

    def _fps(self) -> float:
        fps = self.facts().get("fps")
        if fps is None:
            return math.nan
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < math.inf:
            raise EpisodeReadError(self._name, f"fps {fps!r} in its .json: must be a number above 0")
        return float(fps)

    def _numbers(self, signal: str, names: Sequence[str]) -> np.ndarray | None:
        """float32 (n, A)."""
        facts = {} if signal in self._signals else self.facts()
        name = first_of(names, facts)
        if signal not in self._signals and name is None:
            return None
        try:
            if name is None:
                name, span = self._signals[signal]
                value = np.load(io.BytesIO(self._read(name, span)), allow_pickle=False)
            else:
                value = facts[name]
            rows = np.asarray(value, np.float32)
            if rows.ndim == 0 or rows.size == 0:
                raise ValueError("not a row of numbers for each frame")
        except (ValueError, TypeError, EOFError) as error:
            raise EpisodeReadError(self._name, f"its {name} cannot be read ({error})") from error
        return rows.reshape(len(rows), -1)

    def _read(self, extension: str, span: Span) -> bytes:
        try:
            return FileSlice(self.tar, *span, f"{self.key}.{extension}").read()
        except OSError as error:
            raise EpisodeReadError(self._name, f"its .{extension} cannot be read ({error})") from error


def _compact(sample: Sample, extensions: Sequence[str]) -> Span | np.ndarray:
    found = camera_of(extensions[0])
    if found is not None and found[1]:
        return sample.members[extensions[0]]
    return np.array([sample.members[extension] for extension in extensions], np.int64)
