"""The pairs that the report shows: evenly spaced over those that move, so that none is picked by hand.

Shape suffixes: P pairs, S side of a frame in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lara_tokenizer.evaluate.dataset import PairSet, evenly_spaced
from lara_tokenizer.evaluate.encoding import EncodedSet
from lara_tokenizer.evaluate.figures import Report
from lara_tokenizer.evaluate.report.images import to_frame

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """A checkpoint with its figures, and the pairs of the first camera, which the images show."""

    figures: Report
    pairs: PairSet
    encoded: EncodedSet
    instructions: list[str]
    model: Any
    processor: LatentActionProcessor

    @property
    def name(self) -> str:
        """The checkpoint's id."""
        return self.figures.model.id or "this model"

    def frames(self, pair: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame t and frame t+C of a pair, uint8 (S, S, 3)."""
        now, future = self.pairs.now[pair], self.pairs.future[pair]
        return to_frame(self.pairs.frames[now]), to_frame(self.pairs.frames[future])

    def describe(self, pair: int) -> str:
        """The pair's index and episode, with the instruction where it is known."""
        episode = int(self.pairs.episodes[pair])
        instruction = self.instructions[episode] if episode < len(self.instructions) else ""
        return f"pair {pair}, episode {episode}" + (f": {instruction}" if instruction else "")


def moving_pairs(pairs: PairSet) -> np.ndarray:
    """The indices of the pairs that move at least as much as the median pair."""
    moved = pairs.motion()
    return np.flatnonzero(moved >= np.median(moved))


def spread_over(values: np.ndarray, count: int) -> np.ndarray:
    """`count` of the values, or all, evenly spaced from the first to the last.

    >>> spread_over(np.array([10, 11, 12, 13]), 2)
    array([10, 13])
    """
    return values[evenly_spaced(len(values), count)]


def transfer_pairs(pairs: PairSet, sources: int, scenes: int) -> tuple[np.ndarray, np.ndarray]:
    """Sources from the first half of the episodes and scenes from the second: of other episodes, if there are two."""
    moving = moving_pairs(pairs)
    episodes = np.unique(pairs.episodes[moving])
    if len(episodes) == 1:
        return spread_over(moving, sources), spread_over(moving[len(moving) // 2 :], scenes)
    early = pairs.episodes[moving] < episodes[len(episodes) // 2]
    return spread_over(moving[early], sources), spread_over(moving[~early], scenes)
