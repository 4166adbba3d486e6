"""A unit of video to rows of the table: each frame through the vision encoder once, for all strides at once.

Shape suffixes: B batch, P tokens of a frame, V width of the vision encoder, N latent tokens, D codebook dimension,
S side of the model's frames, R rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lara_tokenizer.data import Episode, Signals
from lara_tokenizer.encode.plan import Job, Pairs, Unit, make_job, plan_episode, unit_pairs
from lara_tokenizer.encode.rows import EncodedPairs, Rows, ordered_rows
from lara_tokenizer.encode.whole_picture import moves_as_whole, picture_cells
from lara_tokenizer.table.schema import token_schema
from lara_tokenizer.table.statistics import with_motion_counts

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor

# Full-size frames held at a time, in bytes: small enough to stay near the cache, large enough to amortise calls.
_CHUNK_BYTES = 8 * 2**20
_FIRST_CHUNK = 4


class UnitFrames(Protocol):
    """The pixels of a unit's episode and camera."""

    timestamps: np.ndarray  # float64 (n,), seconds, of all frames
    signals: Signals  # of all frames; empty where the job asks for none

    def read(self, indices: np.ndarray) -> Iterator[Tensor]:
        """The frames asked for, in order, resized by the processor: uint8 (any number, 3, S, S) a piece."""


