"""How many pairs move, and how many of those as a whole picture: counted where the pixels are, kept beside the rows.

A unit's rows carry their counts in the metadata of their schema, and a finished table those of its job, by camera. So
they are the same however often a job was stopped, and a table can say them later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from lara_tokenizer.encode.plan import Unit

NAME = "moving_pairs"  # in the metadata of a table of tokens
_UNIT_KEY = b"lara_tokenizer.moving_pairs"


@dataclass(frozen=True, slots=True)
class MovingPairs:
    """`pairs` are not idle; `whole_picture` of them move as a whole picture (see whole_picture.py)."""

    pairs: int = 0
    whole_picture: int = 0

    def __add__(self, other: MovingPairs) -> MovingPairs:
        return MovingPairs(self.pairs + other.pairs, self.whole_picture + other.whole_picture)

    @property
    def whole_picture_share(self) -> float:
        """Of the moving pairs, 0 to 1."""
        return self.whole_picture / max(self.pairs, 1)


def with_moving_pairs(rows: pa.Table, moving: MovingPairs) -> pa.Table:
    """The rows of a unit, with their counts."""
    return rows.replace_schema_metadata({_UNIT_KEY: json.dumps(asdict(moving), sort_keys=True)})


def moving_pairs_of(rows: pa.Table) -> MovingPairs | None:
    """The counts of a unit; None for one that an earlier release encoded."""
    found = (rows.schema.metadata or {}).get(_UNIT_KEY)
    return None if found is None else MovingPairs(**json.loads(found))


def moving_pairs_by_camera(
    units: Iterable[Unit], table_of: Callable[[Unit], pa.Table]
) -> dict[str, MovingPairs] | None:
    """The sums over units; None where one of them does not know."""
    sums: dict[str, MovingPairs] = {}
    for unit in units:
        moving = moving_pairs_of(table_of(unit))
        if moving is None:
            return None
        sums[unit.camera] = sums.get(unit.camera, MovingPairs()) + moving
    return sums


def moving_pairs_to_metadata(by_camera: Mapping[str, MovingPairs] | None) -> dict[str, Any]:
    """The entry of a table's metadata; nothing for what is not known."""
    if by_camera is None:
        return {}
    return {NAME: {camera: asdict(moving) for camera, moving in sorted(by_camera.items())}}


def moving_pairs_from_metadata(metadata: Mapping[str, Any]) -> dict[str, MovingPairs] | None:
    """The counts in a table's metadata; None for a table of an earlier release."""
    found = metadata.get(NAME)
    return None if found is None else {camera: MovingPairs(**counts) for camera, counts in found.items()}
