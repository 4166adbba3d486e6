"""From a source to pairs of frames: which pairs, their frames decoded once, plain and under a nuisance."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from lara_tokenizer.data import Episode, Episodes, LoadOptions, Stride, load_episodes
from lara_tokenizer.data.nuisance import Nuisance, mask_of, picture_cameras, read_masks
from lara_tokenizer.errors import EpisodeReadError, first_line
from lara_tokenizer.evaluate.pairs import NuisancePairs, PairSet

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

logger = logging.getLogger(__name__)

Source = str | Path | Sequence[str | Path]


@dataclass(slots=True)
class ReadPairs:
    """What was read of a source.

    Fields:
        pairs: by camera, as they are in the data.
        nuisance: the pairs of the first camera under a nuisance.
        texts: the instruction of each episode number, "" where none is known.
        without_actions: why `actions` is None, in words; "" where it is not.
        left_out: what could not be read, and why: {episode: reason}.
    """

    pairs: dict[str, PairSet]
    nuisance: NuisancePairs
    texts: list[str]
    without_actions: str = ""
    left_out: dict[str, str] = field(default_factory=dict)


def load_with_masks(source: Source, **load: Unpack[LoadOptions]) -> Episodes:
    """`load_episodes` with all cameras unless some are named, and their masks of the arm where the dataset has them.

    A dataset shows its masks only where they are asked for by their full name.
    """
    load = LoadOptions(**{**load, "cameras": load.get("cameras") or "all"})
    episodes = load_episodes(source, **load)
    cameras = dict.fromkeys(camera for episode in episodes for camera in episode.cameras)
    masks: list[str] = []
    for name in filter(None, map(mask_of, cameras)):
        try:
            load["cameras"] = [*cameras, *masks, name]
            episodes = load_episodes(source, **load)
        except ValueError:
            continue  # no masks of this camera
        masks.append(name)
    return episodes


def read_pairs(
    episodes: Sequence[Episode],
    processor: LatentActionProcessor,
    stride: Stride,
    pairs_per_episode: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ReadPairs:
    """Decode the frames of pairs spread evenly over each episode, each frame once, and only those.

    The nuisance is shake and light, and a moving background too where the first camera has masks; `seed` is its seed.
    Actions are kept where every episode has them, and equally many numbers. `progress(episodes read, episodes)`.
    Raises ValueError where no episode gives a pair.
    """
    families = ("shake", "light", "background") if _has_masks(episodes) else ("shake", "light")
    reader = _Reader(processor, stride, pairs_per_episode, Nuisance(families, seed), picture_cameras(episodes[0])[0])
    texts = [episode.text or "" for episode in episodes]
    parts: list[_EpisodeParts] = []
    left_out: dict[str, str] = {}
    for number, episode in enumerate(episodes):
        try:
            parts.append(reader.read(episode, number))
            texts[number] = parts[-1].text
        except (EpisodeReadError, ValueError) as error:
            left_out[episode.id] = error.reason if isinstance(error, EpisodeReadError) else first_line(error)
            logger.warning("left out: %s: %s", episode.id, left_out[episode.id])
        finally:
            episode.close()
        if progress is not None:
            progress(number + 1, len(episodes))
    shaken = [part.nuisance for part in parts if part.nuisance is not None]
    if not shaken:
        reason = f" {next(iter(left_out.values()))}" if left_out else ""
        raise ValueError(f"no episode gives a pair of frames {stride.text} apart.{reason}")
    by_camera: dict[str, list[PairSet]] = {reader.probed: []}
    for part in parts:
        for camera, pairs in part.pairs.items():
            by_camera.setdefault(camera, []).append(pairs)
    without = _why_without_actions([pairs for found in by_camera.values() for pairs in found])
    return ReadPairs(
        {camera: _joined(found, bool(without)) for camera, found in by_camera.items()},
        NuisancePairs(
            _joined([part.pairs for part in shaken], bool(without)),
            {family: np.concatenate([part.changes[family] for part in shaken]) for family in families},
        ),
        texts,
        without,
        left_out,
    )


@dataclass(frozen=True, slots=True)
class _EpisodeParts:
    """The pairs of one episode: by camera, and those of the probed camera under the nuisance."""

    pairs: dict[str, PairSet]
    nuisance: NuisancePairs | None
    text: str


@dataclass(frozen=True, slots=True)
class _Reader:
    """How an episode's pairs are chosen and seen; the `probed` camera is seen under the nuisance too."""

    processor: LatentActionProcessor
    stride: Stride
    count: int
    nuisance: Nuisance
    probed: str

    def read(self, episode: Episode, number: int) -> _EpisodeParts:
        """All cameras of an episode. Raises EpisodeReadError, and ValueError for a stride that its rate cannot meet."""
        actions, text = _actions_and_text(episode)
        pairs: dict[str, PairSet] = {}
        under = None
        for camera in picture_cameras(episode):
            wanted = self._wanted(episode, camera)
            if wanted is None:
                continue
            full_size = episode.frames(camera, wanted.frames)
            masks = read_masks(episode, camera, wanted.frames)
            between = _between(actions, wanted)
            pairs[camera] = wanted.pairs(self._resized(full_size), between, number, self._resized_masks(masks))
            if camera == self.probed:
                seen, changes = self._under_nuisance(episode, camera, wanted, full_size, masks)
                under = NuisancePairs(wanted.pairs(seen, between, number, None), changes)
        return _EpisodeParts(pairs, under, text)

    def _wanted(self, episode: Episode, camera: str) -> _Wanted | None:
        timestamps = episode.timestamps(camera)
        future = self.stride.future_indices(timestamps, np.arange(len(timestamps)))
        anchors = np.flatnonzero(future >= 0)
        if not len(anchors):
            return None
        spread = np.linspace(0, len(anchors) - 1, min(self.count, len(anchors)))
        chosen = anchors[np.unique(spread.round().astype(int))]
        return _Wanted(chosen, future[chosen], np.unique([chosen, future[chosen]]), timestamps)

    def _under_nuisance(
        self, episode: Episode, camera: str, wanted: _Wanted, frames: np.ndarray, masks: np.ndarray | None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The frames as seen under the nuisance, and how its parameters change within each pair."""
        everywhere = self.nuisance.parameters(episode.id, camera, wanted.timestamps)
        parameters = {family: values[wanted.frames] for family, values in everywhere.items()}
        seen = self.nuisance.apply(frames, parameters, episode.id, camera, masks)
        changes = {family: values[wanted.future] - values[wanted.anchors] for family, values in everywhere.items()}
        return self._resized(seen), changes

    def _resized(self, frames: np.ndarray) -> np.ndarray:
        return self.processor.resize_frames(frames).numpy()

    def _resized_masks(self, masks: np.ndarray | None) -> np.ndarray | None:
        if masks is None:
            return None
        white = np.repeat(masks[..., None], 3, -1).astype(np.uint8) * 255
        return self._resized(white)[:, 0] >= 128


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The pairs of an episode by frame number, and all frames that they need."""

    anchors: np.ndarray
    future: np.ndarray
    frames: np.ndarray
    timestamps: np.ndarray  # of the whole episode

    def pairs(self, frames: np.ndarray, actions: np.ndarray | None, number: int, masks: np.ndarray | None) -> PairSet:
        now, future = (np.searchsorted(self.frames, side) for side in (self.anchors, self.future))
        return PairSet(frames, now, future, actions, np.full(len(now), number), masks)


def _actions_and_text(episode: Episode) -> tuple[np.ndarray | None, str]:
    if not {"actions", "text"} & set(episode.available_signals):
        return None, episode.text or ""
    signals = episode.signals()
    text = episode.text or (signals.texts[0] if signals.texts else "")
    if signals.actions is None:
        return None, text
    if not np.isfinite(signals.actions).all():
        raise EpisodeReadError(episode.id, "its actions hold numbers that are not finite")
    signals.check_length(episode.num_frames(episode.cameras[0]), episode.id)
    return signals.actions.astype(np.float64), text


def _between(actions: np.ndarray | None, wanted: _Wanted) -> np.ndarray | None:
    """a_t .. a_{t+C-1}, summed: what was done between the two frames of each pair."""
    if actions is None:
        return None
    before = np.concatenate([np.zeros((1, actions.shape[1])), actions.cumsum(0)])
    return before[wanted.future] - before[wanted.anchors]


def _has_masks(episodes: Sequence[Episode]) -> bool:
    """Whether every episode has masks of its first camera."""
    return bool(episodes) and all(mask_of(picture_cameras(each)[0]) in each.cameras for each in episodes)


def _why_without_actions(parts: Sequence[PairSet]) -> str:
    widths = {None if part.actions is None else part.actions.shape[1] for part in parts}
    if widths == {None}:
        return "the source has no actions"
    if None in widths:
        return "some episodes have no actions"
    if len(widths) > 1:
        return (
            f"episodes differ in how many numbers an action has ({', '.join(map(str, sorted(filter(None, widths))))})"
        )
    return ""


def _joined(parts: Sequence[PairSet], without_actions: bool) -> PairSet:
    first = np.cumsum([0] + [len(part.frames) for part in parts[:-1]])
    has_masks = all(part.masks is not None for part in parts)
    return PairSet(
        np.concatenate([part.frames for part in parts]),
        np.concatenate([part.now + offset for part, offset in zip(parts, first, strict=True)]),
        np.concatenate([part.future + offset for part, offset in zip(parts, first, strict=True)]),
        None if without_actions else np.concatenate([part.actions for part in parts]),
        np.concatenate([part.episodes for part in parts]),
        np.concatenate([part.masks for part in parts]) if has_masks else None,
    )
