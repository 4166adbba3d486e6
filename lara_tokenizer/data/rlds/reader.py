"""Frames, actions and text of one episode of an RLDS dataset: one record of a TFRecord file."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, prod
from pathlib import Path
from typing import Any

import numpy as np

from lara_tokenizer.data.episode import FrameIndex, Signals, check_indices
from lara_tokenizer.data.rlds import tf_example, tfrecord
from lara_tokenizer.data.rlds.features import Feature
from lara_tokenizer.data.rlds.signals import ActionPart, RldsSignals
from lara_tokenizer.data.rlds.tf_example import Values
from lara_tokenizer.data.video.media import EncodedImagesReader
from lara_tokenizer.errors import EpisodeReadError


@dataclass(frozen=True, slots=True)
class RecordPlan:
    """What all records of a dataset are read for: its chosen cameras by name, its signals, all features of a step.

    `fps` is NaN where nobody knows the control rate.
    """

    cameras: dict[str, Feature]
    signals: RldsSignals
    steps: tuple[Feature, ...]
    fps: float = nan


@dataclass(frozen=True, slots=True)
class _Record:
    """What is kept of a record while it is open: values by key; JPEG and PNG stay compressed."""

    values: dict[str, Values]
    num_steps: int


class RldsReader:
    """A `FrameReader` and `SignalReader` for the record whose header lies at byte `offset` of `shard`.

    A record holds a whole episode, so it is read once, and kept until `close()`.

    >>> find_rlds(Path("bridge_dataset")).episodes[0].reader.frames("image_0", [0, 2]).shape  # doctest: +SKIP
    (2, 256, 256, 3)
    """

    def __init__(self, shard: Path, offset: int, length: int, plan: RecordPlan) -> None:
        self.shard, self.offset, self.length, self.plan = shard, offset, length, plan
        self._record: _Record | None = None
        self._pictures: dict[str, EncodedImagesReader] = {}
        self._num_steps: int | None = None

    def index(self, camera: str) -> FrameIndex:
        """Count the steps. The rate is the dataset's control rate, NaN where it is not known.

        Raises EpisodeReadError for a damaged record, and for one whose features have several lengths.
        """
        self._camera(camera)
        count = self._open().num_steps if self._num_steps is None else self._num_steps
        return FrameIndex(np.arange(count) / self.plan.fps, self.plan.fps)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order asked. Raises EpisodeReadError, and IndexError for one outside."""
        feature, record = self._camera(camera), self._open()
        stored = record.values[feature.key]
        if feature.is_coded:
            if camera not in self._pictures:
                self._pictures[camera] = EncodedImagesReader(self._source, _StepImages(feature, stored))
            return self._pictures[camera].frames("", indices)
        return np.asarray(stored)[check_indices(indices, record.num_steps, self._source)]

    def signals(self) -> Signals:
        """Actions and states, float32 (steps, n), and texts, one a step. Raises EpisodeReadError."""
        record, signals = self._open(), self.plan.signals
        return Signals(
            actions=self._side_by_side(signals.actions, record),
            states=self._side_by_side(signals.states, record),
            texts=None if signals.text is None else self._texts(signals.text, record),
        )

    def close(self) -> None:
        """Let go of the record; the next call reads it again."""
        self._record = None
        self._pictures.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_record": None, "_pictures": {}}

    @property
    def _source(self) -> str:
        return f"{self.shard.name} at byte {self.offset}"

    def _camera(self, camera: str) -> Feature:
        if camera not in self.plan.cameras:
            raise EpisodeReadError(self._source, f"no camera {camera!r}. There are: {', '.join(self.plan.cameras)}")
        return self.plan.cameras[camera]

    def _open(self) -> _Record:
        if self._record is None:
            try:
                values = tf_example.parse(tfrecord.read(self.shard, self.offset, self.length))
            except ValueError as error:
                raise EpisodeReadError(self._source, str(error)) from error
            signals = self.plan.signals
            text = (signals.text,) if signals.text is not None else ()
            wanted = [*self.plan.cameras.values(), *(each.feature for each in signals.actions + signals.states), *text]
            for feature in wanted:
                if feature.key not in values:
                    raise EpisodeReadError(self._source, f"it has no {feature.key!r}, which features.json promises")
            num_steps = self._check_lengths(values)
            kept = {feature.key: values[feature.key] for feature in wanted}
            # Raw pictures may be stored in eight bytes a number.
            kept |= {
                each.key: self._steps(each, kept[each.key]) for each in wanted if each.is_camera and not each.is_coded
            }
            self._record, self._num_steps = _Record(kept, num_steps), num_steps
        return self._record

    def _check_lengths(self, values: dict[str, Values]) -> int:
        """The number of steps, which all features of a step agree on."""
        lengths: dict[int, str] = {}
        for feature in self.plan.steps:
            if (stored := values.get(feature.key)) is None:
                continue
            if len(stored) and feature.in_bytes != isinstance(stored, list):
                what = "bytes" if isinstance(stored, list) else f"{stored.dtype} numbers"
                raise EpisodeReadError(self._source, f"{feature.path} is stored as {what}, not as features.json says")
            each = 1 if feature.in_bytes else prod(feature.shape)
            if each and len(stored) % each:
                raise EpisodeReadError(
                    self._source, f"{feature.path} has {len(stored)} numbers, not a multiple of {each}"
                )
            if each:
                lengths.setdefault(len(stored) // each, feature.path)
        if len(lengths) > 1:
            told = " and ".join(f"{count} steps of {path}" for count, path in list(lengths.items())[:2])
            raise EpisodeReadError(self._source, f"it holds {told}: all must have one length")
        if not any(lengths):
            raise EpisodeReadError(self._source, "it holds no step")
        return next(iter(lengths))

    def _side_by_side(self, parts: tuple[ActionPart, ...], record: _Record) -> np.ndarray | None:
        if not parts:
            return None
        columns = []
        for each in parts:
            rows = self._steps(each.feature, record.values[each.feature.key]).reshape(record.num_steps, -1)
            columns.append(rows[:, each.start : each.stop].astype(np.float32))
        return np.concatenate(columns, 1)

    def _texts(self, feature: Feature, record: _Record) -> tuple[str, ...]:
        stored = record.values[feature.key]
        if feature.kind == "numbers":
            stored = [bytes(row.astype(np.uint8)).partition(b"\0")[0] for row in self._steps(feature, stored)]
        texts = tuple(bytes(text).decode("utf-8", "replace") for text in stored)
        # An episode's own text holds for all of its steps.
        return texts if feature in self.plan.steps else texts[:1] * record.num_steps

    def _steps(self, feature: Feature, stored: Values) -> np.ndarray:
        try:
            return step_numbers(feature, stored)
        except (ValueError, zlib.error) as error:
            raise EpisodeReadError(self._source, f"{feature.path} cannot be read ({error})") from error


@dataclass(frozen=True, slots=True)
class _StepImages:
    """The pictures of one feature, a JPEG or PNG a step."""

    feature: Feature
    stored: Values

    def __len__(self) -> int:
        return len(self.stored)

    def name(self, i: int) -> str:
        return f"step {i} of {self.feature.path}"

    def read(self, i: int) -> bytes:
        return self.stored[i]


def step_numbers(feature: Feature, stored: Values) -> np.ndarray:
    """(steps, *shape) of the feature's type: numbers as TFDS stores them. bfloat16 comes as float32.

    Raises ValueError and zlib.error for damaged bytes.

    >>> step_numbers(Feature("a", "steps/a", "numbers", "bool", (2,)), np.array([0, 1, 1, 0])).tolist()
    [[False, True], [True, False]]
    """
    half = feature.dtype == "bfloat16"  # numpy has no such type: the upper half of a float32
    if feature.in_bytes:
        rows = [zlib.decompress(row) if feature.encoding == "zlib" else row for row in stored]
        flat = np.frombuffer(b"".join(rows), np.uint16 if half else feature.dtype)
        flat = (flat.astype(np.uint32) << 16).view(np.float32) if half else flat
    elif feature.dtype == "uint64":
        flat = np.asarray(stored, np.int64).view(np.uint64)
    else:
        flat = np.asarray(stored).astype(np.float32 if half else feature.dtype)
    return flat.reshape(-1, *feature.shape)
