"""Which features of an RLDS dataset are its actions, its states and its text.

The table of Open X-Embodiment sets decides where it knows the dataset; else names do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from lara_tokenizer.data.names import ACTIONS
from lara_tokenizer.data.rlds.features import EpisodeFeatures, Feature
from lara_tokenizer.data.rlds.open_x import OxeSet

_STATES = (
    *(f"observation/{name}" for name in ("state", "proprio", "robot_state", "eef_state", "EEF_state", "ee_state")),
    *(f"observation/{name}" for name in ("cartesian_position", "joint_state", "joint_states", "joint_position")),
    "state",
)
_TEXTS = ("language_instruction", "natural_language_instruction", "instruction", "language_annotation", "task")
_PART = re.compile(r"(.+?)(?:\[(\d+):(\d+)\])?")


@dataclass(frozen=True, slots=True)
class ActionPart:
    """Numbers `start` to `stop - 1` of a step's feature, flat.

    >>> part(Feature("action", "steps/action", "numbers", "float32", (15,)), 7, 14).stop
    14
    """

    feature: Feature
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class RldsSignals:
    """Parts that make an action and a state, side by side; and where the text is: in the steps, or in the episode."""

    actions: tuple[ActionPart, ...] = ()
    states: tuple[ActionPart, ...] = ()
    text: Feature | None = None
    notes: tuple[str, ...] = ()

    @property
    def offers(self) -> tuple[str, ...]:
        """As an `Episode` has it."""
        has = {"actions": self.actions, "states": self.states, "text": self.text}
        return tuple(name for name, value in has.items() if value)


def choose_signals(features: EpisodeFeatures, row: OxeSet | None) -> RldsSignals:
    """What to read of each step; `notes` say where names, not the table, decided about several features."""
    numbers = {each.path: each for each in features.steps if each.kind == "numbers" and not each.is_camera}
    notes: list[str] = []
    actions = _from_table(numbers, row.action if row else (), notes) or _actions(numbers, notes)
    states = _from_table(numbers, row.state if row else (), notes)
    states = states or next(((part(numbers[name]),) for name in _STATES if name in numbers), ())
    return RldsSignals(actions, states, _text(features), tuple(notes))


def part(feature: Feature, start: int = 0, stop: int | None = None) -> ActionPart:
    """All numbers of a feature, or some."""
    return ActionPart(feature, start, prod(feature.shape) if stop is None else stop)


def _from_table(numbers: dict[str, Feature], wanted: Sequence[str], notes: list[str]) -> tuple[ActionPart, ...]:
    """The table's features, where the dataset has all of them: another version of it may not."""
    parts = []
    for name in wanted:
        path, start, stop = _PART.fullmatch(name).groups()  # type: ignore[union-attr]
        feature = numbers.get(path)
        if feature is None or int(stop or 0) > prod(feature.shape):
            notes.append(f"no {name!r} in it, which its published version has")
            return ()
        parts.append(part(feature, int(start or 0), int(stop) if stop else None))
    return tuple(parts)


def _actions(numbers: dict[str, Feature], notes: list[str]) -> tuple[ActionPart, ...]:
    for name in ACTIONS:
        if name in numbers:
            return (part(numbers[name]),)
        if inside := [path for path in sorted(numbers) if path.startswith(f"{name}/")]:
            notes.append(f"an action is {', '.join(inside)}, side by side")
            return tuple(part(numbers[path]) for path in inside)
    return ()


def _text(features: EpisodeFeatures) -> Feature | None:
    """The instruction: one a step, or one for the episode. Some sets keep it as a row of letters' numbers."""
    found = {
        each.path: each
        for each in features.steps
        if each.kind == "text" or (len(each.shape) == 1 and "int" in each.dtype and each.kind == "numbers")
    }
    for name in _TEXTS:
        for path in (name, f"observation/{name}"):
            if path in found and (found[path].kind == "text" or name == "instruction"):
                return found[path]
    texts = [each for each in features.episode if each.kind == "text"]
    return next((each for name in _TEXTS for each in texts if each.path.rpartition("/")[2].endswith(name)), None)
