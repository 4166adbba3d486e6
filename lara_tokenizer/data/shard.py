"""`Shard`, one of n parts of a source that n machines process, each alone, and the split of the episodes.

The split depends on the list of episodes and the sizes of their files alone, so all machines that see the same source
agree on it without talking to each other.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lara_tokenizer.data.episode import Episode

# Variables that hold the index, the number of shards, and the first index, of what starts a job many times.
_ENVIRONMENTS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("RANK", "WORLD_SIZE", None),
)


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard `index` of `count`, counted from 0.

    >>> str(Shard.parse("3/8"))
    '3/8'
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] = os.environ) -> Shard:
        """A shard from "3/8", or from "auto": the task of a Slurm array, or RANK and WORLD_SIZE, of `environment`.

        Raises ValueError for anything else, and for "auto" where neither is set.

        >>> Shard.parse("auto", {"RANK": "4", "WORLD_SIZE": "8"})
        Shard(index=4, count=8)
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", _from_environment(environment) if text == "auto" else text)
        if match is None or not int(match[1]) < int(match[2]):
            raise ValueError(
                f"shard {text!r}: takes index/count, 0/8 to 7/8 for 8 shards, or auto inside a Slurm array or where "
                "RANK and WORLD_SIZE are set"
            )
        return cls(int(match[1]), int(match[2]))

    def select(self, episodes: Sequence[Episode]) -> Sequence[Episode]:
        """The episodes of this shard: a run of neighbours, since episodes may share files.

        All shards together have each episode once, and none is empty. Work is measured in bytes of files, which are
        known without opening any: a file that several episodes read counts for each in part, and an episode without
        local files as much as the average of the others.

        Raises ValueError for more shards than episodes.
        """
        if self.count > len(episodes):
            raise ValueError(
                f"shard {self}: there are {len(episodes)} episodes for {self.count} shards. Take at most as many."
            )
        cuts = _cuts(_work(episodes), self.count)
        return episodes[cuts[self.index] : cuts[self.index + 1]]


def _from_environment(environment: Mapping[str, str]) -> str:
    """ "index/count" of the first of `_ENVIRONMENTS` that is set; "" if none is."""
    for index, count, first in _ENVIRONMENTS:
        values = environment.get(index, ""), environment.get(count, ""), environment.get(first or "", "0")
        if all(value.isdecimal() for value in values):
            return f"{int(values[0]) - int(values[2])}/{int(values[1])}"
    return ""


def _work(episodes: Sequence[Episode]) -> np.ndarray:
    """float64 (n,): bytes of the local files of each episode."""
    files = [{path for camera in episode.cameras for path in episode.files(camera)} for episode in episodes]
    readers = Counter(path for paths in files for path in paths)
    share = {path: _size(path) / count for path, count in readers.items()}
    # Sorted, since a sum of floats depends on its order, and that of a set on the process.
    work = np.array([sum(sorted(share[path] for path in paths)) for paths in files])
    known = work > 0
    work[~known] = work[known].mean() if known.any() else 1.0
    return work


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # a path with a null byte is a ValueError
        return 0


def _cuts(work: np.ndarray, count: int) -> list[int]:
    """Positions (count + 1,) between which the shards lie: each cut is where it halves the work best.

    >>> _cuts(np.array([1.0, 1.0, 1.0, 3.0]), 2)
    [0, 3, 4]
    >>> _cuts(np.array([9.0, 1.0, 1.0]), 3)
    [0, 1, 2, 3]
    """
    ends = np.cumsum(work)
    middles = ends - work / 2
    cuts = np.searchsorted(middles, ends[-1] * np.arange(1, count) / count)
    # At least one episode each: push cuts right where they collide, then left where too few are left.
    cuts = np.maximum.accumulate(cuts - np.arange(1, count)) + np.arange(1, count)
    cuts = np.clip(cuts, np.arange(1, count), len(work) - np.arange(count - 1, 0, -1))
    return [0, *cuts.tolist(), len(work)]
