"""Nuisances: disturbances of video with known parameters, which a latent action should not encode.

Each family is a process in time of two parameters (Ornstein-Uhlenbeck: standard deviation 1, time constant half a
second), a function of the seed, the episode and the camera alone. So a probe can measure how well a latent predicts the
parameters, and two runs see the same frames.

    shake       the visible window moves by up to 1/48 of the frame's side: frames lose 1/48 at every edge
    light       brightness varies, and the colour from warm to cold
    background  a pattern slides over everything but the mask of the arm (over everything without a mask)
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange

from lara_tokenizer.data.episode import Episode, FrameIndex, Signals

FAMILIES = {"shake": ("x", "y"), "light": ("brightness", "warmth"), "background": ("x", "y")}
MEMORY = 0.5  # seconds: time constant of the process
LIMIT = 2.0  # standard deviations at which the process is clipped
SHAKE_MARGIN = 1 / 48  # of the side, at LIMIT
BRIGHTNESS, WARMTH = 0.08, 0.04  # of the logarithm of the gain, at one standard deviation
SLIDE = 0.08  # of the side, at one standard deviation
PATTERN_SHARE = 0.2  # of the pattern in the pixels of the background
WAVES = 4  # plane waves that are summed up to a colour of the pattern


@dataclass(frozen=True, slots=True)
class Nuisance:
    """Some nuisance families with a seed.

    >>> Nuisance(("shake",)).parameters("a.mp4", "", np.arange(3) / 10)["shake"].shape
    (3, 2)
    """

    families: tuple[str, ...] = ("shake", "light")
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "families", tuple(self.families))
        if unknown := [name for name in self.families if name not in FAMILIES]:
            raise ValueError(f"unknown nuisance {unknown[0]!r}: there are {', '.join(FAMILIES)}.")
        if not self.families:
            raise ValueError(f"no nuisance given: there are {', '.join(FAMILIES)}.")

    def parameters(self, episode: str, camera: str, timestamps: np.ndarray) -> dict[str, np.ndarray]:
        """float64 (n, 2) for each family, in standard deviations, at these times in seconds."""
        return {
            family: _sample_process(np.asarray(timestamps, np.float64), self._generator(family, episode, camera))
            for family in self.families
        }

    def apply(
        self,
        frames: np.ndarray,
        parameters: Mapping[str, np.ndarray],
        episode: str,
        camera: str,
        masks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Disturb frames, uint8 (n, H, W, 3); under shake they come out smaller.

        Args:
            frames: uint8 (n, H, W, 3).
            parameters: (n, 2) for each family, of the same frames.
            episode, camera: choose the pattern of the background.
            masks: bool (n, H, W), true where no background shows; None: everything is background.
        """
        # The order matters: the background belongs to the scene, light falls on it, and the camera shakes last.
        if "background" in self.families:
            pattern = _Pattern(self._generator("pattern", episode, camera))
            frames = _slide(frames, pattern, parameters["background"], masks)
        if "light" in self.families:
            frames = _relight(frames, parameters["light"])
        if "shake" in self.families:
            frames = _shake(frames, parameters["shake"])
        return frames

    def _generator(self, purpose: str, episode: str, camera: str) -> np.random.Generator:
        key = tuple(zlib.crc32(text.encode()) for text in (purpose, episode, camera))
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


class NuisanceReader:
    """A `FrameReader` and `SignalReader` of an episode under a nuisance."""

    def __init__(self, episode: Episode, nuisance: Nuisance) -> None:
        self.episode = episode
        self.nuisance = nuisance

    def index(self, camera: str) -> FrameIndex:
        """The frame index of the undisturbed episode."""
        return self.episode.frame_index(camera)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the requested order."""
        episode, nuisance = self.episode, self.nuisance
        rows = np.asarray(indices, np.int64)
        # The process is sampled over the whole episode: a frame looks the same whichever others are requested.
        of_episode = nuisance.parameters(episode.id, camera, episode.timestamps(camera))
        parameters = {family: values[rows] for family, values in of_episode.items()}
        masks = read_masks(episode, camera, rows) if "background" in nuisance.families else None
        return nuisance.apply(episode.frames(camera, rows), parameters, episode.id, camera, masks)

    def signals(self) -> Signals:
        """The signals of the undisturbed episode."""
        return self.episode.signals()

    def close(self) -> None:
        """Close open files."""
        self.episode.close()


def with_nuisance(episodes: Sequence[Episode], nuisance: Nuisance) -> list[Episode]:
    """The same episodes under a nuisance; their mask cameras are used, but not listed.

    >>> with_nuisance([Episode("a", reader, dataset="mw")], Nuisance(("shake",), seed=3))[0].dataset  # doctest: +SKIP
    'mw with shake (seed 3)'
    """
    name = f"with {', '.join(nuisance.families)} (seed {nuisance.seed})"
    return [
        Episode(
            episode.id,
            NuisanceReader(episode, nuisance),
            image_cameras(episode),
            episode.index,
            text=episode.text,
            available_signals=episode.available_signals,
            dataset=f"{episode.dataset} {name}".strip(),
        )
        for episode in episodes
    ]


def image_cameras(episode: Episode) -> tuple[str, ...]:
    """The cameras of an episode without its mask cameras."""
    masks = {mask_camera(camera) for camera in episode.cameras} - {None}
    return tuple(camera for camera in episode.cameras if camera not in masks)


def mask_camera(camera: str) -> str | None:
    """The name under which a dataset stores the masks of a camera, if it has any.

    >>> mask_camera("observation.images.top")
    'observation.masks.top'
    """
    return camera.replace(".images.", ".masks.") if ".images." in camera else None


def read_masks(episode: Episode, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray | None:
    """bool (n, H, W), true on the arm; None where the episode was loaded without this camera's masks."""
    name = mask_camera(camera)
    if name is None or name not in episode.cameras:
        return None
    return episode.frames(name, indices)[..., 0] >= 128


