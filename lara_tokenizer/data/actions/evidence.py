"""Statistics that tell changes from positions: of actions alone, and of actions beside the states that they lead to.

Shape suffixes: n frames of an episode, A numbers of an action, S numbers of a state, P windows of frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Frames over which sums of actions and changes of the state are compared: a robot may lag behind its commands.
_WINDOWS = (1, 2, 4, 8)
_LAGS = range(6)  # frames after which a state may follow a commanded position
_FEWEST = 20  # windows, or frames, below which nothing is concluded
_NEAR_END = 0.02  # of the range: values this near to an end of it count as that end
_BINARY = 0.95  # of the values of a switch are at one of its two ends
_REST = 0.05  # of the largest value: smaller ones count as rest

# Changes have large steps, return to 0, and their steps are less smooth than those of positions, ...
_LARGE_STEPS, _RETURNING, _SMOOTH = 0.25, 0.5, 0.5
# ... whose steps are small, more so if they vary about 0 as changes do, or which do not return to their mean.
_SMALL_STEPS, _TINY_STEPS = 0.15, 0.1
_WALKING_STEPS, _WALKING = 0.3, 0.25

Rows = Sequence[np.ndarray]  # of each episode, float64 (n, A) or (n, S)


@dataclass(frozen=True, slots=True)
class OwnEvidence:
    """A number of an action, or of a state, by itself, over all episodes."""

    is_constant: bool
    offset: float  # |mean| / standard deviation: a change varies about 0
    steps: float  # size of a step from frame to frame, over the standard deviation
    returning: float
    """Correlation of a value with the step after it, over that of a stationary process: 1 for what returns to its mean,
    as changes do; 0 or less for what walks away from its start, as positions do."""
    smoothness: float  # correlation of a step with the next: a robot's positions move smoothly
    is_switch: bool  # nearly always at one of two ends
    is_pulsed: bool  # mostly at rest, with pulses of both signs that end in rest

    @property
    def is_change(self) -> bool:
        """Whether it goes up and down about 0, as changes and speeds do."""
        about_zero = self.offset < 1 and self.returning >= _RETURNING
        return self.steps >= _LARGE_STEPS and about_zero and self.smoothness < _SMOOTH

    @property
    def is_steady(self) -> bool:
        """Whether its level is far larger than its steps, or walks away, as positions do."""
        small = _SMALL_STEPS if self.offset > 1 else _TINY_STEPS
        return self.steps <= small or (self.steps <= _WALKING_STEPS and self.returning <= _WALKING)


@dataclass(frozen=True, slots=True)
class StateEvidence:
    """A number of an action beside a number of the state."""

    follows: float
    """Correlation of action[t] with state[t + lag], the strongest of lags 0 to 5: near 1 for positions."""
    distance: float  # root mean square of action[t] - state[t + lag] over the standard deviation of the state
    sum_r2: float  # R2 of the change of the state from the sum of the actions, at the best window
    both_r2: float  # the same from the sum and the state at the start, at that window: a commanded position needs both
    sum_r2_where_both: float  # the former two at the window where both predict best
    best_both_r2: float


def own_evidence(actions: Rows) -> list[OwnEvidence]:
    """Statistics of each of the A numbers by itself."""
    values = np.concatenate(actions)
    steps_of = [np.diff(each, axis=0) for each in actions]
    steps = np.concatenate(steps_of)
    mean, std = values.mean(0), values.std(0)
    scale = np.maximum(np.abs(values).max(0), np.finfo(np.float64).tiny)
    is_constant = std <= 1e-6 * scale
    safe = np.where(is_constant, 1, std)
    offset, step = np.abs(mean) / safe, np.sqrt((steps**2).mean(0)) / safe
    start = np.concatenate([each[:-1] for each in actions])
    # Of a stationary process it is half the size of a step.
    returning = -2 * _ratio(_covariance(start, steps), start.std(0) * steps.std(0) * np.where(step > 0, step, 1))
    first, second = (np.concatenate([each[side] for each in steps_of]) for side in (slice(None, -1), slice(1, None)))
    smoothness = _ratio(_covariance(first, second), first.std(0) * second.std(0)) if len(first) else step * 0
    low, high = values.min(0), values.max(0)
    near = _NEAR_END * (high - low)
    is_switch = ((values <= low + near) | (values >= high - near)).mean(0) >= _BINARY
    rests = np.abs(values) < _REST * scale
    moved = np.array([(np.abs(each) >= _REST * scale).any(0) for each in actions])
    ends_in_rest = np.array([np.abs(each[-1]) < _REST * scale for each in actions])
    returns = (moved & ends_in_rest).sum(0) >= 0.5 * np.maximum(moved.sum(0), 1)
    is_pulsed = (rests.mean(0) > 0.5) & returns & (low < 0) & (high > 0)
    columns = {
        "is_constant": is_constant,
        "offset": offset,
        "steps": step,
        "returning": returning,
        "smoothness": smoothness,
        "is_switch": is_switch & ~is_constant,
        "is_pulsed": is_pulsed & ~is_constant,
    }
    return [
        OwnEvidence(**{name: column[number].item() for name, column in columns.items()}) for number in range(len(mean))
    ]


def state_evidence(actions: Rows, states: Rows, partners: dict[int, int]) -> dict[int, StateEvidence]:
    """Statistics of each number of an action beside its partner in the state; none where there are too few frames."""
    if not partners:
        return {}
    of_action, of_state = list(partners), list(partners.values())
    actions, states = [each[:, of_action] for each in actions], [each[:, of_state] for each in states]
    levels = _follows(actions, states)
    sums = [each for window in _WINDOWS if (each := _sum_and_both(actions, states, window)) is not None]
    if levels is None or not sums:
        return {}
    follows, distance = levels
    sum_WA, both_WA = (np.array(each) for each in zip(*sums, strict=True))
    best, best_both, every = sum_WA.argmax(0), both_WA.argmax(0), np.arange(len(of_action))
    columns = {
        "follows": follows,
        "distance": distance,
        "sum_r2": sum_WA[best, every],
        "both_r2": both_WA[best, every],
        "sum_r2_where_both": sum_WA[best_both, every],
        "best_both_r2": both_WA[best_both, every],
    }
    return {
        number: StateEvidence(**{name: float(column[place]) for name, column in columns.items()})
        for place, number in enumerate(of_action)
    }


def nearest_states(actions: Rows, states: Rows) -> dict[int, int]:
    """The number of the state that lies nearest to each number of an action one frame earlier, in the same unit.

    Only where it is the same quantity beyond doubt; for sets whose states have another width and no names.
    """
    now = np.concatenate([each[:-1] for each in actions])
    later = np.concatenate([each[1:] for each in states])
    spread = later.std(0)
    moving = np.flatnonzero(spread > 0)
    if len(now) < _FEWEST or not len(moving):
        return {}
    found = {}
    for number in range(now.shape[1]):
        distance = np.sqrt(((now[:, number, None] - later[:, moving]) ** 2).mean(0)) / spread[moving]
        if distance.min() < 0.5:
            found[number] = int(moving[distance.argmin()])
    return found


def _follows(actions: Rows, states: Rows) -> tuple[np.ndarray, np.ndarray] | None:
    """The strongest correlation of action[t] with state[t + lag], and the distance at that lag, each (A,)."""
    correlations, distances = [], []
    for lag in _LAGS:
        pairs = [(a[: len(a) - lag], s[lag:]) for a, s in zip(actions, states, strict=True) if len(a) > lag]
        if sum(len(now) for now, _ in pairs) < _FEWEST:
            break
        now, later = (np.concatenate(side) for side in zip(*pairs, strict=True))
        spread = later.std(0)
        correlations.append(_ratio(_covariance(now, later), now.std(0) * spread))
        distances.append(np.sqrt(((now - later) ** 2).mean(0)) / np.maximum(spread, np.finfo(np.float64).tiny))
    if not correlations:
        return None
    best, every = np.abs(correlations).argmax(0), np.arange(len(correlations[0]))
    return np.array(correlations)[best, every], np.array(distances)[best, every]


def _sum_and_both(actions: Rows, states: Rows, window: int) -> tuple[np.ndarray, np.ndarray] | None:
    """R2 of the change of the state over a window, from the sum of its actions, and from that and the state; (A,) each.

    With two predictors, R2 follows from the covariances of each number.
    """
    longer = [(a, s) for a, s in zip(actions, states, strict=True) if len(a) > window]
    if sum(len(a) - window for a, _ in longer) < _FEWEST:
        return None
    sums = np.concatenate([np.lib.stride_tricks.sliding_window_view(a[:-1], window, 0).sum(-1) for a, _ in longer])
    start = np.concatenate([s[:-window] for _, s in longer])
    change = np.concatenate([s[window:] for _, s in longer]) - start
    xx, yy, cc = (each.var(0) for each in (sums, start, change))
    xy, xc, yc = _covariance(sums, start), _covariance(sums, change), _covariance(start, change)
    of_sum = _ratio(xc**2, xx * cc)
    of_both = _ratio(xc**2 * yy - 2 * xc * yc * xy + yc**2 * xx, (xx * yy - xy**2) * cc)
    return of_sum, np.clip(np.maximum(of_both, of_sum), 0, 1)


def _covariance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return ((one - one.mean(0)) * (other - other.mean(0))).mean(0)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part` / `whole`, 0 where nothing varies."""
    varies = whole > 1e-18
    return np.where(varies, part / np.where(varies, whole, 1), 0.0)
