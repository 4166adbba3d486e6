"""What a latent action should not hold, put into video with known numbers: camera shake, light, a moving background.

Each is a process in time of two numbers (Ornstein-Uhlenbeck: standard deviation 1, forgotten within half a second), a
function of the seed, the episode and the camera alone. So a probe can be asked how much of it a latent holds, and two
runs see the same pictures.

    shake       the window that is seen moves by up to 1/48 of the frame's side: frames lose 1/48 at every edge
    light       brightness goes up and down, and the colour from warm to cold
    background  a pattern slides over everything but the mask of the arm (over everything, where there is no mask)
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lara_tokenizer.data.episode import Episode, FrameIndex, Signals

FAMILIES = {"shake": ("x", "y"), "light": ("brightness", "warmth"), "background": ("x", "y")}
MEMORY = 0.5  # seconds in which the process falls to 1 / e of what it was
LIMIT = 2.0  # standard deviations: farther the process does not go
SHAKE_MARGIN = 1 / 48  # of the side, at LIMIT
BRIGHTNESS, WARMTH = 0.08, 0.04  # of the logarithm of the gain, at one standard deviation
SLIDE = 0.08  # of the side, at one standard deviation
PATTERN_SHARE = 0.2  # of the pattern in what is seen of the background
WAVES = 4  # a colour of the pattern is the sum of so many plane waves


@dataclass(frozen=True, slots=True)
class Nuisance:
    """Which families, and the seed of all that is random in them.

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
            family: _walk(np.asarray(timestamps, np.float64), self._generator(family, episode, camera))
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
        """The frames, uint8 (n, H, W, 3), as seen under `parameters` (n, 2); smaller where the camera shakes.

        `masks` bool (n, H, W) is true where no background shows.
        """
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
    """A `FrameReader` and `SignalReader` that shows an episode under a nuisance."""

    def __init__(self, whole: Episode, nuisance: Nuisance) -> None:
        self.whole, self.nuisance = whole, nuisance

    def index(self, camera: str) -> FrameIndex:
        """The episode's own."""
        return self.whole.frame_index(camera)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order asked."""
        whole, nuisance = self.whole, self.nuisance
        numbers = np.asarray(indices, np.int64)
        frames = whole.frames(camera, numbers)
        everywhere = nuisance.parameters(whole.id, camera, whole.timestamps(camera))
        parameters = {family: values[numbers] for family, values in everywhere.items()}
        masks = read_masks(whole, camera, numbers) if "background" in nuisance.families else None
        return nuisance.apply(frames, parameters, whole.id, camera, masks)

    def signals(self) -> Signals:
        """The episode's own."""
        return self.whole.signals()

    def close(self) -> None:
        """Let go of open files."""
        self.whole.close()


def with_nuisance(episodes: Sequence[Episode], nuisance: Nuisance) -> list[Episode]:
    """The same episodes as seen under a nuisance; cameras of masks are used, and not shown.

    >>> with_nuisance([Episode("a", reader, dataset="mw")], Nuisance(("shake",), seed=3))[0].dataset  # doctest: +SKIP
    'mw with shake (seed 3)'
    """
    name = f"with {', '.join(nuisance.families)} (seed {nuisance.seed})"
    return [
        Episode(
            episode.id,
            NuisanceReader(episode, nuisance),
            picture_cameras(episode),
            episode.index,
            text=episode.text,
            available_signals=episode.available_signals,
            dataset=f"{episode.dataset} {name}".strip(),
        )
        for episode in episodes
    ]


def picture_cameras(episode: Episode) -> tuple[str, ...]:
    """Its cameras without those that hold masks."""
    masks = {mask_of(camera) for camera in episode.cameras} - {None}
    return tuple(camera for camera in episode.cameras if camera not in masks)


def mask_of(camera: str) -> str | None:
    """Where a dataset that has masks keeps those of a camera: `observation.masks.top` for `observation.images.top`."""
    return camera.replace(".images.", ".masks.") if ".images." in camera else None


def read_masks(episode: Episode, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray | None:
    """bool (n, H, W), true on the arm; None where the episode was loaded without this camera's masks."""
    name = mask_of(camera)
    if name is None or name not in episode.cameras:
        return None
    return episode.frames(name, indices)[..., 0] >= 128


def _walk(timestamps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An exactly sampled Ornstein-Uhlenbeck process of two numbers, float64 (n, 2), cut at +-LIMIT."""
    noise = rng.standard_normal((len(timestamps), 2))
    kept = np.exp(-np.diff(timestamps) / MEMORY)
    values = noise.copy()
    for row, share in enumerate(kept, start=1):
        values[row] = share * values[row - 1] + np.sqrt(1 - share**2) * noise[row]
    return values.clip(-LIMIT, LIMIT)


def _shake(frames: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """A window that leaves out SHAKE_MARGIN at every edge, moved to `offsets` (n, 2); between pixels linearly."""
    height, width = frames.shape[1:3]
    margin = np.maximum(1, np.round(np.array([width, height]) * SHAKE_MARGIN)).astype(int)
    at = margin * (1 + offsets / LIMIT)
    corner = np.minimum(at.astype(int), 2 * margin - 1)
    share = at - corner
    size = np.array([width, height]) - 2 * margin
    out = np.empty((len(frames), size[1], size[0], 3), np.uint8)
    for row, ((x, y), (right, down)) in enumerate(zip(corner, share, strict=True)):
        window = frames[row, y : y + size[1] + 1, x : x + size[0] + 1].astype(np.float32)
        window = window[:-1] * (1 - down) + window[1:] * down
        out[row] = np.rint(window[:, :-1] * (1 - right) + window[:, 1:] * right)
    return out


def _relight(frames: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Gains of red, green and blue: exp of brightness, and of warmth for red, against it for blue."""
    brightness, warmth = BRIGHTNESS * parameters[:, 0], WARMTH * parameters[:, 1]
    gains = np.exp(np.stack([brightness + warmth, brightness, brightness - warmth], 1))
    lit = frames * gains[:, None, None].astype(np.float32)
    return np.rint(lit.clip(0, 255)).astype(np.uint8)


class _Pattern:
    """Three colours (0..255), each a sum of plane waves of one to four periods a frame; drawn once an episode."""

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
    height, width = frames.shape[1:3]
    out = np.empty_like(frames)
    for row, offset in enumerate(SLIDE * parameters):
        behind = pattern.draw(height, width, offset)
        mixed = np.rint((1 - PATTERN_SHARE) * frames[row] + PATTERN_SHARE * behind).astype(np.uint8)
        out[row] = mixed if masks is None else np.where(masks[row, ..., None], frames[row], mixed)
    return out
