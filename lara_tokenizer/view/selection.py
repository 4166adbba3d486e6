"""The episodes that a view shows: those asked for, from the first on, as many as fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lara_tokenizer.data.load import parse_indices
from lara_tokenizer.table.reader import TokenSequence, TokenTable


@dataclass(slots=True)
class Selection:
    """Episodes to show.

    Attributes:
        episodes: their ids, in the table's order.
        most_pictures: of each episode and camera; less than one has only where a single episode is too long.
        notes: sentences on what is left out.
    """

    episodes: list[str]
    most_pictures: int
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Candidate:
    index: int  # in its dataset; of a source without indices, in the table
    pictures: int = 0


def select_episodes(table: TokenTable, indices: str | None, most_pictures: int) -> Selection:
    """Choose episodes of a table.

    Args:
        table: its stride and cameras are chosen already.
        indices: of the episodes to show, "0,7,10:20"; None for all.
        most_pictures: frames that fit, of all episodes and cameras together.

    Raises ValueError for an index without an episode, and where no pair is left.
    """
    candidates = _candidates(table)
    if not candidates:
        raise ValueError(f"{table.path}: no episode has a valid pair of stride {table.stride}: nothing to show.")
    if indices is not None:
        wanted = parse_indices(indices)
        known = [each.index for each in candidates.values()]
        if missing := [index for each in wanted for index in each if index not in known]:
            raise ValueError(
                f"episode {missing[0]} is not in {table.path}, which has {_spans(known)}. Name one of these."
            )
        chosen = {index for each in wanted for index in each}
        candidates = {name: each for name, each in candidates.items() if each.index in chosen}
    names = list(candidates)
    ends = np.cumsum([each.pictures for each in candidates.values()])
    fitting = max(1, int(np.searchsorted(ends, most_pictures, "right")))
    selection = Selection(names[:fitting], max(2, most_pictures // len(table.cameras)))
    if fitting < len(names):
        selection.notes.append(
            f"{fitting:,} of {len(names):,} episodes are shown: {most_pictures:,} frames fit. Choose others with "
            "--episodes."
        )
    return selection


def fitting_rows(sequence: TokenSequence, most_pictures: int) -> np.ndarray:
    """Indices of the first selected rows of a sequence that need at most so many frames."""
    rows = np.flatnonzero(sequence.selected)
    low, high = 0, len(rows)
    while low < high:  # the largest count that fits: each row more needs no fewer frames
        count = (low + high + 1) // 2
        low, high = (count, high) if len(pictures_of(sequence, rows[:count])) <= most_pictures else (low, count - 1)
    return rows[:low]


def pictures_of(sequence: TokenSequence, rows: np.ndarray) -> np.ndarray:
    """The frames t and t+C of some rows, sorted, each once."""
    return np.union1d(sequence.frames[rows], sequence.futures[rows])


def _candidates(table: TokenTable) -> dict[str, _Candidate]:
    """The episodes with a valid pair, and the count of their frames."""
    candidates: dict[str, _Candidate] = {}
    ordinals: dict[str, int] = {}
    for sequence in table.sequences():
        ordinal = ordinals.setdefault(sequence.episode, len(ordinals))
        if sequence.selected.any():
            index = ordinal if sequence.episode_index is None else sequence.episode_index
            each = candidates.setdefault(sequence.episode, _Candidate(index))
            each.pictures += len(pictures_of(sequence, np.flatnonzero(sequence.selected)))
    return candidates


def _spans(indices: Sequence[int]) -> str:
    """Indices in the notation of `parse_indices`, "0:3, 7"; of many spans the first."""
    ordered = np.unique(indices)
    spans = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    names = [f"{span[0]}" if len(span) == 1 else f"{span[0]}:{span[-1] + 1}" for span in spans]
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
