"""Frames, actions and text of one sample of a WebDataset tar, read at their positions in the tar."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lara_tokenizer._parse import MAX_JSON_BYTES, load_json
from lara_tokenizer.data.episode import (
    ACTIONS,
    STATES,
    TEXTS,
    CameraReaders,
    FrameIndex,
    FrameReader,
    Signals,
    first_of,
    natural_key,
)
from lara_tokenizer.data.folders import storable
from lara_tokenizer.data.texts import decode_text, instruction
from lara_tokenizer.data.video import EncodedImagesReader, FileSlice, SharedVideo
from lara_tokenizer.data.video.images import digest_of
from lara_tokenizer.data.video.numbered import IMAGE_SUFFIXES, missing_number
from lara_tokenizer.data.video.suffixes import VIDEO_SUFFIXES
from lara_tokenizer.data.webdataset.tar import Sample, Span
from lara_tokenizer.errors import EpisodeReadError, first_line

_VIDEO_EXTENSIONS = tuple(suffix.removeprefix(".") for suffix in VIDEO_SUFFIXES)
_IMAGE_EXTENSIONS = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
_MAX_TEXT = 2**20  # bytes of an instruction
# Words next to a frame's number that only mark it as a frame; any other word is the name of its camera.
_ANY_FRAME = ("", "f", "frame", "frames", "image", "images", "img", "im", "rgb")


def camera_of(extension: str) -> tuple[str, bool] | None:
    """The camera that a member belongs to, and whether it is a video or a single frame; None for other members.

    >>> camera_of("mp4"), camera_of("top.mp4"), camera_of("top.frame_0012.jpg"), camera_of("left_012.png")
    (('', True), ('top', True), ('top', False), ('left', False))
    >>> camera_of("jpg"), camera_of("actions.npy")
    (None, None)
    """
    *parts, suffix = extension.split(".")
    if suffix in _VIDEO_EXTENSIONS:
        return storable(".".join(parts)), True
    match = re.fullmatch(r"(.*?)(\d+)(\D*)", parts[-1]) if suffix in _IMAGE_EXTENSIONS and parts else None
    if match is None:
        return None
    word = (match[1] + match[3]).strip("_- ")
    return storable(".".join([*parts[:-1], *([] if word in _ANY_FRAME else [word])])), False


def cameras_of(sample: Sample) -> dict[str, list[str]]:
    """Extensions of each camera: one video, or its frames in natural order."""
    cameras: dict[str, list[str]] = {}
    videos = set()
    for extension in sample.members:
        if (member := camera_of(extension)) is None:
            continue
        camera, is_video = member
        if is_video:
            videos.add(camera)
            cameras[camera] = [extension]
        elif camera not in videos:
            cameras.setdefault(camera, []).append(extension)
    return {camera: sorted(extensions, key=natural_key) for camera, extensions in cameras.items()}


def signal_members(sample: Sample) -> dict[str, str]:
    """Extension of the member of each signal that is stored as one."""
    names = {"actions": [f"{name}.npy" for name in ACTIONS], "states": [f"{name}.npy" for name in STATES]}
    names["text"] = ["txt", *(f"{name}.txt" for name in TEXTS)]
    extensions = {signal: first_of(options, sample.members) for signal, options in names.items()}
    return {signal: extension for signal, extension in extensions.items() if extension is not None}


def json_text(metadata: Mapping[str, Any]) -> str | None:
    """The instruction in a sample's metadata."""
    return next((text for name in TEXTS if (text := instruction(metadata.get(name))) is not None), None)


