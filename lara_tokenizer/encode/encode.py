"""`encode_unit`: frames of a unit to rows of the table. Each frame passes the vision encoder once, for all strides.

Shape suffixes: B batch, N latent tokens, D codebook dimension, S side of the model's frames, R rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Unpack

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lara_tokenizer.data import Episode, Signals
from lara_tokenizer.data.actions.motion import state_changes
from lara_tokenizer.encode.camera_motion import image_cells, is_global_motion
from lara_tokenizer.encode.model_runner import (
    EncodedPairs,
    EpisodeFrames,
    Frame,
    ModelRunner,
    Runner,
    UnitFrames,
    batch_sizes,
    dtype_name,
    in_eval_mode,
)
from lara_tokenizer.encode.options import EncodeOptions, RowKeywords, resolve_options
from lara_tokenizer.encode.plan import Pairs, Unit, ordered_rows, plan_episode, unit_pairs
from lara_tokenizer.metrics import brightness_and_contrast
from lara_tokenizer.table.reader import combine
from lara_tokenizer.table.schema import to_arrow, to_names
from lara_tokenizer.table.statistics import MotionCounts, is_moving, with_motion_counts

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor


def encode_episode(
    episode: Episode,
    model: LatentActionPreTrainedModel,
    processor: LatentActionProcessor,
    **options: Unpack[RowKeywords],
) -> pa.Table:
    """Encode one episode in this process, for custom loops.

    Args:
        episode: of `load_episodes`, or built around a custom reader.
        model, processor: where and in the dtype that they are.
        options: strides, every, columns, keep_tail, min_motion and batch_size, as in `encode_dataset`.

    Returns:
        One row per pair, columns of `token_schema`, sorted by (camera, stride, frame_index).

    Raises:
        EpisodeReadError: the video cannot be read.
        ValueError: an option is out of range, or an argument is in another's place.

    >>> table = encode_episode(load_episodes("clip.mp4")[0], model, processor, strides="0.6s")  # doctest: +SKIP
    """
    _check_order(episode, model, processor)
    resolved = resolve_options(model.config, dtype=dtype_name(model.dtype), **options)
    with in_eval_mode(model):
        runner = ModelRunner(model, processor)
        tables = {}
        # The same units as in a job, so that an episode gets the same rows either way.
        for unit in plan_episode(episode, resolved).units:
            frames = EpisodeFrames(episode, unit.camera, processor, with_signals=resolved.needs_signals)
            tables[unit] = encode_unit(unit, frames, runner, resolved)
    return combine([resolved.schema.empty_table(), *ordered_rows(tables, tables.__getitem__, resolved.strides)])


def _check_order(*given: object) -> None:
    """Raise ValueError unless these are an episode, a model and a processor, told by what is called of each."""
    kinds = {"an Episode": "frame_index", "a model": "get_frame_features", "a LatentActionProcessor": "resize_frames"}
    for place, (argument, (kind, method)) in enumerate(zip(given, kinds.items(), strict=True), 1):
        if not hasattr(argument, method):
            hint = "; load_episodes(path)[0] makes an episode" if place == 1 else ""
            raise ValueError(
                f"encode_episode takes {', '.join(kinds)}, in this order: argument {place} is a "
                f"{type(argument).__name__}, not {kind}{hint}."
            )


def encode_unit(unit: Unit, frames: UnitFrames, model: Runner, options: EncodeOptions) -> pa.Table:
    """Encode the pairs of one unit: a pure function of its arguments.

    Frames are read in order. Each passes the vision encoder once, and once more for each pair whose global motion the
    processor compensates; it is dropped after the last of its pairs. Pairs that move less than `options.min_motion` are
    left out. Batches never cross a unit, and the remainder is cut by `batch_sizes`: rows depend neither on the worker
    nor on its other work.

    Returns:
        The unit's rows, columns of `token_schema`, sorted by (stride, frame_index). Their schema carries the motion
        counts, for `motion_counts_of`.
    """
    pairs = unit_pairs(unit, frames.timestamps, options)
    rows = Rows(pairs, options)
    held = _HeldFrames(pairs)
    queue = _PairQueue(pairs, options.batch_size)
    for indices, pixels_B3SS in _rebatch(pairs.needed, frames.read(pairs.needed), options.batch_size):
        rows.see(indices, pixels_B3SS)
        held.add(indices, pixels_B3SS, model.frame_features(pixels_B3SS))
        for complete in queue.completed_by(indices[-1]):
            # Motion needs pixels only, so pairs are left out before the model sees them.
            now, future = held.get(pairs.anchor[complete]), held.get(pairs.future[complete])
            motion = _motion(now, future)
            is_global = is_global_motion([frame.cells for frame in now], [frame.cells for frame in future])
            rows.set_motion(complete, motion, is_global)
            below_min_motion = motion < options.min_motion
            rows.leave_out(complete[below_min_motion])
            held.release(complete[below_min_motion])
            queue.add(complete[~below_min_motion])
        for batch in queue.full_batches():
            _encode_pairs(batch, pairs, held, model, rows)
    for batch in queue.last_batches():
        _encode_pairs(batch, pairs, held, model, rows)
    return with_motion_counts(rows.table(unit, frames.timestamps, frames.signals), rows.motion_counts())


def _encode_pairs(batch: np.ndarray, pairs: Pairs, held: _HeldFrames, model: Runner, rows: Rows) -> None:
    now, future = held.get(pairs.anchor[batch]), held.get(pairs.future[batch])
    rows.fill(batch, model.encode([frame.features for frame in now], model.future_features(now, future)))
    held.release(batch)


def _motion(now: list[Frame], future: list[Frame]) -> np.ndarray:
    """Mean absolute change of a pixel, 0 to 1: float32 (B,)."""
    pixels_B3SS = torch.stack([frame.pixels_3SS for frame in now]).to(torch.int16)
    change_B3SS = pixels_B3SS.sub_(torch.stack([frame.pixels_3SS for frame in future])).abs_()
    # Sums of integers: no rounding, so the value is the same on every machine.
    sums_B = change_B3SS.flatten(1).sum(1, dtype=torch.int64)
    return (sums_B.numpy() / (255 * change_B3SS[0].numel())).astype(np.float32)


def _rebatch(indices: np.ndarray, chunks: Iterable[Tensor], batch_size: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Regroup chunks of any length into batches of `batch_sizes`, each with its frame indices."""
    # The reader's chunks depend on the size of its frames. Batches must not, or rounding in the model would.
    sizes, start, pending = batch_sizes(len(indices), batch_size), 0, torch.empty(0, dtype=torch.uint8)
    for chunk in chunks:
        pending = torch.cat([pending, chunk]) if len(pending) else chunk
        while sizes and len(pending) >= sizes[0]:
            count = sizes.pop(0)
            yield indices[start : start + count], pending[:count]
            start, pending = start + count, pending[count:]
    assert not sizes, "the reader returned fewer frames than were requested"


