"""The rows of one unit: filled batch by batch, then turned into a table.

Shape suffixes: B batch, R rows, N latent tokens, D codebook dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lara_tokenizer.data import Signals
from lara_tokenizer.encode.plan import Job, Pairs, Unit
from lara_tokenizer.table.schema import token_schema
from lara_tokenizer.table.statistics import IDLE_MOTION, MotionCounts


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """latents float16 (B, N*D); codes int16 (B, N) and margin float32 (B,), None for a continuous bottleneck."""

    latents: np.ndarray
    codes: np.ndarray | None
    margin: np.ndarray | None


class Rows:
    """The columns of a unit's R rows, filled batch by batch; what is never filled is marked invalid."""

    def __init__(self, pairs: Pairs, job: Job) -> None:
        count = len(pairs.anchor)
        self._pairs, self._job = pairs, job
        self._schema = token_schema(job.num_latents, job.codebook_dim, job.codebook_size, job.columns)
        self._codes = np.full((count, job.num_latents), -1, np.int16)
        self._has_latents = "latents" in self._schema.names
        width = job.num_latents * job.codebook_dim if self._has_latents else 0
        self._latents = np.full((count, width), np.nan, np.float16)
        self._margin = np.full(count, np.nan, np.float32)
        self._motion = np.full(count, np.nan, np.float32)
        self._whole_picture = np.full(count, False)
        self._kept = np.full(count, True)

    def set_motion(self, rows: np.ndarray, motion: np.ndarray) -> None:
        self._motion[rows] = motion

    def set_whole_picture(self, rows: np.ndarray, is_whole: np.ndarray) -> None:
        self._whole_picture[rows] = is_whole

    def fill(self, rows: np.ndarray, encoded: EncodedPairs) -> None:
        if encoded.codes is not None:
            self._codes[rows], self._margin[rows] = encoded.codes, encoded.margin
        if self._has_latents:
            self._latents[rows] = encoded.latents

    def leave_out(self, rows: np.ndarray) -> None:
        """These rows will not be in the table."""
        self._kept[rows] = False

    def moving_pairs(self) -> MotionCounts:
        """Of the rows that will be in the table."""
        moving = self._kept & (self._motion >= IDLE_MOTION)  # false for nan, where invalid
        return MotionCounts(int(moving.sum()), int((moving & self._whole_picture).sum()))

    def table(self, unit: Unit, timestamps: np.ndarray, signals: Signals) -> pa.Table:
        pairs, count = self._pairs, len(self._pairs.anchor)
        columns = {
            "episode": _constant(unit.episode, count),
            "episode_index": pa.array([unit.episode_index] * count, pa.int64()),
            "camera": _constant(unit.camera, count),
            "stride": pa.DictionaryArray.from_arrays(pairs.stride.astype(np.int32), pa.array(self._job.strides)),
            "frame_index": pa.array(pairs.anchor.astype(np.int32)),
            "future_frame_index": pa.array(pairs.future.astype(np.int32)),
            "timestamp": pa.array(timestamps[pairs.anchor]),
            "future_timestamp": pa.array(timestamps[pairs.future], mask=~pairs.valid),
            "codes": self._codes,
            "latents": self._latents,
            "code_margin": pa.array(self._margin, mask=np.isnan(self._margin)),
            "motion": pa.array(self._motion, mask=~pairs.valid),
            "valid": pa.array(pairs.valid),
            **_signal_columns(self._schema.names, pairs, signals),
        }
        table = pa.table(
            [
                _fixed_lists(columns[field.name], field)
                if pa.types.is_fixed_size_list(field.type)
                else columns[field.name]
                for field in self._schema
            ],
            schema=self._schema,
        )
        return table if self._kept.all() else table.filter(pa.array(self._kept))


def ordered_rows(
    units: Iterable[Unit], table_of: Callable[[Unit], pa.Table], strides: tuple[str, ...]
) -> Iterator[pa.Table]:
    """The rows of an episode's units in the table's order, (camera, stride, frame_index), piece by piece.

    `units` come sorted by camera and frame. A unit's table is asked for once a stride, and held no longer.
    """
    for _, camera_units in groupby(units, key=lambda unit: unit.camera):
        of_camera = list(camera_units)
        for stride in strides:
            for unit in of_camera:
                table = table_of(unit)
                rows = table.filter(pc.equal(table["stride"].cast(pa.string()), stride))
                if rows.num_rows:
                    yield rows


def _signal_columns(names: list[str], pairs: Pairs, signals: Signals) -> dict[str, pa.Array]:
    """The text at frame t, and what was done from frame t up to the later frame: row by row, and summed."""
    columns: dict[str, pa.Array] = {}
    if "text" in names:
        texts = None if signals.texts is None else [signals.texts[frame] for frame in pairs.anchor.tolist()]
        plain = pa.nulls(len(pairs.anchor), pa.string()) if texts is None else pa.array(texts, pa.string())
        columns["text"] = plain.dictionary_encode()
    if "action_chunk" in names:
        chunks: list[np.ndarray | None] = [
            None if future < 0 or signals.actions is None else signals.actions[frame:future]
            for frame, future in zip(pairs.anchor.tolist(), pairs.future.tolist(), strict=True)
        ]
        columns["action_chunk"] = pa.array([None if chunk is None else list(chunk) for chunk in chunks])
        columns["action_sum"] = pa.array([None if chunk is None else chunk.sum(0, np.float64) for chunk in chunks])
    return columns


def _constant(text: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([text]))


def _fixed_lists(values: np.ndarray, field: pa.Field) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=field.type)
