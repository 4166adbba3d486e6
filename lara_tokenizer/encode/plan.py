"""Options of a job, and the plan of an episode: its pairs of frames, cut into units. No pixels, no torch.

A plan follows from the frame times and the options alone, so every run of a job makes the same one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, TypedDict, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lara_tokenizer.data import Episode, FrameIndex, LoadOptions, Stride
from lara_tokenizer.errors import EpisodeReadError, printable
from lara_tokenizer.table.metadata import CONTENT
from lara_tokenizer.table.provenance import FileState, change_of, content_sha256, file_states, joint_sha256
from lara_tokenizer.table.schema import OPTIONAL_COLUMNS, token_schema
from lara_tokenizer.verdict.findings import stride_findings

logger = logging.getLogger(__name__)

# A unit is what one worker does at a time, and what a kill loses at most.
MAX_ANCHORS = 1024
DTYPES = ("float32", "bfloat16", "float16")


class RowKeywords(TypedDict, total=False):
    """The keywords of `encode_dataset` that decide rows, besides the model and its dtype."""

    strides: str | Sequence[str] | None
    every: str
    columns: str | Sequence[str]
    keep_tail: bool
    min_motion: float
    batch_size: int


class EncodeKeywords(RowKeywords, LoadOptions, total=False):
    """The keywords of `encode_dataset`, without those of its output, for functions that pass them on."""

    dtype: str | None
    device: str | None
    workers: int | None


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """Options on which the rows of a table depend, checked, with the sizes of the model.

    Raises ValueError naming the option, its value and what it takes.
    """

    strides: tuple[str, ...]
    """Sorted as text, as in the table."""
    num_latents: int
    codebook_dim: int
    codebook_size: int | None
    """None for a continuous bottleneck."""
    every: str = "1f"
    columns: tuple[str, ...] = ()
    keep_tail: bool = False
    min_motion: float = 0.0
    batch_size: int = 64
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.columns) - set(OPTIONAL_COLUMNS)):
            raise ValueError(
                f"column {unknown[0]!r}: unknown; the columns that can be added are {', '.join(OPTIONAL_COLUMNS)}"
            )
        if not 0 <= self.min_motion < 1:
            raise ValueError(
                f"min_motion {self.min_motion}: takes a mean change of the pixels, 0 (keep all) to 1; noise is 0.004"
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size}: takes at least 1")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: takes {', '.join(DTYPES)}")

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table."""
        return token_schema(self.num_latents, self.codebook_dim, self.codebook_size, self.columns)

    @property
    def needs_signals(self) -> bool:
        """True if rows contain actions or text of the episode."""
        return bool({"actions", "text"} & set(self.columns))


class ModelSizes(Protocol):
    """Sizes of a model: those of a `LatentActionConfig` or a `Checkpoint`."""

    @property
    def num_latents(self) -> int: ...
    @property
    def codebook_dim(self) -> int: ...
    @property
    def codebook_size(self) -> int | None: ...
    @property
    def strides(self) -> Sequence[str]: ...


def resolve_options(sizes: ModelSizes, *, dtype: str = "float32", **keywords: Unpack[RowKeywords]) -> EncodeOptions:
    """Normalise the keywords of `encode_dataset`, and complete them by what the model determines.

    Raises ValueError for an option that is out of range. Logs a warning for a stride that the model was not trained on.

    >>> resolve_options(LatentActionConfig(), strides=["5f", "1f", "5f"]).strides  # doctest: +SKIP
    ('1f', '5f')
    """
    if unknown := keywords.keys() - RowKeywords.__annotations__.keys():
        raise TypeError(f"unexpected keyword {min(unknown)!r}; takes {', '.join(RowKeywords.__annotations__)}")
    requested, columns = keywords.get("strides"), keywords.get("columns", ())
    requested = [requested] if isinstance(requested, str) else requested or sizes.strides[:1]
    # A dict, as one stride may be given twice.
    strides = {Stride.parse(text).text: Stride.parse(text) for text in requested}
    options = EncodeOptions(
        strides=tuple(sorted(strides)),
        num_latents=sizes.num_latents,
        codebook_dim=sizes.codebook_dim,
        codebook_size=sizes.codebook_size,
        every=Stride.parse(keywords.get("every", "1f")).text,
        columns=tuple(sorted({columns} if isinstance(columns, str) else set(columns))),
        keep_tail=keywords.get("keep_tail", False),
        min_motion=float(keywords.get("min_motion", 0.0)),
        batch_size=keywords.get("batch_size", 64),
        dtype=dtype,
    )
    for finding in stride_findings(options.strides, sizes.strides):
        logger.warning(finding.sentence)
    return options


