"""Angles that wrap: a joint that turns on from pi appears at -pi. Laid out, its change over a pair is true motion.

Shape suffixes: n frames, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lara_tokenizer.data.actions.names import is_angle_name

_TURN, _DEGREES = 2 * np.pi, 360.0
_SLACK = 0.01  # of a turn: rounding, and angles a little past the seam
_JUMP = 0.75  # of a turn: a larger step is no motion between two frames
_STEADY = 0.25  # of a turn: steps of a dimension that jumps are otherwise at most this
_MOST_JUMPS = 0.2  # of all steps
_FASTER = 4.0  # times the largest other step: the speed across the seam


def unwrapped(values_nD: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
    """The rows of one episode, float64 (n, D), with the jumps of wrapping angles taken out.

    The change of an angle between two frames is then their difference, however far it turned in between. Everything
    else stays as it is.

    >>> unwrapped(np.array([[3.0], [3.1], [-3.1], [-3.0]]), ["yaw"])[:, 0].round(2).tolist()
    [3.0, 3.1, 3.18, 3.28]
    """
    values_nD = np.array(values_nD, np.float64)
    for dimension, period in enumerate(periods(values_nD, names)):
        if period:
            values_nD[:, dimension] = np.unwrap(values_nD[:, dimension], period=period)
    return values_nD


def periods(values_nD: np.ndarray, names: Sequence[str] = ()) -> list[float]:
    """The period of each dimension that wraps within these rows, 2 pi or 360; 0.0 for all others.

    A dimension is an angle if its values lie within a turn, and either its name says so or it jumps by about a turn
    while all its other steps are small. One that never steps by half a turn has nothing to unwrap, and has 0.0.
    """
    if len(values_nD) < 2:
        return [0.0] * values_nD.shape[1]
    # A few passes over all dimensions at once: most sets have no angle that wraps.
    steps = np.abs(np.diff(values_nD, axis=0))
    candidates = (steps.max(0) > np.pi) & np.isfinite(values_nD).all(0)
    found = [0.0] * values_nD.shape[1]
    for dimension in np.flatnonzero(candidates).tolist():
        name = names[dimension] if len(names) == len(found) else ""
        found[dimension] = _period(values_nD[:, dimension], steps[:, dimension], name)
    return found


def _period(values: np.ndarray, steps: np.ndarray, name: str) -> float:
    turn = _turn(float(values.min()), float(values.max()))
    if not turn or steps.max() <= turn / 2:
        return 0.0
    if turn == _TURN and is_angle_name(name):
        return turn
    jumps = steps > _JUMP * turn
    others = steps[~jumps]
    if not jumps.any() or jumps.mean() > _MOST_JUMPS or others.max(initial=0.0) > _STEADY * turn:
        return 0.0
    # Across the seam it moves about as fast as elsewhere. A switch between two far positions would not.
    return turn if np.abs(steps[jumps] - turn).max() <= _FASTER * others.max() else 0.0


def _turn(low: float, high: float) -> float:
    """A whole turn in the unit of values from `low` to `high`, radians or degrees; 0.0 where they lie within neither.

    Values that span less than half of 360 are within a turn of degrees too, and cannot jump by most of one.
    """
    for turn in (_TURN, _DEGREES):
        slack = _SLACK * turn
        if (-turn / 2 - slack <= low and high <= turn / 2 + slack) or (-slack <= low and high <= turn + slack):
            return turn
    return 0.0
