"""Frames, actions and text of one episode of an RLDS dataset: one record of a TFRecord file."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import nan, prod
from pathlib import Path
from typing import Any

import numpy as np

from lara_tokenizer.data.episode import FrameIndex, Signals, check_indices
from lara_tokenizer.data.rlds.features import Feature, FeatureSlice, RldsSignals
from lara_tokenizer.data.rlds.tfrecord import Values, parse_example, read_record
from lara_tokenizer.data.texts import decode_text
from lara_tokenizer.data.video import EncodedImagesReader
from lara_tokenizer.errors import EpisodeReadError


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """Features to read from each record of a dataset."""

    cameras: dict[str, Feature]  # the selected cameras by name
    signals: RldsSignals
    steps: tuple[Feature, ...]  # all features of a step, whose lengths are checked against each other
    fps: float = nan  # control rate in Hz; NaN where it is unknown


@dataclass(frozen=True, slots=True)
class _Record:
    """An open record: values by key (JPEG and PNG stay compressed), and the number of steps."""

    values: dict[str, Values]
    num_steps: int


@dataclass(eq=False)
class RldsReader:
    """A `FrameReader` and `SignalReader` for the record whose header is at byte `offset` of `shard`.

    A record contains a whole episode, so it is read at once and kept until `close()`.

    >>> list_episodes("bridge_dataset").episodes[0].reader.frames("image_0", [0, 2]).shape  # doctest: +SKIP
    (2, 256, 256, 3)
    """

    shard: Path
    offset: int
    length: int  # bytes of the record's data
    layout: RecordLayout
    _record: _Record | None = field(default=None, init=False, repr=False)
    _images: dict[str, EncodedImagesReader] = field(default_factory=dict, init=False)
    _num_steps: int | None = field(default=None, init=False)
    _digest: str = field(default="", init=False)  # length and checksum of the record

    def index(self, camera: str) -> FrameIndex:
        """Count the steps. The rate is the dataset's control rate, NaN where it is unknown.

        Raises EpisodeReadError for a damaged record, and for features of different lengths.
        """
        self._camera(camera)
        count = self._open().num_steps if self._num_steps is None else self._num_steps
        return FrameIndex(np.arange(count) / self.layout.fps, self.layout.fps, digest=self._digest)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order of `indices`. Raises EpisodeReadError and IndexError."""
        feature, record = self._camera(camera), self._open()
        stored = record.values[feature.key]
        if feature.is_compressed:
            if camera not in self._images:
                name, read = partial("step {1} of {0}".format, feature.path), list(stored).__getitem__
                self._images[camera] = EncodedImagesReader(self._source, len(stored), name, read)
            return self._images[camera].frames("", indices)
        return np.asarray(stored)[check_indices(indices, record.num_steps, self._source)]

    def signals(self) -> Signals:
        """Actions and states, float32 (steps, n), and one text per step. Raises EpisodeReadError."""
        record, signals = self._open(), self.layout.signals
        return Signals(
            actions=self._concatenate(signals.actions, record),
            states=self._concatenate(signals.states, record),
            texts=None if signals.text is None else self._texts(signals.text, record),
            names=signals.names,
        )

    def files(self, camera: str = "") -> tuple[Path, ...]:
        """The shard."""
        return (self.shard,)

    def close(self) -> None:
        """Drop the record; the next call reads it again."""
        self._record = None
        self._images.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_record": None, "_images": {}}

    @property
    def _source(self) -> str:
        return f"{self.shard.name} at byte {self.offset}"

    def _camera(self, camera: str) -> Feature:
        if camera not in self.layout.cameras:
            raise EpisodeReadError(self._source, f"no camera {camera!r}. There are: {', '.join(self.layout.cameras)}")
        return self.layout.cameras[camera]

    def _open(self) -> _Record:
        if self._record is None:
            try:
                data, checksum = read_record(self.shard, self.offset, self.length)
                values = parse_example(data)
            except ValueError as error:
                raise EpisodeReadError(self._source, str(error)) from error
            signals = self.layout.signals
            text = (signals.text,) if signals.text is not None else ()
            needed = [*self.layout.cameras.values(), *(s.feature for s in signals.actions + signals.states), *text]
            for feature in needed:
                if feature.key not in values:
                    raise EpisodeReadError(self._source, f"it has no {feature.key!r}, which features.json promises")
            num_steps = self._check_lengths(values)
            selected = {feature.key: values[feature.key] for feature in needed}
            # Uncompressed images are stored as int64, eight bytes per number: convert them once, to uint8.
            for feature in needed:
                if feature.is_camera and not feature.is_compressed:
                    selected[feature.key] = self._rows(feature, values[feature.key])
            self._record = _Record(selected, num_steps)
            self._num_steps = num_steps
            self._digest = f"{self.length:016x}{checksum:08x}"
        return self._record

    def _check_lengths(self, values: Mapping[str, Values]) -> int:
        """The number of steps. Raises EpisodeReadError unless all features of a step agree on it."""
        lengths: dict[int, str] = {}
        for feature in self.layout.steps:
            if (stored := values.get(feature.key)) is None:
                continue
            if len(stored) and feature.in_bytes != isinstance(stored, list):
                kind = "bytes" if isinstance(stored, list) else f"{stored.dtype} numbers"
                raise EpisodeReadError(self._source, f"{feature.path} is stored as {kind}, not as features.json says")
            size = 1 if feature.in_bytes else prod(feature.shape)
            if size and len(stored) % size:
                raise EpisodeReadError(
                    self._source, f"{feature.path} has {len(stored)} numbers, not a multiple of {size}"
                )
            if size:
                lengths.setdefault(len(stored) // size, feature.path)
        if len(lengths) > 1:
            counts = " and ".join(f"{count} steps of {path}" for count, path in list(lengths.items())[:2])
            raise EpisodeReadError(self._source, f"it holds {counts}: all must have one length")
        if not any(lengths):
            raise EpisodeReadError(self._source, "it holds no step")
        return next(iter(lengths))

    def _concatenate(self, slices: Sequence[FeatureSlice], record: _Record) -> np.ndarray | None:
        if not slices:
            return None
        columns = []
        for each in slices:
            rows = self._rows(each.feature, record.values[each.feature.key]).reshape(record.num_steps, -1)
            try:
                with np.errstate(over="raise"):
                    columns.append(rows[:, each.start : each.stop].astype(np.float32))
            except FloatingPointError:
                raise EpisodeReadError(self._source, f"{each.feature.path} is too large for float32") from None
        return np.concatenate(columns, 1)

    def _texts(self, feature: Feature, record: _Record) -> tuple[str, ...]:
        stored = record.values[feature.key]
        if feature.kind == "numbers":
            stored = [bytes(row.astype(np.uint8)).partition(b"\0")[0] for row in self._rows(feature, stored)]
        texts = tuple(decode_text(bytes(text)) for text in stored)
        # A text of the whole episode applies to all of its steps.
        return texts if feature in self.layout.steps else texts[:1] * record.num_steps

    def _rows(self, feature: Feature, stored: Values) -> np.ndarray:
        try:
            return step_values(feature, stored)
        except (ValueError, zlib.error) as error:
            raise EpisodeReadError(self._source, f"{feature.path} cannot be read ({error})") from error


def step_values(feature: Feature, stored: Values) -> np.ndarray:
    """(steps, *shape) of the feature's dtype, from numbers as TFDS stores them; bfloat16 becomes float32.

    Raises ValueError and zlib.error for damaged bytes.

    >>> step_values(Feature("a", "steps/a", "numbers", "bool", (2,)), np.array([0, 1, 1, 0])).tolist()
    [[False, True], [True, False]]
    """
    is_bfloat16 = feature.dtype == "bfloat16"  # numpy has no such type: it is the upper half of a float32
    if feature.in_bytes:
        rows = [_decompress(feature, row) if feature.encoding == "zlib" else row for row in stored]
        flat = np.frombuffer(b"".join(rows), np.uint16 if is_bfloat16 else feature.dtype)
        flat = (flat.astype(np.uint32) << 16).view(np.float32) if is_bfloat16 else flat
    elif feature.dtype == "uint64":
        flat = np.asarray(stored, np.int64).view(np.uint64)
    else:
        flat = np.asarray(stored).astype(np.float32 if is_bfloat16 else feature.dtype)
    return flat.reshape(-1, *feature.shape)


def _decompress(feature: Feature, data: bytes) -> bytes:
    """The numbers of one step, decompressed to the feature's size at most. Raises ValueError for another size."""
    size = prod(feature.shape) * np.dtype("uint16" if feature.dtype == "bfloat16" else feature.dtype).itemsize
    numbers = zlib.decompressobj().decompress(data, size + 1)
    if len(numbers) != size:
        raise ValueError(f"a step has {'more' if len(numbers) > size else 'fewer'} than its {size} bytes")
    return numbers
