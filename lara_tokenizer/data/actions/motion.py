"""The motion of pairs of frames in numbers: sums of changes, changes of positions, or all actions in between.

Shape suffixes: P pairs, A numbers of an action, S numbers of a state.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from lara_tokenizer.data.actions.angles import unwrapped
from lara_tokenizer.data.actions.meaning import DELTA, ActionMeaning
from lara_tokenizer.data.episode import Signals
from lara_tokenizer.errors import EpisodeReadError

AUTO, SUM, CHANGE, CHUNK = "auto", "sum", "change", "chunk"
RULES = (AUTO, SUM, CHANGE, CHUNK)


def state_changes(signals: Signals, now_P: np.ndarray, future_P: np.ndarray) -> np.ndarray | None:
    """The change of the state of each pair, float64 (P, S), through the seam of angles that wrap; None without states.

    >>> signals = Signals(states=np.array([[0.0], [1.0], [3.0]]))
    >>> state_changes(signals, np.array([0]), np.array([2])).tolist()
    [[3.0]]
    """
    if signals.states is None:
        return None
    states = unwrapped(signals.states, signals.names.states)
    return states[future_P] - states[now_P]


def action_sums(actions_nA: np.ndarray, now_P: np.ndarray, future_P: np.ndarray) -> np.ndarray:
    """The sum a_t + ... + a_{t+C-1} of each pair, float64 (P, A)."""
    width = actions_nA.shape[1]
    before = np.concatenate([np.zeros((1, width)), np.asarray(actions_nA, np.float64).cumsum(0)])
    return before[future_P] - before[now_P]


@dataclass(slots=True)
class MotionTarget:
    """The numbers that a probe predicts for the pairs of one dataset.

    `auto` sums changes and takes the change of positions, of the state where it measures them and else of the action;
    `sum` and `change` do one for all numbers; `chunk` is all actions a_t to a_{t+C-1}, one after another. Where C
    varies, as many actions as most pairs of the first episode have are read from each pair, evenly spaced.
    """

    meaning: ActionMeaning
    rule: str = AUTO
    length: int = field(default=0, init=False)  # of a chunk, known from the first episode on
    other_lengths: int = field(default=0, init=False)  # pairs with another C

    def of(self, signals: Signals, now_P: np.ndarray, future_P: np.ndarray, episode: str) -> np.ndarray:
        """float64 (P, numbers). Raises EpisodeReadError, naming the episode, where it lacks the states."""
        assert signals.actions is not None
        if self.rule == CHUNK:
            return self._chunks(signals.actions, now_P, future_P)
        target = action_sums(signals.actions, now_P, future_P)
        numbers = self.meaning.numbers
        # Episodes of another width are counted and refused together, not one by one.
        if self.rule == SUM or len(numbers) != target.shape[1]:
            return target
        chosen = [i for i, each in enumerate(numbers) if self.rule == CHANGE or each.kind != DELTA]
        if chosen:
            actions = unwrapped(signals.actions, signals.names.actions)
            target[:, chosen] = (actions[future_P] - actions[now_P])[:, chosen]
        measured = {i: state for i in chosen if (state := numbers[i].state) is not None}
        if measured:
            changes = self._state_changes(signals, now_P, future_P, episode)
            target[:, list(measured)] = changes[:, list(measured.values())]
        return target

    def _state_changes(self, signals: Signals, now_P: np.ndarray, future_P: np.ndarray, episode: str) -> np.ndarray:
        changes = state_changes(signals, now_P, future_P)
        width = 0 if changes is None else changes.shape[1]
        if changes is None or width != self.meaning.states:
            raise EpisodeReadError(episode, f"its states have {width} numbers, those of others {self.meaning.states}")
        if not np.isfinite(changes).all():
            raise EpisodeReadError(episode, "its states hold numbers that are not finite")
        return changes

    def _chunks(self, actions_nA: np.ndarray, now_P: np.ndarray, future_P: np.ndarray) -> np.ndarray:
        gaps = future_P - now_P
        if not self.length:
            self.length = Counter(gaps.tolist()).most_common(1)[0][0]
        self.other_lengths += int((gaps != self.length).sum())
        # For C = length these are the frames t, t + 1, ..., t + C - 1.
        offsets = (np.arange(self.length) * gaps[:, None]) // self.length
        rows = np.asarray(actions_nA, np.float64)[now_P[:, None] + offsets]
        return rows.reshape(len(rows), -1)
