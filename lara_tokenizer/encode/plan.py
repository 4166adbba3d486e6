"""What a job will do with an episode: its pairs, cut into units. It follows from the episode and the options alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lara_tokenizer.data import Episode, Stride
from lara_tokenizer.data.stride import TOLERANCE
from lara_tokenizer.errors import EpisodeReadError
from lara_tokenizer.table.schema import OPTIONAL_COLUMNS

logger = logging.getLogger(__name__)

# A unit is what one worker does at a time and what is lost by a kill.
MAX_ANCHORS = 1024
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Job:
    """The options on which the rows of a table depend, and the sizes of the model.

    `codebook_size` is None for a continuous bottleneck. Strides are sorted as the table sorts them, as text.
    """

    strides: tuple[str, ...]
    num_latents: int
    codebook_dim: int
    codebook_size: int | None
    every: str = "1f"
    columns: tuple[str, ...] = ()
    keep_tail: bool = False
    min_motion: float = 0.0
    batch_size: int = 64
    dtype: str = "float32"

    @property
    def needs_signals(self) -> bool:
        """Rows hold more than what the pixels give."""
        return bool({"actions", "text"} & set(self.columns))


class ModelSizes(Protocol):
    """What a job needs to know of a model: a `LatentActionConfig` has it, and so has a `Checkpoint`."""

    @property
    def num_latents(self) -> int: ...
    @property
    def codebook_dim(self) -> int: ...
    @property
    def codebook_size(self) -> int | None: ...
    @property
    def strides(self) -> Sequence[str]: ...


def make_job(
    sizes: ModelSizes,
    *,
    strides: str | Sequence[str] | None = None,
    every: str = "1f",
    columns: str | Sequence[str] = (),
    keep_tail: bool = False,
    min_motion: float = 0.0,
    batch_size: int = 64,
    dtype: str = "float32",
) -> Job:
    """Check the options and fill in what the model says. Options are those of `encode_dataset`.

    Raises ValueError naming the option, what came and what it takes. Logs a warning for a stride on which the model
    was not trained.

    >>> make_job(LatentActionConfig(), strides=["5f", "1f", "5f"]).strides  # doctest: +SKIP
    ('1f', '5f')
    """
    asked = [strides] if isinstance(strides, str) else list(strides or sizes.strides[:1])
    parsed = {Stride.parse(text).text: Stride.parse(text) for text in asked}
    columns = [columns] if isinstance(columns, str) else columns
    if unknown := sorted(set(columns) - set(OPTIONAL_COLUMNS)):
        raise ValueError(
            f"column {unknown[0]!r}: there is no such column to add; there is {', '.join(OPTIONAL_COLUMNS)}"
        )
    if not 0 <= min_motion < 1:
        raise ValueError(
            f"min_motion {min_motion}: takes a mean change of the pixels, 0 (keep all) to 1; noise is 0.004"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: takes at least 1")
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: takes {', '.join(DTYPES)}")
    for stride in parsed.values():
        _warn_untrained(stride, sizes.strides)
    return Job(
        strides=tuple(sorted(parsed)),
        num_latents=sizes.num_latents,
        codebook_dim=sizes.codebook_dim,
        codebook_size=sizes.codebook_size,
        every=Stride.parse(every).text,
        columns=tuple(sorted(set(columns))),
        keep_tail=keep_tail,
        min_motion=float(min_motion),
        batch_size=batch_size,
        dtype=dtype,
    )


def _warn_untrained(stride: Stride, trained_on: Sequence[str]) -> None:
    """Seconds are compared with seconds and frames with frames; nothing is said where the units differ."""
    trained = [Stride.parse(text) for text in trained_on]
    values = [other.value for other in trained if other.unit == stride.unit]
    if values and not min(values) * (1 - TOLERANCE) <= stride.value <= max(values) * (1 + TOLERANCE):
        logger.warning(
            "stride %s: the model was trained on %s; its codes may mean little here", stride.text, ", ".join(trained_on)
        )


@dataclass(frozen=True, slots=True)
class Unit:
    """The anchor frames (first frames of pairs) of one camera from frame `first` to frame `last`, both included."""

    episode: str
    camera: str
    first: int
    last: int
    episode_index: int | None = None


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """An episode's units, and what they hold.

    `pairs` counts valid pairs for each stride over all cameras, `frames` the frames to decode; `notes` are the
    remarks of the reader.
    """

    episode: str
    units: tuple[Unit, ...]
    pairs: dict[str, int]
    frames: int
    notes: tuple[str, ...] = ()

    @property
    def short_of(self) -> tuple[str, ...]:
        """The strides that are longer than the episode."""
        return tuple(stride for stride, count in self.pairs.items() if count == 0)


@dataclass(frozen=True, slots=True)
class Pairs:
    """The rows of a unit, sorted by (stride, anchor). Arrays of one length R, but for `needed`.

    stride: place in `job.strides`. anchor, future: frame numbers, future -1 where the pair is invalid.
    needed: the distinct frames of valid pairs, increasing: what has to be decoded.
    """

    stride: np.ndarray
    anchor: np.ndarray
    future: np.ndarray
    needed: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        return self.future >= 0


def plan_episode(episode: Episode, job: Job) -> EpisodePlan:
    """Count the pairs of an episode and cut its cameras into units; nothing is decoded.

    Raises EpisodeReadError for an unreadable file, ValueError for a stride that its frame rate cannot meet.
    """
    units: list[Unit] = []
    pairs = dict.fromkeys(job.strides, 0)
    frames, notes = 0, []
    for camera in sorted(episode.cameras):
        index = episode.frame_index(camera)
        if index.num_frames == 0:
            raise EpisodeReadError(episode.id, "no frames")
        table = _pairs(Stride.parse(job.every).anchors(index.timestamps), index.timestamps, job)
        units += split_units(episode.id, camera, table.anchor, episode.index)
        for place, stride in enumerate(job.strides):
            pairs[stride] += int((table.valid & (table.stride == place)).sum())
        frames += len(table.needed)
        notes += [index.note] if index.note else []
    return EpisodePlan(episode.id, tuple(units), pairs, frames, tuple(notes))


def split_units(episode: str, camera: str, anchors: np.ndarray, episode_index: int | None = None) -> list[Unit]:
    """Cut the anchors that have a row into units of nearly equal size, at most `MAX_ANCHORS` each.

    >>> [(unit.first, unit.last) for unit in split_units("a", "", np.arange(1500))]
    [(0, 749), (750, 1499)]
    """
    anchors = np.unique(anchors)
    if not len(anchors):
        return []
    parts = np.array_split(anchors, math.ceil(len(anchors) / MAX_ANCHORS))
    return [Unit(episode, camera, int(part[0]), int(part[-1]), episode_index) for part in parts]


def unit_pairs(unit: Unit, timestamps: np.ndarray, job: Job) -> Pairs:
    """The rows of one unit; `timestamps` is float64 (n,), all frames of the episode in seconds."""
    anchors = Stride.parse(job.every).anchors(timestamps)
    return _pairs(anchors[(anchors >= unit.first) & (anchors <= unit.last)], timestamps, job)


def _pairs(anchors: np.ndarray, timestamps: np.ndarray, job: Job) -> Pairs:
    futures = np.stack([Stride.parse(text).future_indices(timestamps, anchors) for text in job.strides])
    keep = np.full(futures.shape, True) if job.keep_tail else futures >= 0
    stride, place = np.nonzero(keep)
    future = futures[keep]
    needed = np.unique(np.concatenate([anchors[place][future >= 0], future[future >= 0]]))
    return Pairs(stride, anchors[place], future, needed)