class _HeldFrames:
    """The frames of a unit that are read and still have a pair to come."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        used = np.concatenate([pairs.anchor[pairs.valid], pairs.future[pairs.valid]])
        # Number of pairs that still need each frame; at 0 the frame is dropped, which bounds memory by the longest
        # stride and a batch.
        self._uses = dict(zip(*(array.tolist() for array in np.unique(used, return_counts=True)), strict=True))
        self._frames: dict[int, Frame] = {}

    def add(self, indices: np.ndarray, pixels_B3SS: Tensor, features: Tensor) -> None:
        frames = map(Frame, pixels_B3SS, features, image_cells(pixels_B3SS))
        self._frames |= zip(indices.tolist(), frames, strict=True)

    def get(self, indices: np.ndarray) -> list[Frame]:
        return [self._frames[index] for index in indices.tolist()]

    def release(self, rows: np.ndarray) -> None:
        """Count these pairs as done; drop frames without further pairs."""
        for index in (*self._pairs.anchor[rows].tolist(), *self._pairs.future[rows].tolist()):
            self._uses[index] -= 1
            if not self._uses[index]:
                del self._frames[index]


class _PairQueue:
    """The valid pairs of a unit, in the order of their future frames, cut into batches."""

    def __init__(self, pairs: Pairs, batch_size: int) -> None:
        order = np.flatnonzero(pairs.valid)
        # Stable: pairs with the same future frame stay in row order, so every run forms the same batches.
        self._order = order[np.argsort(pairs.future[order], kind="stable")]
        self._future = pairs.future[self._order]
        self._batch_size = batch_size
        self._done = 0
        self._pending = order[:0]

    def completed_by(self, frame: int) -> Iterator[np.ndarray]:
        """Rows whose future frame is `frame` or an earlier one, each once, at most a batch at a time."""
        stop = int(np.searchsorted(self._future, frame, side="right"))
        for start in range(self._done, stop, self._batch_size):
            yield self._order[start : min(start + self._batch_size, stop)]
        self._done = stop

    def add(self, rows: np.ndarray) -> None:
        """Rows to encode."""
        self._pending = np.concatenate([self._pending, rows])

    def full_batches(self) -> Iterator[np.ndarray]:
        """All batches of full size."""
        while len(self._pending) >= self._batch_size:
            batch, self._pending = np.split(self._pending, [self._batch_size])
            yield batch

    def last_batches(self) -> list[np.ndarray]:
        """The remainder, cut by `batch_sizes`."""
        sizes = batch_sizes(len(self._pending), self._batch_size)
        return np.split(self._pending, np.cumsum(sizes)[:-1]) if sizes else []


class Rows:
    """The columns of a unit's R rows, filled batch by batch. Rows that are never filled are invalid."""

    def __init__(self, pairs: Pairs, options: EncodeOptions) -> None:
        count = len(pairs.anchor)
        self._pairs = pairs
        self._strides = options.strides
        self._schema = options.schema
        # -1 and NaN are the values of invalid rows.
        self._codes = np.full((count, options.num_latents), -1, np.int16)
        self._has_latents = "latents" in self._schema.names
        width = options.num_latents * options.codebook_dim if self._has_latents else 0
        self._latents = np.full((count, width), np.nan, np.float16)
        self._margin = np.full(count, np.nan, np.float32)
        self._motion = np.full(count, np.nan, np.float32)
        self._is_global = np.full(count, False)
        self._is_kept = np.full(count, True)
        self._levels = np.zeros((2, len(pairs.needed)), np.int64)  # brightness and contrast of each frame

    def see(self, indices: np.ndarray, pixels_B3SS: Tensor) -> None:
        """Frames of the unit, uint8, for its counts."""
        levels_2B = torch.stack(brightness_and_contrast(pixels_B3SS))
        self._levels[:, np.searchsorted(self._pairs.needed, indices)] = torch.round(1e6 * levels_2B).long().numpy()

    def set_motion(self, rows: np.ndarray, motion: np.ndarray, is_global: np.ndarray) -> None:
        self._motion[rows] = motion
        self._is_global[rows] = is_global

    def fill(self, rows: np.ndarray, encoded: EncodedPairs) -> None:
        if encoded.codes is not None:
            self._codes[rows] = encoded.codes
            self._margin[rows] = encoded.margin
        if self._has_latents:
            self._latents[rows] = encoded.latents

    def leave_out(self, rows: np.ndarray) -> None:
        """Keep these rows out of the table."""
        self._is_kept[rows] = False

    def motion_counts(self) -> MotionCounts:
        """Moving pairs among the rows of the table, and pixels of frame t of each pair.

        Once a pair, not once a frame: the sums of two tables of other strides are then those of one table of both.
        """
        moving = self._is_kept & is_moving(self._motion)
        anchors = self._pairs.anchor[self._is_kept & self._pairs.valid]
        brightness, contrast = self._levels[:, np.searchsorted(self._pairs.needed, anchors)].sum(1).tolist()
        return MotionCounts(
            int(moving.sum()), int((moving & self._is_global).sum()), len(anchors), brightness, contrast
        )

    def table(self, unit: Unit, timestamps: np.ndarray, signals: Signals) -> pa.Table:
        pairs, count = self._pairs, len(self._pairs.anchor)
        # The dictionary of strides is that of the job, also where a unit lacks one: equal units give equal bytes.
        columns = {
            "episode": _constant(unit.episode, count),
            "episode_index": to_arrow(np.full(count, unit.episode_index or 0), unit.episode_index is not None),
            "camera": _constant(unit.camera, count),
            "stride": to_names(self._strides, pairs.stride.astype(np.int32)),
            "frame_index": to_arrow(pairs.anchor.astype(np.int32)),
            "future_frame_index": to_arrow(pairs.future.astype(np.int32)),
            "timestamp": to_arrow(timestamps[pairs.anchor]),
            "future_timestamp": to_arrow(timestamps[pairs.future], pairs.valid),
            "codes": self._codes,
            "latents": self._latents,
            "code_margin": to_arrow(self._margin, ~np.isnan(self._margin)),
            "motion": to_arrow(self._motion, pairs.valid),
            "valid": to_arrow(pairs.valid),
            **_signal_columns(self._schema.names, pairs, signals),
        }
        arrays = [
            pa.FixedSizeListArray.from_arrays(to_arrow(columns[field.name].reshape(-1)), type=field.type)
            if pa.types.is_fixed_size_list(field.type)
            else columns[field.name]
            for field in self._schema
        ]
        table = pa.table(arrays, schema=self._schema)
        return table if self._is_kept.all() else table.filter(to_arrow(self._is_kept))


