"""The target of the action probes: the motion of each pair, by what the actions of its dataset are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lara_tokenizer.data import Episode, Signals
from lara_tokenizer.data.actions.describe import dimensions, joined
from lara_tokenizer.data.actions.meaning import ActionMeaning, find_meanings
from lara_tokenizer.data.actions.motion import CHUNK, RULES, MotionTarget
from lara_tokenizer.evaluate.figures import TargetInfo


class ProbeTargets:
    """Targets of the pairs of several datasets.

    Raises ValueError for an unknown rule.
    """

    def __init__(self, episodes: Sequence[Episode], rule: str) -> None:
        if rule not in RULES:
            raise ValueError(f"target {rule!r}: takes {', '.join(RULES)}")
        self._rule = rule
        meanings = find_meanings(episodes)
        self._targets = {dataset: MotionTarget(meaning, rule) for dataset, meaning in meanings.items()}

    def of(self, episode: Episode, signals: Signals, now_P: np.ndarray, future_P: np.ndarray) -> np.ndarray | None:
        """The target of each pair of an episode, float64 (P, A); None without actions. Raises EpisodeReadError."""
        if signals.actions is None:
            return None
        # No other episode of it could be read to the end: its actions are summed.
        target = self._targets.setdefault(episode.dataset, MotionTarget(ActionMeaning(episode.dataset, ()), self._rule))
        return target.of(signals, now_P, future_P, episode.id)

    def info(self) -> TargetInfo:
        """The target in all datasets."""
        targets = self._targets.values()
        numbers = {each.meaning.dataset: dimensions(each) for each in targets}
        return TargetInfo(self._rule, joined(targets), numbers, self._names())

    def _names(self) -> list[str]:
        """Names of the target's columns, or their places, where the datasets agree and each column is one number."""
        names = {tuple(number.name for number in each.meaning.numbers) for each in self._targets.values()}
        if len(names) != 1 or self._rule == CHUNK:
            return []
        return [name or f"dimension {place}" for place, name in enumerate(names.pop())]