@dataclass(frozen=True, slots=True)
class Unit:
    """The pairs whose first frame (anchor) is one of `first` to `last`, both included, of one camera."""

    episode: str
    camera: str
    first: int
    last: int
    episode_index: int | None = None


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """The units of an episode.

    Attributes:
        episode: its id.
        units: sorted by camera and frame.
        pairs: number of valid pairs of each stride over all cameras.
        frames: number of frames to decode.
        notes: remarks of the reader.
        files: states of its local files when it was planned.
        content: digest of what it was made of; "" where that was not asked for.
    """

    episode: str
    units: tuple[Unit, ...]
    pairs: dict[str, int]
    frames: int
    notes: tuple[str, ...] = ()
    files: tuple[FileState, ...] = ()
    content: str = ""

    @property
    def short_of(self) -> tuple[str, ...]:
        """The strides that are longer than the episode."""
        return tuple(stride for stride, count in self.pairs.items() if count == 0)


@dataclass(frozen=True, slots=True)
class Pairs:
    """The R rows of a unit, sorted by (stride, anchor).

    Attributes:
        stride: int (R,), index into `EncodeOptions.strides`.
        anchor, future: int (R,), frame indices; `future` is -1 where the pair is invalid.
        needed: the distinct frames of valid pairs, increasing: those to decode.
    """

    stride: np.ndarray
    anchor: np.ndarray
    future: np.ndarray
    needed: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """bool (R,)."""
        return self.future >= 0


def plan_episode(episode: Episode, options: EncodeOptions) -> EpisodePlan:
    """Count the pairs of an episode and cut its cameras into units; nothing is decoded.

    Raises EpisodeReadError for an unreadable file, or one that changes meanwhile, and ValueError for a stride that its
    frame rate cannot meet.
    """
    files = file_states(episode)
    units: list[Unit] = []
    counts = dict.fromkeys(options.strides, 0)
    frames = 0
    notes: list[str] = []
    indices: dict[str, FrameIndex] = {}
    for camera in sorted(episode.cameras):
        _check_text(camera, episode)
        indices[camera] = index = episode.frame_index(camera)
        if index.num_frames == 0:
            raise EpisodeReadError(episode.id, "no frames")
        # All anchors of the camera at once; units are cut from those that have a row.
        pairs = _pairs(Stride.parse(options.every).anchors(index.timestamps), index.timestamps, options)
        units += split_units(episode.id, camera, pairs.anchor, episode.index)
        for stride_index, stride in enumerate(options.strides):
            counts[stride] += int((pairs.valid & (pairs.stride == stride_index)).sum())
        frames += len(pairs.needed)
        notes += [index.note] if index.note else []
    content = content_sha256(episode, indices, episode.signals() if units and options.needs_signals else None)
    check_unchanged(episode, files)
    return EpisodePlan(episode.id, tuple(units), counts, frames, tuple(notes), files, content)


def check_strides(strides: Iterable[str], episodes: Iterable[Episode]) -> None:
    """Raise ValueError for a text that is no stride, or a stride that no rate can meet, as far as rates are known."""
    parsed = [Stride.parse(text) for text in strides]
    rates = {episode.fps for episode in episodes}
    known = {rate for rate in rates if rate is not None}
    if known != rates:
        return
    for stride in parsed:
        refusals = []
        for rate in sorted(known):
            try:
                stride.frames_at(rate)
            except ValueError as error:
                refusals.append(error)
        if refusals and len(refusals) == len(known):
            raise refusals[0]


