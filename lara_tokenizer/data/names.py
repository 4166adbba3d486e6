"""The names under which data sets keep instructions, actions and states, where their format does not say."""

from __future__ import annotations

from collections.abc import Iterable

TEXTS = ("language_instruction", "instruction", "task", "prompt", "caption", "text", "label")
ACTIONS = ("action", "actions")
STATES = ("observation.state", "observation.states", "state", "states")


def first_of(names: Iterable[str], there: Iterable[str]) -> str | None:
    """The first of `names` that is there.

    >>> first_of(ACTIONS, ["video", "action"])
    'action'
    """
    have = set(there)
    return next((name for name in names if name in have), None)