class WebDatasetReader(CameraReaders):
    """A `FrameReader` and `SignalReader` for one sample.

    The rate in a sample's .json ("fps") overrides its video's. Frames without one need a rate from the episode.
    """

    def __init__(self, tar: str, sample: Sample, cameras: Sequence[str], decoder: str) -> None:
        super().__init__()
        self.tar = tar
        self.key = sample.key
        self.decoder = decoder
        self.cameras = tuple(cameras)
        extensions = cameras_of(sample)
        self.available_cameras = tuple(extensions)
        existing = [camera for camera in cameras if camera in extensions]
        self._missing = {camera: missing_number(extensions[camera]) for camera in existing}
        # Of a video one span, of images int64 (n, 2): readers are pickled, so names of thousands of frames are dropped.
        self._pixels = {camera: _pixel_spans(sample, extensions[camera]) for camera in existing}
        signals = signal_members(sample)
        self._signals = {signal: (extension, sample.members[extension]) for signal, extension in signals.items()}
        self._json = sample.members.get("json")
        self._metadata: dict[str, Any] | None = None

    def index(self, camera: str = "") -> FrameIndex:
        """Count and time the frames. Raises EpisodeReadError."""
        fps = self._fps()
        index = super().index(camera)
        if math.isnan(fps):
            return index
        return replace(index, timestamps=np.arange(index.num_frames) / fps, fps=fps)

    def files(self, camera: str = "") -> tuple[Path, ...]:
        """The tar."""
        return (Path(self.tar),)

    def open_camera(self, camera: str) -> FrameReader:
        """The video or the images. Raises EpisodeReadError where the sample has none."""
        if camera not in self._pixels:
            available = ", ".join(repr(each) for each in self.available_cameras) or "none"
            raise EpisodeReadError(self._name, f"no camera {camera!r} in this sample (it has {available})")
        if missing := self._missing[camera]:
            raise EpisodeReadError(self._name, f"{missing}: later frames would have wrong times")
        spans = self._pixels[camera]
        if isinstance(spans, Span):
            return SharedVideo(FileSlice(self.tar, *spans, self.key), self.decoder)
        template = "{0}, frame {2} of {1}" if camera else "{0}, frame {2}"
        name = partial(template.format, self.key, camera)
        read = partial(_read_frame, self.tar, spans)
        return EncodedImagesReader(self._name, len(spans), name, read, digest=digest_of(spans[:, 1]))

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
            extension, span = self._signals["text"]
            if span.size > _MAX_TEXT:
                raise EpisodeReadError(self._name, f"its .{extension} has {span.size:,} bytes: is it an instruction?")
            try:
                return instruction(decode_text(self._read(extension, span), "strict"))
            except UnicodeDecodeError as error:
                byte = f"{error.object[error.start]:#x}"
                raise EpisodeReadError(
                    self._name, f"its .{extension} is not UTF-8 (byte {byte}). Save it as UTF-8"
                ) from error
        return json_text(self.metadata())

    def metadata(self) -> dict[str, Any]:
        """Content of the sample's .json; empty where it has none. Raises EpisodeReadError."""
        if self._metadata is None:
            content: Any = {}
            if self._json is not None:
                if self._json.size > MAX_JSON_BYTES:
                    raise EpisodeReadError(self._name, f"its .json has {self._json.size:,} bytes: is it metadata?")
                try:
                    content = load_json(self._read("json", self._json), "json")
                except ValueError as error:
                    reason = str(error).removeprefix("json: ")
                    raise EpisodeReadError(self._name, f"its .json cannot be read ({reason})") from error
            # A text, or a list of texts, is the instruction.
            self._metadata = content if isinstance(content, dict) else {"text": instruction(content)}
        return self._metadata

    def close(self) -> None:
        """Close open files and drop the .json; the next call reads them again."""
        super().close()
        self._metadata = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_metadata": None}

    @property
    def _name(self) -> str:
        return f"{os.path.basename(self.tar)}, {self.key}"

    def _fps(self) -> float:
        fps = self.metadata().get("fps")
        if fps is None:
            return math.nan
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < math.inf:
            raise EpisodeReadError(self._name, f"fps {fps!r} in its .json: must be a number above 0")
        return float(fps)

    def _numbers(self, signal: str, names: Sequence[str]) -> np.ndarray | None:
        """float32 (n, A): a signal from its .npy member, or else from the .json."""
        metadata = {} if signal in self._signals else self.metadata()
        name = first_of(names, metadata)
        if signal not in self._signals and name is None:
            return None
        try:
            if name is None:
                name, span = self._signals[signal]
                value = np.load(io.BytesIO(self._read(name, span)), allow_pickle=False)
            else:
                value = metadata[name]
            with np.errstate(over="raise"):
                rows = np.asarray(value, np.float32)
            if rows.ndim == 0 or rows.size == 0:
                raise ValueError("not a row of numbers for each frame")
        except EpisodeReadError:
            raise
        except Exception as error:  # damaged .npy headers make numpy raise many types
            raise EpisodeReadError(self._name, f"its {name} cannot be read ({first_line(error)})") from error
        return rows.reshape(len(rows), -1)

    def _read(self, extension: str, span: Span) -> bytes:
        try:
            return FileSlice(self.tar, *span, f"{self.key}.{extension}").read()
        except OSError as error:
            raise EpisodeReadError(self._name, f"its .{extension} cannot be read ({error})") from error


def _pixel_spans(sample: Sample, extensions: Sequence[str]) -> Span | np.ndarray:
    member = camera_of(extensions[0])
    if member is not None and member[1]:
        return sample.members[extensions[0]]
    return np.array([sample.members[extension] for extension in extensions], np.int64)


def _read_frame(tar: str, spans: np.ndarray, i: int) -> bytes:
    offset, size = spans[i].tolist()
    return FileSlice(tar, offset, size, "").read()
