"""`find_meanings`: for each dataset, what every number of an action is, and the evidence for it.

Evidence is taken in this order: what the source states (published tables, names), statistics over some episodes, what
most other numbers are; and where nothing decides, an action counts as a change, and the reason says so.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lara_tokenizer.data.actions.angles import periods, unwrapped
from lara_tokenizer.data.actions.evidence import (
    OwnEvidence,
    Rows,
    StateEvidence,
    nearest_states,
    own_evidence,
    state_evidence,
)
from lara_tokenizer.data.actions.names import is_delta_name, is_gripper_name, is_position_name, namesakes
from lara_tokenizer.data.episode import Episode, Signals
from lara_tokenizer.errors import LaraTokenizerError

logger = logging.getLogger(__name__)

DELTA, POSITION = "delta", "position"
EPISODES = 16  # of a dataset, whose actions are looked at
FRAMES = 2000  # of each

# Positions: the state follows the action as closely as this, in the same unit ...
_FOLLOWS, _NEAR = 0.9, 0.5
# ... or the change of the state is explained by action and state together, and by the action alone to less than half.
_EXPLAINED, _ALONE = 0.25, 0.5
# Changes: their sum explains the change of the state nearly as well as sum and state together.
_NEARLY = 0.8
# A position is measured by its state where the state follows it; the opening of a gripper is in other units, and its
# sign may be the other one.
_MEASURED, _MEASURED_GRIPPER = 0.7, 0.4
_MOST = 0.8  # of the decided numbers, which the undecided follow


@dataclass(frozen=True, slots=True)
class Number:
    """One number of an action."""

    name: str  # "" where the source has none
    kind: str  # DELTA or POSITION
    why: str  # the evidence, a key of `describe.REASONS`
    state: int | None = None  # the number of the state that measures it
    wraps: bool = False  # an angle that was seen to wrap, or its state was
    is_constant: bool = False  # it never changes in the episodes that were looked at


@dataclass(frozen=True, slots=True)
class ActionMeaning:
    """The numbers of the actions of one dataset."""

    dataset: str
    numbers: tuple[Number, ...]
    states: int = 0  # numbers of a state; 0 without states
    episodes: int = 0  # that were looked at


def find_meanings(episodes: Sequence[Episode]) -> dict[str, ActionMeaning]:
    """The meaning of actions by dataset, from up to 16 episodes of each, evenly spaced; no frame is decoded.

    Datasets whose episodes have no actions that can be read are left out.

    >>> find_meanings(load_episodes("lerobot:lerobot/pusht"))["pusht"].numbers[0].kind  # doctest: +SKIP
    'position'
    """
    by_dataset: dict[str, list[Episode]] = {}
    for episode in episodes:
        if "actions" in episode.available_signals:
            by_dataset.setdefault(episode.dataset, []).append(episode)
    meanings = {}
    for dataset, of_dataset in by_dataset.items():
        # Where no state is sound, the actions still have a course of their own.
        read = list(_read(of_dataset)) or [replace(each, states=None) for each in _read(of_dataset, actions_only=True)]
        if read:
            meanings[dataset] = meaning_of(read, dataset)
    return meanings


def _read(episodes: Sequence[Episode], actions_only: bool = False) -> Iterable[Signals]:
    """Signals of some readable episodes, evenly spaced; those with other widths than the first are left out."""
    # Every 1/16th first; where some of those cannot be read, their neighbours.
    count = min(EPISODES, len(episodes))
    spaced = np.linspace(0, len(episodes) - 1, count).round().astype(int).tolist()
    order = [*dict.fromkeys(spaced), *sorted(set(range(len(episodes))) - set(spaced))][: 8 * EPISODES]
    widths: tuple[int, int | None] | None = None
    left = count
    for index in order:
        signals = _signals(episodes[index], actions_only)
        if signals is None or signals.actions is None:
            continue
        states = None if signals.states is None or actions_only else signals.states.shape[1]
        widths = widths or (signals.actions.shape[1], states)
        if widths == (signals.actions.shape[1], states):
            yield signals.window(0, FRAMES)
            left -= 1
        if not left:
            return


def _signals(episode: Episode, actions_only: bool) -> Signals | None:
    """Signals with finite actions (and states, where they are asked for); None where they cannot be had."""
    try:
        signals = episode.signals()
    except (LaraTokenizerError, OSError, ValueError) as error:
        logger.debug("%s: its actions are not looked at (%s)", episode.id, error)
        return None
    finally:
        episode.close()
    rows = [each for each in (signals.actions, None if actions_only else signals.states) if each is not None]
    is_usable = len({len(each) for each in rows}) == 1 and all(len(r) > 1 and np.isfinite(r).all() for r in rows)
    return signals if is_usable else None


def meaning_of(read: Sequence[Signals], dataset: str = "") -> ActionMeaning:
    """The meaning of the actions of episodes of one dataset, all of one width."""
    names = read[0].names
    raw = [np.asarray(each.actions, np.float64) for each in read]
    width = raw[0].shape[1]
    actions = [unwrapped(each, names.actions) for each in raw]
    wraps = np.any([periods(each, names.actions) for each in raw], 0)
    states = [unwrapped(each.states, names.states) for each in read if each.states is not None]
    partners = _partners(actions, states, names.actions, names.states)
    beside = state_evidence(actions, states, partners) if states else {}
    speeds = _speeds(states, partners, beside)
    if states:
        state_wraps = np.any([periods(each.states, names.states) for each in read if each.states is not None], 0)
        wraps = [bool(wraps[i]) or (i in partners and bool(state_wraps[partners[i]])) for i in range(width)]
    alone = own_evidence(actions)
    decided = []
    for i, own in enumerate(alone):
        name = names.actions[i] if len(names.actions) == width else ""
        published = names.action_kinds[i] if len(names.action_kinds) == width else ""
        kind, why = _decide(name, published, own, beside.get(i), i in speeds)
        is_gripper = is_gripper_name(name) or why == "switch"
        state = partners.get(i) if i not in speeds and _measures(kind, is_gripper, beside.get(i)) else None
        decided.append(Number(name, kind, why, state, bool(wraps[i]), own.is_constant))
    return ActionMeaning(
        dataset, _follow_most(decided, alone, partners), 0 if not states else states[0].shape[1], len(read)
    )


def _partners(actions: Rows, states: Rows, action_names: Sequence[str], state_names: Sequence[str]) -> dict[int, int]:
    """The number of the state that may measure each number of an action: by name, by place, or by its values."""
    if not states:
        return {}
    width = actions[0].shape[1]
    by_name = namesakes(action_names, state_names) if len(state_names) == states[0].shape[1] else {}
    if width == states[0].shape[1]:
        taken = set(by_name.values())
        return by_name | {i: i for i in range(width) if i not in by_name and i not in taken}
    return nearest_states(actions, states) | by_name


def _speeds(states: Rows, partners: Mapping[int, int], beside: Mapping[int, StateEvidence]) -> set[int]:
    """The numbers of an action whose state is a speed itself and measures no position.

    Positions that are sampled slowly look alike, but not most numbers of a robot at once.
    """
    if not states:
        return set()
    alone = own_evidence(states)
    speeds = {i for i, partner in partners.items() if alone[partner].is_change}
    following = {i for i, each in beside.items() if each.follows >= _MEASURED}
    return speeds if 2 * len(speeds & following) > len(following) else set()


def _decide(
    name: str, published: str, own: OwnEvidence, beside: StateEvidence | None, is_speed: bool
) -> tuple[str, str]:
    """The kind of a number, and the reason; "" for both where nothing decides."""
    if published:
        return published, "published"
    if is_delta_name(name):
        return DELTA, "named"
    if is_gripper_name(name):
        return (DELTA, "pulses") if own.is_pulsed else (POSITION, "gripper")
    if is_position_name(name):
        return POSITION, "named"
    if own.is_constant:
        return "", ""
    if beside is not None and is_speed:
        if beside.follows >= _MEASURED:
            return DELTA, "speeds"
    elif beside is not None:
        if beside.follows >= _FOLLOWS and beside.distance <= _NEAR:
            return POSITION, "follows"
        if beside.sum_r2 >= _EXPLAINED and beside.sum_r2 >= _NEARLY * beside.both_r2:
            return DELTA, "sums"
        is_explained = beside.best_both_r2 >= _EXPLAINED and abs(beside.follows) >= _MEASURED
        if is_explained and beside.sum_r2_where_both <= _ALONE * beside.best_both_r2:
            return POSITION, "follows"
    kind, why = _by_itself(own)
    # Noise of a joint at rest looks like changes: the other numbers, whose states tell, know better.
    return ("", "") if why == "steps" and beside is not None else (kind, why)


def _by_itself(own: OwnEvidence) -> tuple[str, str]:
    """The kind of a number by its own course, and the reason; "" for both where that does not decide."""
    # A level that never changes within an episode may be a steady speed as well as a pose.
    if own.is_constant or own.steps == 0:
        return "", ""
    if own.is_switch:
        return POSITION, "switch"
    if own.is_steady:
        return POSITION, "level"
    return (DELTA, "steps") if own.is_change else ("", "")


def _measures(kind: str, is_gripper: bool, beside: StateEvidence | None) -> bool:
    """Whether a number of the state measures what a number of the action moves."""
    if beside is None:
        return False
    if kind == DELTA:
        return beside.sum_r2 >= _EXPLAINED
    return abs(beside.follows) >= _MEASURED_GRIPPER if is_gripper else beside.follows >= _MEASURED


def _follow_most(
    decided: Sequence[Number], alone: Sequence[OwnEvidence], partners: Mapping[int, int]
) -> tuple[Number, ...]:
    """The numbers, with those that nothing decides as most others are; where those are mixed, by their own course."""
    kinds = Counter(each.kind for each in decided if each.kind and each.why not in ("gripper", "pulses", "switch"))
    kind, count = kinds.most_common(1)[0] if kinds else ("", 0)
    is_clear = count >= _MOST * kinds.total() if kinds else False
    positions = [each for each in decided if each.kind == POSITION]
    measured = sum(each.state is not None for each in positions) >= _MOST * max(len(positions), 1)
    numbers = []
    for i, each in enumerate(decided):
        if each.kind:
            numbers.append(each)
        elif is_clear:
            state = partners.get(i) if kind == POSITION and measured else None
            numbers.append(replace(each, kind=kind, why="others", state=state))
        else:
            own_kind, why = _by_itself(alone[i])
            numbers.append(replace(each, kind=own_kind or DELTA, why=why or "default"))
    return tuple(numbers)