class EpisodeFrames:
    """`UnitFrames` of an episode in this process. Raises EpisodeReadError where its signals do not match its frames."""

    def __init__(self, episode: Episode, camera: str, processor: LatentActionProcessor, job: Job) -> None:
        self.timestamps = episode.timestamps(camera)
        self.signals = episode.signals() if job.needs_signals else Signals()
        self.signals.check_length(len(self.timestamps), episode.id)
        self._episode, self._camera, self._processor = episode, camera, processor

    def read(self, indices: np.ndarray) -> Iterator[Tensor]:
        start, count = 0, _FIRST_CHUNK
        while start < len(indices):
            frames = self._episode.frames(self._camera, indices[start : start + count])
            yield self._processor.resize_frames(frames)
            start += len(frames)
            count = max(1, _CHUNK_BYTES // frames[0].nbytes)


class Runner(Protocol):
    """Runs a model for `encode_unit`; `ModelRunner` is the plain one."""

    def frame_features(self, frames_B3SS: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) -> (B, P, V)."""

    def future_features(self, now: Sequence[Frame], future: Sequence[Frame]) -> list[Tensor]:
        """Features of the later frames of B pairs, each (P, V), as the model is to see them beside the earlier ones."""

    def encode(self, features: Sequence[Tensor], future_features: Sequence[Tensor]) -> EncodedPairs:
        """Features of B pairs, each (P, V), to latents, codes and margins."""


class ModelRunner:
    """A model, which is in eval mode, and its processor's normalisation: without gradients, where the model is.

    Raises ValueError for a model in another dtype than its codes bear.
    """

    def __init__(self, model: LatentActionPreTrainedModel, processor: LatentActionProcessor) -> None:
        assert not model.training, "in training mode rows would depend on their batch"
        check_dtype(type(model), _name(model.dtype))
        self.model, self.processor = model, processor

    @torch.inference_mode()
    def frame_features(self, frames_B3SS: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) -> (B, P, V)."""
        pixel_values = self.processor.normalize_frames(frames_B3SS.to(self.model.device))
        return self.model.get_frame_features(pixel_values.to(self.model.dtype))

    @torch.inference_mode()
    def future_features(self, now: Sequence[Frame], future: Sequence[Frame]) -> list[Tensor]:
        """Those there are; of the pairs that the processor steadies, new ones."""
        features = [frame.features for frame in future]
        if not self.processor.steady_pairs:
            return features
        before, after = (torch.stack([frame.pixels_3SS for frame in frames]) for frames in (now, future))
        steady = self.processor.steady_future(before, after)
        moved = (steady != after).flatten(1).any(1).nonzero().flatten().tolist()
        again = [self.frame_features(part) for part in steady[moved].split(batch_sizes(len(moved), len(after)))]
        for row, new in zip(moved, (new for part in again for new in part), strict=True):
            features[row] = new
        return features

    @torch.inference_mode()
    def encode(self, features: Sequence[Tensor], future_features: Sequence[Tensor]) -> EncodedPairs:
        """Features of B pairs, each (P, V), to latents, codes and margins.

        Raises ValueError where a latent is no finite number: its nearest code would be 0, and look valid.
        """
        out = self.model.encode(
            frame_features=torch.stack(list(features)), future_frame_features=torch.stack(list(future_features))
        )
        assert out.latents is not None
        if not out.latents.isfinite().all():
            raise ValueError(_not_finite(self.model.dtype))
        latents = out.latents.flatten(1).to("cpu", torch.float16).numpy()
        if out.codes is None or out.code_margin is None:
            return EncodedPairs(latents, None, None)
        margin = out.code_margin.float().mean(1).cpu().numpy()
        return EncodedPairs(latents, out.codes.to("cpu", torch.int16).numpy(), margin)


def _not_finite(dtype: torch.dtype) -> str:
    advice = "The weights are damaged, or of another model." if dtype == torch.float32 else "Use dtype float32."
    return f"latents are not finite in {_name(dtype)}: there is no code for them. {advice}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_dtype(family: type[LatentActionPreTrainedModel], dtype: str) -> None:
    """Raise ValueError for a dtype in which a family's codes would be others."""
    if family.needs_float32 and dtype != "float32":
        raise ValueError(
            f"{family.__name__} labels in float32 only, and this is {dtype}: its z is a small difference of large "
            "numbers, so that 16 bits change many codes (a fifth of them in bfloat16, on video of robots). Use dtype "
            "float32."
        )


@contextmanager
def in_eval_mode(model: LatentActionPreTrainedModel) -> Iterator[None]:
    """Evaluate a model that may be in the middle of its training; each module goes back to the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def encode_unit(unit: Unit, frames: UnitFrames, model: Runner, job: Job) -> pa.Table:
    """Encode the pairs of one unit: a pure function of its arguments.

    Frames stream through in order. Each goes through the vision encoder once, and once more for each pair in which the
    processor steadies it; it is dropped when the last of its pairs is done. Pairs that move less than `job.min_motion`
    are left out. Batches never cross a unit, and a remainder runs on the sizes of `batch_sizes`: the rows depend
    neither on the worker nor on what else it does.

    Returns:
        The unit's rows (columns of `token_schema`), sorted by (stride, frame_index); `motion_counts_of` reads their
        counts of moving pairs.
    """
    pairs = unit_pairs(unit, frames.timestamps, job)
    rows, held, queue = Rows(pairs, job), _HeldFrames(pairs), _PairQueue(pairs, job.batch_size)
    for indices, pixels_B3SS in _rebatch(pairs.needed, frames.read(pairs.needed), job.batch_size):
        held.add(indices, pixels_B3SS, model.frame_features(pixels_B3SS))
        for complete in queue.completed_by(indices[-1]):
            now, future = held.get(pairs.anchor[complete]), held.get(pairs.future[complete])
            motion = _motion(now, future)
            rows.set_motion(complete, motion)
            rows.set_whole_picture(complete, moves_as_whole([f.cells for f in now], [f.cells for f in future]))
            idle = complete[motion < job.min_motion]
            rows.leave_out(idle)
            held.drop_used(idle)
            queue.wait(complete[motion >= job.min_motion])
        for batch in queue.full_batches():
            _encode_pairs(batch, pairs, held, model, rows)
    for batch in queue.last_batches():
        _encode_pairs(batch, pairs, held, model, rows)
    return with_motion_counts(rows.table(unit, frames.timestamps, frames.signals), rows.moving_pairs())


def _encode_pairs(batch: np.ndarray, pairs: Pairs, held: _HeldFrames, model: Runner, rows: Rows) -> None:
    now, future = held.get(pairs.anchor[batch]), held.get(pairs.future[batch])
    rows.fill(batch, model.encode([frame.features for frame in now], model.future_features(now, future)))
    held.drop_used(batch)


class _PairQueue:
    """The valid pairs of a unit in the order in which their later frames come, cut into batches."""

    def __init__(self, pairs: Pairs, batch_size: int) -> None:
        order = np.flatnonzero(pairs.valid)
        self._order = order[np.argsort(pairs.future[order], kind="stable")]
        self._future = pairs.future[self._order]
        self._batch_size = batch_size
        self._done, self._waiting = 0, order[:0]

    def completed_by(self, frame: int) -> Iterator[np.ndarray]:
        """Rows whose later frame is this or an earlier one, each once, at most a batch at a time."""
        stop = int(np.searchsorted(self._future, frame, side="right"))
        for start in range(self._done, stop, self._batch_size):
            yield self._order[start : min(start + self._batch_size, stop)]
        self._done = stop

    def wait(self, rows: np.ndarray) -> None:
        """Rows that are to be encoded."""
        self._waiting = np.concatenate([self._waiting, rows])

    def full_batches(self) -> Iterator[np.ndarray]:
        """As many as there are."""
        while len(self._waiting) >= self._batch_size:
            batch, self._waiting = np.split(self._waiting, [self._batch_size])
            yield batch

    def last_batches(self) -> list[np.ndarray]:
        """The remainder, on the sizes of `batch_sizes`."""
        sizes = batch_sizes(len(self._waiting), self._batch_size)
        return np.split(self._waiting, np.cumsum(sizes)[:-1]) if sizes else []


def batch_sizes(count: int, largest: int) -> list[int]:
    """How `count` items are cut: full batches, then the remainder on a fixed ladder of halves.

    A kernel may round differently at another batch size; so there are few sizes, and the same ones for everybody.

    >>> batch_sizes(100, 64)
    [64, 32, 4]
    """
    sizes = []
    while count:
        while largest > count:
            largest //= 2
        sizes.append(largest)
        count -= largest
    return sizes


def encode_episode(
    episode: Episode,
    model: LatentActionPreTrainedModel,
    processor: LatentActionProcessor,
    *,
    strides: str | Sequence[str] | None = None,
    every: str = "1f",
    columns: str | Sequence[str] = (),
    keep_tail: bool = False,
    min_motion: float = 0.0,
    batch_size: int = 64,
) -> pa.Table:
    """Encode one episode in this process, for a loop of one's own.

    Args:
        episode: of `load_episodes`, or built around a reader of one's own.
        strides: gaps of a pair, "0.6s" or "5f"; default: the first that the model was trained on.
        every: which frames start a pair: "1f" all of them, "0.5s" two a second.
        columns: extra columns: "latents", "actions" (action_chunk and action_sum), "text".
        keep_tail: keep rows whose future frame lies past the end, with `valid` false and codes -1.
        min_motion: leave out pairs whose pixels change by less on average, 0 to 1 (the column `motion`).
        batch_size: frames, and pairs, a call of the model.

    Returns:
        One row a pair, columns of `token_schema`, sorted by (camera, stride, frame_index).

    Raises:
        EpisodeReadError: the video cannot be read. ValueError: an option is out of range.

    >>> table = encode_episode(load_episodes("clip.mp4")[0], model, processor, strides="0.6s")  # doctest: +SKIP
    """
    job = make_job(
        model.config,
        strides=strides,
        every=every,
        columns=columns,
        keep_tail=keep_tail,
        min_motion=min_motion,
        batch_size=batch_size,
        dtype=_name(model.dtype),
    )
    with in_eval_mode(model):
        runner = ModelRunner(model, processor)
        tables = {
            unit: encode_unit(unit, EpisodeFrames(episode, unit.camera, processor, job), runner, job)
            for unit in plan_episode(episode, job).units
        }
    empty = token_schema(job.num_latents, job.codebook_dim, job.codebook_size, job.columns).empty_table()
    pieces = ordered_rows(tables, tables.__getitem__, job.strides)
    return pa.concat_tables([empty, *pieces]).unify_dictionaries().combine_chunks()


def _rebatch(indices: np.ndarray, pieces: Iterable[Tensor], batch_size: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Pieces of any length to batches of `batch_sizes`, each with its frame numbers."""
    sizes, start, waiting = batch_sizes(len(indices), batch_size), 0, torch.empty(0, dtype=torch.uint8)
    for piece in pieces:
        waiting = torch.cat([waiting, piece]) if len(waiting) else piece
        while sizes and len(waiting) >= sizes[0]:
            count = sizes.pop(0)
            yield indices[start : start + count], waiting[:count]
            start, waiting = start + count, waiting[count:]
    assert not sizes, "the reader gave fewer frames than were asked for"


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that is held until the last of its pairs is done."""

    pixels_3SS: Tensor  # uint8
    features: Tensor  # (P, V)
    cells: Tensor  # of `picture_cells`


class _HeldFrames:
    """The frames of a unit that still have a pair to come."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        used = np.concatenate([pairs.anchor[pairs.valid], pairs.future[pairs.valid]])
        self._uses = dict(zip(*(array.tolist() for array in np.unique(used, return_counts=True)), strict=True))
        self._frames: dict[int, Frame] = {}

    def add(self, indices: np.ndarray, pixels_B3SS: Tensor, features: Tensor) -> None:
        frames = map(Frame, pixels_B3SS, features, picture_cells(pixels_B3SS))
        self._frames |= zip(indices.tolist(), frames, strict=True)

    def get(self, indices: np.ndarray) -> list[Frame]:
        return [self._frames[index] for index in indices.tolist()]

    def drop_used(self, batch: np.ndarray) -> None:
        for index in (*self._pairs.anchor[batch].tolist(), *self._pairs.future[batch].tolist()):
            self._uses[index] -= 1
            if not self._uses[index]:
                del self._frames[index]


def _motion(now: list[Frame], future: list[Frame]) -> np.ndarray:
    """float32 (B,): mean absolute change of a pixel, 0 to 1. The sums are of whole numbers: no rounding enters them."""
    pixels_B3SS = torch.stack([frame.pixels_3SS for frame in now]).to(torch.int16)
    change_B3SS = pixels_B3SS.sub_(torch.stack([frame.pixels_3SS for frame in future])).abs_()
    sums_B = change_B3SS.flatten(1).sum(1, dtype=torch.int64)
    return (sums_B.numpy() / (255 * change_B3SS[0].numel())).astype(np.float32)
