"""Which pairs the card shows: evenly spread over those that move, so that nobody picks.

Shape suffixes: P pairs, S side of a frame in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lara_tokenizer.evaluate.report.images import to_frame

if TYPE_CHECKING:
    from lara_tokenizer.evaluate.evaluate import Evaluation
    from lara_tokenizer.evaluate.pairs import EncodedSet, PairSet
    from lara_tokenizer.model import LatentActionProcessor

CHUNK = 256  # pairs compared at a time


@dataclass(frozen=True, slots=True)
class Subject:
    """A checkpoint and what was found about it; pictures show the first camera."""

    evaluation: Evaluation
    model: Any
    processor: LatentActionProcessor

    @property
    def report(self) -> dict[str, Any]:
        """The evaluation's report."""
        return self.evaluation.report

    @property
    def name(self) -> str:
        """The checkpoint's id."""
        return str(self.report["model"]["id"]) or "this model"

    @property
    def pairs(self) -> PairSet:
        """Of the first camera."""
        return next(iter(self.evaluation.pairs.values()))

    @property
    def encoded(self) -> EncodedSet:
        """Of the first camera."""
        return next(iter(self.evaluation.encoded.values()))

    @property
    def shown_camera(self) -> str:
        """A sentence that says which camera pictures show, where there are several."""
        cameras = list(self.evaluation.pairs)
        return f"All pictures show the first camera, {cameras[0]}." if len(cameras) > 1 else ""

    def frames_of(self, pair: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (S, S, 3): frame t and frame t+C."""
        pairs = self.pairs
        return to_frame(pairs.frames[pairs.now[pair]]), to_frame(pairs.frames[pairs.future[pair]])

    def describe(self, pair: int) -> str:
        """Which pair it is, with the instruction where one is known."""
        episode = int(self.pairs.episodes[pair])
        text = self.evaluation.texts[episode] if episode < len(self.evaluation.texts) else ""
        return f"pair {pair}, episode {episode}" + (f": {text}" if text else "")


def motion(pairs: PairSet) -> np.ndarray:
    """Mean absolute pixel change of each pair (P,), in 0..1."""
    parts = []
    for first in range(0, len(pairs.now), CHUNK):
        now, future = (pairs.frames[side[first : first + CHUNK]] for side in (pairs.now, pairs.future))
        parts.append(np.abs(future.astype(np.int16) - now).mean((1, 2, 3)) / 255)
    return np.concatenate(parts)


def moving_pairs(pairs: PairSet) -> np.ndarray:
    """The numbers of the pairs that move at least as much as the median pair."""
    moved = motion(pairs)
    return np.flatnonzero(moved >= np.median(moved))


def spread_over(numbers: np.ndarray, count: int) -> np.ndarray:
    """`count` of them, or all, evenly spread from the first to the last.

    >>> spread_over(np.arange(10), 4)
    array([0, 3, 6, 9])
    """
    places = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)
    return numbers[np.unique(places)]


def transfer_pairs(pairs: PairSet, clips: int, targets: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips A from the first half of the episodes, frames B from the second: not the same episode, if there are two."""
    moving = moving_pairs(pairs)
    episodes = np.unique(pairs.episodes[moving])
    if len(episodes) == 1:
        return spread_over(moving, clips), spread_over(moving[len(moving) // 2 :], targets)
    early = pairs.episodes[moving] < episodes[len(episodes) // 2]
    return spread_over(moving[early], clips), spread_over(moving[~early], targets)
