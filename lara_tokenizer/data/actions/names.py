"""Names of the numbers of actions and states: what they say of a number, and which number of a state is meant."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_DELTA = frozenset(("delta", "deltas", "diff", "rel", "relative", "vel", "velocity", "speed", "residual", "twist"))
_ANGLE = frozenset(("roll", "pitch", "yaw", "euler", "angle", "angles", "theta", "heading", "rpy", "rx", "ry", "rz"))
_GRIPPER = frozenset(("gripper", "grippers", "grip", "grasp", "claw", "jaw"))
_OPENING = frozenset(("open", "opened", "opening", "openness", "close", "closed", "closing", "closedness"))
# The axis of a vector: a quaternion and an axis-angle vector have angles in their names, and are none.
_VECTOR = re.compile(r"axis_?angle|quat")
_SHORT_DELTA = re.compile(r"d(x|y|z|roll|pitch|yaw|rx|ry|rz|theta)")


def is_delta_name(name: str) -> bool:
    """Whether a name says that a number is a change or a speed.

    >>> is_delta_name("delta_x"), is_delta_name("shoulder_pan.pos")
    (True, False)
    """
    words = _words(name)
    return bool(_DELTA & words) or any(map(_SHORT_DELTA.fullmatch, words))


def is_position_name(name: str) -> bool:
    """Whether a name says that a number is a position, as LeRobot's motors do: "shoulder_pan.pos"."""
    return name.lower().endswith((".pos", ".position", ".qpos")) and not is_delta_name(name)


def is_angle_name(name: str) -> bool:
    """Whether a name says that a number is an angle.

    >>> is_angle_name("kLeftWristRoll"), is_angle_name("axis_angle_x"), is_angle_name("enrolled")
    (True, False, False)
    """
    return bool(_ANGLE & _words(name)) and not _VECTOR.search(name.lower()) and not is_gripper_name(name)


def is_gripper_name(name: str) -> bool:
    """Whether a name says that a number opens and closes a gripper.

    >>> is_gripper_name("left_gripper.pos"), is_gripper_name("gripper_closedness_action"), is_gripper_name("elbow")
    (True, True, False)
    """
    words = _words(name)
    return bool((_GRIPPER | _OPENING) & words)


def namesakes(actions: Sequence[str], states: Sequence[str]) -> dict[int, int]:
    """The number of a state that has the name of a number of an action, by its index, where exactly one has it.

    >>> namesakes(["elbow.pos", "gripper"], ["gripper", "elbow.pos", "elbow.vel"])
    {0: 1, 1: 0}
    """
    counts = Counter(states)
    return {i: states.index(name) for i, name in enumerate(actions) if counts[name] == 1 and actions.count(name) == 1}


def _words(name: str) -> frozenset[str]:
    """The words of a name in lower case: of "kLeftWristRoll" and of "left_wrist.roll" alike."""
    return frozenset(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()))
