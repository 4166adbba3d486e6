"""Pairs of frames for an evaluation: chosen evenly, decoded once, plain and under a nuisance.

Shape suffixes, here and in the whole package: F frames, P pairs, S side of a frame in pixels, A action dimensions,
N latent tokens, D width of each, K codes, E episodes, R bootstrap resamples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from einops import repeat

from lara_tokenizer.data import Episode, Episodes, LoadOptions, Signals, Stride, load_episodes
from lara_tokenizer.data.actions.motion import AUTO
from lara_tokenizer.errors import EpisodeReadError, first_line
from lara_tokenizer.evaluate.figures import TargetInfo
from lara_tokenizer.evaluate.nuisance import Nuisance, image_cameras, mask_camera, read_masks
from lara_tokenizer.evaluate.targets import ProbeTargets
from lara_tokenizer.motion import grey_frames

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

logger = logging.getLogger(__name__)

CHUNK = 256  # pairs compared at a time

Source = str | Path | Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs of one camera."""

    frames: np.ndarray  # uint8 (F, 3, S, S), each frame once
    now: np.ndarray  # int (P,), the row of frame t in `frames`
    future: np.ndarray  # int (P,), the row of frame t+C
    actions: np.ndarray | None  # float64 (P, A), the motion between the two frames (`targets`); None without actions
    episodes: np.ndarray  # int (P,), the episode index
    masks: np.ndarray | None = None  # bool (F, S, S), true on the arm; None without masks
    grey: np.ndarray | None = (
        None  # uint8 (F, 128, 128), the frames for the controls; None except for the probed camera
    )

    def __len__(self) -> int:
        return len(self.now)

    def __getitem__(self, rows: np.ndarray) -> PairSet:
        """The pairs of these rows, over the same frames."""
        actions = None if self.actions is None else self.actions[rows]
        return replace(
            self, now=self.now[rows], future=self.future[rows], actions=actions, episodes=self.episodes[rows]
        )

    def tensors(self, rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames t and frames t+C of these rows, uint8 (B, 3, S, S) each."""
        return torch.from_numpy(self.frames[self.now[rows]]), torch.from_numpy(self.frames[self.future[rows]])

    def motion(self) -> np.ndarray:
        """Mean absolute pixel change of each pair (P,), in 0..1."""
        changes = []
        for first in range(0, len(self), CHUNK):
            now, future = (self.frames[side[first : first + CHUNK]] for side in (self.now, self.future))
            changes.append(np.abs(future.astype(np.int16) - now).mean((1, 2, 3)) / 255)
        return np.concatenate(changes)


@dataclass(frozen=True, slots=True)
class NuisancePairs:
    """The pairs of a PairSet seen under a nuisance."""

    pairs: PairSet
    changes: dict[str, np.ndarray]
    """float64 (P, 2) for each family: the change of its parameters within each pair, in standard deviations."""


@dataclass(slots=True)
class EvaluationDataset:
    """All pairs of a source."""

    pairs: dict[str, PairSet]  # by camera, without nuisance
    nuisance: NuisancePairs  # the pairs of the first camera
    instructions: list[str]  # by episode index, "" where unknown
    without_actions: str = ""  # the reason why `actions` is None, "" where it is not
    left_out: dict[str, str] = field(default_factory=dict)  # episodes that could not be read, each with the reason
    target: TargetInfo | None = None  # the meaning of `actions`; None without them

    @property
    def camera(self) -> str:
        """The probed camera, the first."""
        return next(iter(self.pairs))

    def tasks(self, pairs: PairSet) -> list[str]:
        """The instruction of each episode of `pairs`, in the order of `np.unique(pairs.episodes)`."""
        return [self.instructions[index] for index in np.unique(pairs.episodes)]


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` indices, evenly spaced from the first to the last.

    >>> evenly_spaced(10, 4)
    array([0, 3, 6, 9])
    """
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def load_with_masks(source: Source, **load: Unpack[LoadOptions]) -> Episodes:
    """Load episodes with all cameras unless some are named, and with their masks of the arm where there are any."""
    load = LoadOptions(**{**load, "cameras": load.get("cameras") or "all"})
    episodes = load_episodes(source, **load)
    cameras = dict.fromkeys(camera for episode in episodes for camera in episode.cameras)
    masks: list[str] = []
    # A dataset lists its mask cameras only where they are requested by their full names, so each name is tried.
    for name in filter(None, map(mask_camera, cameras)):
        try:
            load["cameras"] = [*cameras, *masks, name]
            episodes = load_episodes(source, **load)
        except ValueError:
            continue
        masks.append(name)
    return episodes


def date_of(episodes: Sequence[Episode]) -> str | None:
    """The day, in UTC, on which the newest local file of the episodes was changed; None where they name none.

    A property of the data: equal runs give equal reports, whenever they are made.
    """
    files = {file for episode in episodes for camera in episode.cameras for file in episode.files(camera)}
    times = [file.stat().st_mtime for file in files if file.is_file()]
    return datetime.fromtimestamp(max(times), UTC).date().isoformat() if times else None


def read_pairs(
    episodes: Sequence[Episode],
    processor: LatentActionProcessor,
    stride: Stride,
    pairs_per_episode: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    target: str = AUTO,
) -> EvaluationDataset:
    """Read pairs spread evenly over each episode; each of their frames is decoded once, and no other.

    The nuisance is shake and light, and a moving background where the first camera has masks.

    Args:
        episodes: of one source; their cameras are read in the order of the first episode.
        processor: resizes the frames.
        stride: the distance from frame t to frame t+C.
        pairs_per_episode: upper limit per episode and camera.
        seed: of the nuisance.
        progress: called with (episodes read, episodes).
        target: the rule that makes a target of actions, one of `targets.RULES`.

    Raises:
        ValueError: if no episode gives a pair, and for an unknown rule.
    """
    families = ("shake", "light", "background") if _has_masks(episodes) else ("shake", "light")
    nuisance = Nuisance(families, seed)
    targets = ProbeTargets(episodes, target)
    reader = _PairReader(processor, stride, pairs_per_episode, nuisance, image_cameras(episodes[0])[0], targets)
    instructions = [episode.text or "" for episode in episodes]
    read: list[_EpisodePairs] = []
    left_out: dict[str, str] = {}
    for index, episode in enumerate(episodes):
        try:
            read.append(reader.read(episode, index))
            instructions[index] = read[-1].instruction
        except (EpisodeReadError, ValueError) as error:
            left_out[episode.id] = error.reason if isinstance(error, EpisodeReadError) else first_line(error)
            logger.warning("left out: %s: %s", episode.id, left_out[episode.id])
        finally:
            episode.close()
        if progress is not None:
            progress(index + 1, len(episodes))
    probed = [each.nuisance for each in read if each.nuisance is not None]
    if not probed:
        reason = f" {next(iter(left_out.values()))}" if left_out else ""
        raise ValueError(f"no episode gives a pair of frames {stride.text} apart.{reason}")
    # The probed camera comes first, even where the first episodes lack it.
    by_camera: dict[str, list[PairSet]] = {reader.probed_camera: []}
    for each in read:
        for camera, pairs in each.pairs.items():
            by_camera.setdefault(camera, []).append(pairs)
    without_actions = _reason_without_actions([pairs for sets in by_camera.values() for pairs in sets])
    return EvaluationDataset(
        {camera: _concatenate(sets, bool(without_actions)) for camera, sets in by_camera.items()},
        NuisancePairs(
            _concatenate([each.pairs for each in probed], bool(without_actions)),
            {family: np.concatenate([each.changes[family] for each in probed]) for family in families},
        ),
        instructions,
        without_actions,
        left_out,
        None if without_actions else targets.info(),
    )


@dataclass(frozen=True, slots=True)
class _EpisodePairs:
    """The pairs of one episode by camera, and those of the probed camera under the nuisance."""

    pairs: dict[str, PairSet]
    nuisance: NuisancePairs | None
    instruction: str


@dataclass(frozen=True, slots=True)
class _PairIndices:
    """Frame indices of the pairs of one episode and camera."""

    anchors: np.ndarray
    future: np.ndarray
    frames: np.ndarray  # sorted, each index once
    timestamps: np.ndarray  # of the whole episode

    def pair_set(
        self, frames: np.ndarray, actions: np.ndarray | None, episode_index: int, masks: np.ndarray | None
    ) -> PairSet:
        now, future = (np.searchsorted(self.frames, side) for side in (self.anchors, self.future))
        return PairSet(frames, now, future, actions, np.full(len(now), episode_index), masks)


@dataclass(frozen=True, slots=True)
class _PairReader:
    """Reads the pairs of an episode; those of `probed_camera` under the nuisance, too."""

    processor: LatentActionProcessor
    stride: Stride
    pairs_per_episode: int
    nuisance: Nuisance
    probed_camera: str
    targets: ProbeTargets

    def read(self, episode: Episode, episode_index: int) -> _EpisodePairs:
        """All cameras of an episode. Raises EpisodeReadError, and ValueError for a stride that its rate cannot meet."""
        signals, instruction = _signals_and_instruction(episode)
        pairs: dict[str, PairSet] = {}
        under_nuisance = None
        for camera in image_cameras(episode):
            indices = self._indices(episode, camera)
            if indices is None:
                continue
            full_size = episode.frames(camera, indices.frames)
            masks = read_masks(episode, camera, indices.frames)
            target = self.targets.of(episode, signals, indices.anchors, indices.future)
            resized_masks = self._resize_masks(masks)
            pairs[camera] = indices.pair_set(self._resize(full_size), target, episode_index, resized_masks)
            if camera == self.probed_camera:
                pairs[camera] = replace(pairs[camera], grey=grey_frames(full_size))
                disturbed, changes = self._under_nuisance(episode, camera, indices, full_size, masks)
                seen = indices.pair_set(self._resize(disturbed), target, episode_index, None)
                under_nuisance = NuisancePairs(replace(seen, grey=grey_frames(disturbed)), changes)
        return _EpisodePairs(pairs, under_nuisance, instruction)

    def _indices(self, episode: Episode, camera: str) -> _PairIndices | None:
        timestamps = episode.timestamps(camera)
        future = self.stride.future_indices(timestamps, np.arange(len(timestamps)))
        anchors = np.flatnonzero(future >= 0)
        if not len(anchors):
            return None
        chosen = anchors[evenly_spaced(len(anchors), self.pairs_per_episode)]
        return _PairIndices(chosen, future[chosen], np.unique([chosen, future[chosen]]), timestamps)

    def _under_nuisance(
        self, episode: Episode, camera: str, indices: _PairIndices, frames: np.ndarray, masks: np.ndarray | None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The frames as recorded under the nuisance, and the change of its parameters within each pair."""
        of_episode = self.nuisance.parameters(episode.id, camera, indices.timestamps)
        parameters = {family: values[indices.frames] for family, values in of_episode.items()}
        disturbed = self.nuisance.apply(frames, parameters, episode.id, camera, masks)
        changes = {family: values[indices.future] - values[indices.anchors] for family, values in of_episode.items()}
        return disturbed, changes

    def _resize(self, frames: np.ndarray) -> np.ndarray:
        return self.processor.resize_frames(frames).numpy()

    def _resize_masks(self, masks: np.ndarray | None) -> np.ndarray | None:
        """Masks resized as the frames are: as white images, of which the brighter half counts as arm."""
        if masks is None:
            return None
        return self._resize(repeat(masks.astype(np.uint8) * 255, "f h w -> f h w c", c=3))[:, 0] >= 128


def _signals_and_instruction(episode: Episode) -> tuple[Signals, str]:
    if not {"actions", "text"} & set(episode.available_signals):
        return Signals(), episode.text or ""
    signals = episode.signals()
    instruction = episode.text or (signals.texts[0] if signals.texts else "")
    if signals.actions is None:
        return Signals(), instruction
    if not np.isfinite(signals.actions).all():
        raise EpisodeReadError(episode.id, "its actions hold numbers that are not finite")
    signals.check_length(episode.num_frames(episode.cameras[0]), episode.id)
    return signals, instruction


def _has_masks(episodes: Sequence[Episode]) -> bool:
    """True if every episode has masks of its first camera."""
    return bool(episodes) and all(mask_camera(image_cameras(each)[0]) in each.cameras for each in episodes)


def _reason_without_actions(sets: Sequence[PairSet]) -> str:
    widths = {None if pairs.actions is None else pairs.actions.shape[1] for pairs in sets}
    if widths == {None}:
        return "the source has no actions"
    if None in widths:
        return "some episodes have no actions"
    if len(widths) > 1:
        widths_text = ", ".join(map(str, sorted(filter(None, widths))))
        return f"episodes differ in how many numbers an action has ({widths_text})"
    return ""


def _concatenate(sets: Sequence[PairSet], without_actions: bool) -> PairSet:
    # Rows of frames count from the first frame of each set, so they move by the frames of the sets before.
    offsets = np.cumsum([0] + [len(pairs.frames) for pairs in sets[:-1]])
    has_masks = all(pairs.masks is not None for pairs in sets)
    return PairSet(
        np.concatenate([pairs.frames for pairs in sets]),
        np.concatenate([pairs.now + offset for pairs, offset in zip(sets, offsets, strict=True)]),
        np.concatenate([pairs.future + offset for pairs, offset in zip(sets, offsets, strict=True)]),
        None if without_actions else np.concatenate([pairs.actions for pairs in sets]),
        np.concatenate([pairs.episodes for pairs in sets]),
        np.concatenate([pairs.masks for pairs in sets]) if has_masks else None,
        np.concatenate([pairs.grey for pairs in sets]) if all(pairs.grey is not None for pairs in sets) else None,
    )