def check_some_pairs(plans: Mapping[str, EpisodePlan], episodes: Mapping[str, Episode]) -> None:
    """Raise ValueError if no episode has a pair, naming the longest stride that is possible.

    Only then are the episodes opened again.
    """
    if not plans or any(sum(plan.pairs.values()) for plan in plans.values()):
        return
    strides = ", ".join(sorted({stride for plan in plans.values() for stride in plan.pairs}))
    frames, seconds, longest = 0, 0.0, ""
    for name in plans:
        episode = episodes[name]
        for camera in episode.cameras:
            times = episode.frame_index(camera).timestamps
            if len(times) > frames:
                frames, seconds, longest = len(times), float(times[-1] - times[0]), name
        episode.close()
    if frames < 2:
        raise ValueError(f"0 pairs at stride {strides}: no episode has two frames. A pair takes two of one episode")
    raise ValueError(
        f"0 pairs: every episode is shorter than the stride {strides}. The longest, {printable(longest)}, has {frames} "
        f"frames in {seconds:.4g} s: the longest stride possible is '{frames - 1}f' or '{seconds:.4g}s'. Pass a "
        "shorter --stride"
    )


def content_of(plans: Iterable[EpisodePlan]) -> dict[str, str]:
    """The entry of a table's metadata for the content that it was made of; none where no file of it is local."""
    plans = list(plans)
    if not any(plan.files for plan in plans):
        return {}
    return {CONTENT: joint_sha256({plan.episode: plan.content for plan in plans})}


def check_unchanged(episode: Episode, files: Sequence[FileState]) -> None:
    """Raise EpisodeReadError unless the episode's local files are as they were; without `files` nothing is checked."""
    if files and (change := change_of(files, file_states(episode))):
        raise EpisodeReadError(episode.id, f"{change} while it was read")


def _check_text(camera: str, episode: Episode) -> None:
    """Raise EpisodeReadError for a camera whose name no table can hold: JSON may contain halves of characters."""
    try:
        camera.encode()
    except UnicodeEncodeError as error:
        raise EpisodeReadError(episode.id, f"camera '{printable(camera)}': its name is not valid text") from error


def split_units(episode: str, camera: str, anchors: np.ndarray, episode_index: int | None = None) -> list[Unit]:
    """Cut the anchors that have a row into units of nearly equal size, at most `MAX_ANCHORS` each.

    >>> [(unit.first, unit.last) for unit in split_units("a", "", np.arange(1500))]
    [(0, 749), (750, 1499)]
    """
    # Once each: an anchor has a row per stride.
    anchors = np.unique(anchors)
    if not len(anchors):
        return []
    parts = np.array_split(anchors, math.ceil(len(anchors) / MAX_ANCHORS))
    return [Unit(episode, camera, int(part[0]), int(part[-1]), episode_index) for part in parts]


def unit_pairs(unit: Unit, timestamps: np.ndarray, options: EncodeOptions) -> Pairs:
    """The rows of one unit; `timestamps` is float64 (n,), seconds, of all frames of the episode."""
    anchors = Stride.parse(options.every).anchors(timestamps)
    return _pairs(anchors[(anchors >= unit.first) & (anchors <= unit.last)], timestamps, options)


def ordered_rows(
    units: Iterable[Unit], rows_of: Callable[[Unit], pa.Table], strides: tuple[str, ...]
) -> Iterator[pa.Table]:
    """The rows of an episode's units in the table's order, (camera, stride, frame_index), chunk by chunk.

    `units` are sorted by camera and frame. Their rows are read once per stride and not kept, as an episode may be long.
    """
    for _, units_of_camera in groupby(units, key=lambda unit: unit.camera):
        same_camera = list(units_of_camera)
        for stride in strides:
            for unit in same_camera:
                table = rows_of(unit)
                rows = table.filter(pc.equal(table["stride"].cast(pa.string()), stride))
                if rows.num_rows:
                    yield rows


def _pairs(anchors: np.ndarray, timestamps: np.ndarray, options: EncodeOptions) -> Pairs:
    # (strides, anchors): np.nonzero then gives rows sorted by stride, and by anchor within it.
    futures = np.stack([Stride.parse(text).future_indices(timestamps, anchors) for text in options.strides])
    has_row = np.full(futures.shape, True) if options.keep_tail else futures >= 0
    stride, position = np.nonzero(has_row)
    anchor, future = anchors[position], futures[has_row]
    needed = np.unique(np.concatenate([anchor[future >= 0], future[future >= 0]]))
    return Pairs(stride, anchor, future, needed)
