"""The plain sentence about a target: what is predicted, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lara_tokenizer.data.actions.meaning import DELTA, Number
from lara_tokenizer.data.actions.motion import AUTO, CHUNK, SUM, MotionTarget

SHOWN = 8  # names of numbers in a sentence; more are counted

# Why a number is what it is; each continues "deltas: ..." or "positions: ...".
REASONS = {
    "published": "the table of published sets says so",
    "named": "their names say so",
    "follows": "the state follows them",
    "sums": "their sum predicts the change of the state",
    "speeds": "the state that follows them is a speed itself",
    "gripper": "a gripper's command holds its level",
    "pulses": "a gripper's command in pulses",
    "switch": "two levels, as of a gripper",
    "level": "far steadier than changes are",
    "steps": "they vary about 0 from frame to frame",
    "others": "as most other numbers are",
    "default": "nothing decides, so they count as changes; set another target (--target change) if they are positions",
}
SUMMED, STATE, ACTION = "sum of the actions", "change of the state", "change of the action"  # kinds of target


def group_of(number: Number, rule: str) -> str:
    """The kind of target of a number of an action: SUMMED, STATE or ACTION."""
    if rule == SUM or (rule == AUTO and number.kind == DELTA):
        return SUMMED
    return ACTION if number.state is None else STATE


def dimensions(target: MotionTarget) -> dict[str, list[str]]:
    """The numbers of an action that vary, by name or place, for each kind of target; {} for chunks."""
    if target.rule == CHUNK:
        return {}
    groups = _by_group(target)
    return {group: [number.name or str(place) for place, number in members] for group, members in groups.items()}


def sentence(target: MotionTarget) -> str:
    """The target in one plain sentence: what is predicted, for which numbers, and why.

    >>> from lara_tokenizer.data.actions.meaning import ActionMeaning
    >>> sentence(MotionTarget(ActionMeaning("", (Number("x", DELTA, "named"),))))
    'sum of the actions in x (deltas: their names say so)'
    """
    if target.rule == CHUNK:
        others = f"; of pairs with another gap ({target.other_lengths:,}) as many, evenly spaced"
        return (
            f"all actions of a pair, one after another, {target.length} of {len(target.meaning.numbers)} numbers, as "
            f"asked for{others if target.other_lengths else ''}"
        )
    if not target.meaning.numbers:
        return f"{SUMMED} (there was nothing to look at beforehand)"
    groups = _by_group(target)
    varying = sum(map(len, groups.values()))
    parts = [
        f"{group} in {_names(members, varying)} ({_why(members, group, target)})" for group, members in groups.items()
    ]
    constant = len(target.meaning.numbers) - varying
    if constant:
        parts.append(f"{constant} constant number{'s are' if constant > 1 else ' is'} left out")
    return "; ".join(parts)


def _by_group(target: MotionTarget) -> dict[str, list[tuple[int, Number]]]:
    """Place and number of those that vary, by `group_of`."""
    groups: dict[str, list[tuple[int, Number]]] = {SUMMED: [], STATE: [], ACTION: []}
    for place, number in enumerate(target.meaning.numbers):
        if not number.is_constant:
            groups[group_of(number, target.rule)].append((place, number))
    return {group: members for group, members in groups.items() if members}


def _names(members: Sequence[tuple[int, Number]], varying: int) -> str:
    if len(members) == varying and varying > 1:
        return f"all {varying} numbers"
    if len(members) > SHOWN or not all(number.name for _, number in members):
        places = [place for place, _ in members]
        return f"{len(members)} of {varying} numbers (place {_ranges(places)})"
    return ", ".join(number.name for _, number in members)


def _ranges(places: Sequence[int]) -> str:
    """Ascending places as ranges.

    >>> _ranges([0, 1, 2, 5])
    '0-2, 5'
    """
    starts = [i for i in range(len(places)) if i == 0 or places[i] != places[i - 1] + 1]
    stops = [*starts[1:], len(places)]
    runs = [(places[start], places[stop - 1]) for start, stop in zip(starts, stops, strict=True)]
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _why(members: Sequence[tuple[int, Number]], group: str, target: MotionTarget) -> str:
    if target.rule != AUTO:
        without = "; no state follows them" if group == ACTION and target.meaning.states else ""
        return f"as asked for{without}"
    reasons = "; ".join(REASONS[why] for why in dict.fromkeys(number.why for _, number in members))
    if group == SUMMED:
        return f"deltas: {reasons}"
    notes = []
    if group == ACTION:
        notes.append("no state follows them" if target.meaning.states else "there is no state")
    wrapping = [number for _, number in members if number.wraps]
    if wrapping:
        notes.append("an angle that wraps" if len(wrapping) == 1 else f"{len(wrapping)} angles that wrap")
    return "; ".join([f"positions: {reasons}", *notes])


def joined(targets: Iterable[MotionTarget]) -> str:
    """The sentence of all datasets, each named where their sentences differ."""
    each = list(targets)
    sentences = dict.fromkeys(map(sentence, each))
    if len(sentences) == 1:
        return next(iter(sentences))
    return ". ".join(f"{target.meaning.dataset or 'others'}: {sentence(target)}" for target in each)