def _signal_columns(names: list[str], pairs: Pairs, signals: Signals) -> dict[str, pa.Array]:
    """The text at frame t; the actions from frame t up to, not including, the future frame, as rows and summed; and the
    change of the state between the two frames.
    """
    columns: dict[str, pa.Array] = {}
    if "text" in names:
        texts = None if signals.texts is None else [signals.texts[frame] for frame in pairs.anchor.tolist()]
        strings = pa.nulls(len(pairs.anchor), pa.string()) if texts is None else pa.array(texts, pa.string())
        columns["text"] = strings.dictionary_encode()
    if "action_chunk" in names:
        chunks: list[np.ndarray | None] = [
            None if future < 0 or signals.actions is None else signals.actions[frame:future]
            for frame, future in zip(pairs.anchor.tolist(), pairs.future.tolist(), strict=True)
        ]
        # Sums in float64, stored as float32: rounded once, not once per frame.
        columns["action_chunk"] = pa.array([None if chunk is None else list(chunk) for chunk in chunks])
        columns["action_sum"] = pa.array([None if chunk is None else chunk.sum(0, np.float64) for chunk in chunks])
        columns["state_change"] = _state_changes(pairs, signals)
    return columns


def _state_changes(pairs: Pairs, signals: Signals) -> pa.Array:
    """The change of the state of each pair; null where it is invalid, and without states."""
    changes: list[np.ndarray | None] = [None] * len(pairs.anchor)
    valid = np.flatnonzero(pairs.valid)
    of_valid = state_changes(signals, pairs.anchor[valid], pairs.future[valid])
    if of_valid is not None:
        for row, change in zip(valid.tolist(), of_valid, strict=True):
            changes[row] = change
    return pa.array(changes, pa.list_(pa.float32()))


def _constant(text: str, count: int) -> pa.DictionaryArray:
    return to_names([text], np.zeros(count, np.int32))
