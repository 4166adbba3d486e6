"""Choice of the features that are an RLDS dataset's actions, states and text.

Known Open X-Embodiment sets have them in the table of `open_x`; for other datasets the names decide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from lara_tokenizer.data.columns import ACTIONS
from lara_tokenizer.data.rlds.features import EpisodeFeatures, Feature
from lara_tokenizer.data.rlds.open_x import OpenXSet

_STATES = (
    *(f"observation/{name}" for name in ("state", "proprio", "robot_state", "eef_state", "EEF_state", "ee_state")),
    *(f"observation/{name}" for name in ("cartesian_position", "joint_state", "joint_states", "joint_position")),
    "state",
)
_TEXTS = ("language_instruction", "natural_language_instruction", "instruction", "language_annotation", "task")
_SLICE = re.compile(r"(.+?)(?:\[(\d+):(\d+)\])?")


@dataclass(frozen=True, slots=True)
class FeatureSlice:
    """Numbers `start` to `stop - 1` of a step's feature, flattened."""

    feature: Feature
    start: int
    stop: int

    @classmethod
    def of(cls, feature: Feature, start: int = 0, stop: int | None = None) -> FeatureSlice:
        """All numbers of a feature from `start` on, or those up to `stop`.

        >>> FeatureSlice.of(Feature("action", "steps/action", "numbers", "float32", (15,)), 7).stop
        15
        """
        return cls(feature, start, prod(feature.shape) if stop is None else stop)


@dataclass(frozen=True, slots=True)
class RldsSignals:
    """Features that are concatenated to an action and to a state, and the feature of the text."""

    actions: tuple[FeatureSlice, ...] = ()
    states: tuple[FeatureSlice, ...] = ()
    text: Feature | None = None  # one text per step, or one of the whole episode
    notes: tuple[str, ...] = ()  # remarks for the user where several features were combined, or the table did not apply

    @property
    def available(self) -> tuple[str, ...]:
        """Names of the signals, as in `Episode.available_signals`."""
        signals = {"actions": self.actions, "states": self.states, "text": self.text}
        return tuple(name for name, value in signals.items() if value)


def choose_signals(features: EpisodeFeatures, known: OpenXSet | None) -> RldsSignals:
    """Choose actions, states and text by the table of `known`, or else by name."""
    numbers = {each.path: each for each in features.steps if each.kind == "numbers" and not each.is_camera}
    notes: list[str] = []
    actions = _from_table(numbers, known.action if known else (), notes) or _actions_by_name(numbers, notes)
    states = _from_table(numbers, known.state if known else (), notes)
    states = states or next(((FeatureSlice.of(numbers[name]),) for name in _STATES if name in numbers), ())
    return RldsSignals(actions, states, _text(features), tuple(notes))


def _from_table(numbers: Mapping[str, Feature], slices: Sequence[str], notes: list[str]) -> tuple[FeatureSlice, ...]:
    """The slices of the table if the dataset has all of them; another version of it may not."""
    parts = []
    for name in slices:
        path, start, stop = _SLICE.fullmatch(name).groups()  # type: ignore[union-attr]
        feature = numbers.get(path)
        if feature is None or int(stop or 0) > prod(feature.shape):
            notes.append(f"no {name!r} in it, which its published version has")
            return ()
        parts.append(FeatureSlice.of(feature, int(start or 0), int(stop) if stop else None))
    return tuple(parts)


def _actions_by_name(numbers: Mapping[str, Feature], notes: list[str]) -> tuple[FeatureSlice, ...]:
    for name in ACTIONS:
        if name in numbers:
            return (FeatureSlice.of(numbers[name]),)
        if inside := [path for path in sorted(numbers) if path.startswith(f"{name}/")]:
            notes.append(f"an action is {', '.join(inside)}, side by side")
            return tuple(FeatureSlice.of(numbers[path]) for path in inside)
    return ()


def _text(features: EpisodeFeatures) -> Feature | None:
    """The instruction: of each step, or of the episode. Some sets store it as an array of character codes."""
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