def _sample_process(timestamps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An Ornstein-Uhlenbeck process of two parameters, sampled exactly: float64 (n, 2), clipped at +-LIMIT."""
    noise = rng.standard_normal((len(timestamps), 2))
    decay = np.exp(-np.diff(timestamps) / MEMORY)
    values = noise.copy()
    for row, share in enumerate(decay, start=1):
        # The noise is scaled so that the variance stays 1 whatever the time step.
        values[row] = share * values[row - 1] + np.sqrt(1 - share**2) * noise[row]
    return values.clip(-LIMIT, LIMIT)


def _shake(frames: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Crop SHAKE_MARGIN at every edge, moved by `offsets` (n, 2), with linear interpolation between pixels."""
    height, width = frames.shape[1:3]
    margin = np.maximum(1, np.round(np.array([width, height]) * SHAKE_MARGIN)).astype(int)
    position = margin * (1 + offsets / LIMIT)
    # One pixel short of the end, so that a right and a lower neighbour exist to interpolate with.
    corner = np.minimum(position.astype(int), 2 * margin - 1)
    share = position - corner
    size = np.array([width, height]) - 2 * margin
    out = np.empty((len(frames), size[1], size[0], 3), np.uint8)
    for row, ((x, y), (right, down)) in enumerate(zip(corner, share, strict=True)):
        window = frames[row, y : y + size[1] + 1, x : x + size[0] + 1].astype(np.float32)
        window = window[:-1] * (1 - down) + window[1:] * down
        out[row] = np.rint(window[:, :-1] * (1 - right) + window[:, 1:] * right)
    return out


def _relight(frames: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Multiply red, green and blue by exp(brightness + warmth), exp(brightness) and exp(brightness - warmth)."""
    brightness, warmth = BRIGHTNESS * parameters[:, 0], WARMTH * parameters[:, 1]
    gains = np.exp(np.stack([brightness + warmth, brightness, brightness - warmth], 1))
    lit = frames * rearrange(gains, "n c -> n 1 1 c").astype(np.float32)
    return np.rint(lit.clip(0, 255)).astype(np.uint8)


class _Pattern:
    """A pattern of three colours (0..255), each a sum of plane waves of one to four periods per frame."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.waves = rng.uniform(1, 4, (WAVES, 2)) * rng.choice([-1, 1], (WAVES, 2))
        self.phases = rng.uniform(0, 1, (WAVES, 3))

    def draw(self, height: int, width: int, offset: np.ndarray) -> np.ndarray:
        """float32 (H, W, 3), moved by `offset` (x, y) in shares of the side."""
        x = np.arange(width) / width - offset[0]
        y = np.arange(height)[:, None] / height - offset[1]
        turns = self.waves[:, 0, None, None] * x + self.waves[:, 1, None, None] * y
        waves = np.sin(2 * np.pi * (turns[..., None] + self.phases[:, None, None]))
        return (127.5 * (1 + waves.mean(0))).astype(np.float32)


def _slide(frames: np.ndarray, pattern: _Pattern, parameters: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
    """Mix the pattern, moved by the parameters, into all pixels outside the masks."""
    height, width = frames.shape[1:3]
    out = np.empty_like(frames)
    for row, offset in enumerate(SLIDE * parameters):
        drawn = pattern.draw(height, width, offset)
        mixed = np.rint((1 - PATTERN_SHARE) * frames[row] + PATTERN_SHARE * drawn).astype(np.uint8)
        out[row] = mixed if masks is None else np.where(masks[row, ..., None], frames[row], mixed)
    return out
