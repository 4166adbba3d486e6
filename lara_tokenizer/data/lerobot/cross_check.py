"""Remarks where the rows of an episode contradict the metadata: other times, another instruction.

Neither side is proved right, so none is corrected: frames and rows are paired in order, times are counted at the rate
of `meta/info.json` (as LeRobot counts steps; it also fetches frames at the rows' `timestamp`, within 1e-4 s), and a
remark gives both values. Rows whose instruction is not one of the episode's own have no text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Of the rate. NTSC's 0.1 % and the clock of a slow recorder are no other rate.
_SAME_RATE = 0.02
_SMALLEST_DRIFT = 0.1  # frames at the end of an episode; the rate of a few rounded times says nothing
_JUMP = 1.5  # usual steps; from here on, a row is nearer to another row's time
# Published sets begin with frame 1 instead of 0 (GR00T's gr1_sim); more than that is another clock.
_LATE = 1.5  # frames


def rate_remark(times: np.ndarray, fps: float, subject: str) -> str:
    """A remark where times, float64 (n,), strictly increasing seconds, come at another rate than the metadata's.

    >>> rate_remark(np.arange(6) / 10, 29.97, "the video's frames come")
    "the video's frames come at 10 per second, meta/info.json says fps 29.97; times are counted at the latter, or --fps"
    """
    if len(times) < 2:
        return ""
    rate = 1 / _usual_step(times)
    drift = (len(times) - 1) * abs(fps / rate - 1)
    if abs(rate / fps - 1) <= _SAME_RATE or drift < _SMALLEST_DRIFT:
        return ""
    says = f"meta/info.json says fps {fps:.5g}"
    return f"{subject} at {rate:.5g} per second, {says}; times are counted at the latter, or --fps"


def clock_remark(times: np.ndarray, fps: float) -> str:
    """A remark where the rows' `timestamp`, float64 (n,) seconds, is not one every 1 / `fps` from the start.

    >>> clock_remark(np.arange(6) / 10, 10)
    ''
    >>> clock_remark(np.array([0, 0.1, 0.2, 1.3, 1.4]), 10)
    "the rows' timestamp jumps from 0.2 s to 1.3 s after row 2; times are counted on at one rate"
    """
    if not len(times) or not np.isfinite(times).all():
        return ""  # nothing that could contradict
    steps = np.diff(times)
    if np.any(steps <= 0):
        row = int(np.argmax(steps <= 0))
        return (
            f"the rows' timestamp does not grow after row {row} ({times[row]:.6g} s, then {times[row + 1]:.6g} s); "
            "times are counted on at one rate"
        )
    remarks = [rate_remark(times, fps, "the rows' timestamps come")]
    if len(times) > 1 and len(jumps := np.flatnonzero(steps >= _JUMP * _usual_step(times))):
        row = int(jumps[np.argmax(steps[jumps])])
        places = f"after row {row}" if len(jumps) == 1 else f"after row {row}, the longest of {len(jumps):,} jumps"
        remarks.append(
            f"the rows' timestamp jumps from {times[row]:.6g} s to {times[row + 1]:.6g} s {places}; times are counted "
            "on at one rate"
        )
    if abs(times[0]) * fps > _LATE:
        remarks.append(f"the rows' timestamp begins at {times[0]:.6g} s; rows and frames are paired in order")
    return "; ".join(filter(None, remarks))


def text_remark(texts: Sequence[str], tasks: Sequence[str], tasks_file: str, entry_file: str) -> str:
    """A remark where an instruction of the rows is none of the episode's own; "" where the metadata gives none.

    An episode's tasks may be more than its rows': GR00T's sets list a mark of quality among them. An empty instruction
    contradicts nothing.

    Args:
        texts: of the rows, by their task_index.
        tasks: of the episode, as the list of episodes has them.
        tasks_file: with the text of each task_index.
        entry_file: with the list of episodes.

    >>> text_remark(["pick"], ["pick", "valid"], "meta/tasks.jsonl", "meta/episodes.jsonl")
    ''
    >>> text_remark(["pick"], ["open"], "meta/tasks.jsonl", "meta/episodes.jsonl")
    "the rows' task_index is 'pick' in meta/tasks.jsonl, the episode's tasks in meta/episodes.jsonl are 'open'"
    """
    known = {_normal(task) for task in tasks}
    others = [text for text in dict.fromkeys(texts) if text.strip() and _normal(text) not in known]
    if not known or not others:
        return ""
    own = ", ".join(f"{task!r:.60}" for task in tasks[:3])
    return f"the rows' task_index is {others[0]!r:.60} in {tasks_file}, the episode's tasks in {entry_file} are {own}"


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()


def _usual_step(times: np.ndarray) -> float:
    """Mean of the steps that are no jump: rounded times have steps of two sizes, neither of which is the rate's."""
    steps = np.sort(np.diff(times))
    middle = steps[(len(steps) - 1) // 2]
    return float(steps[steps < _JUMP * middle].mean())
