"""Which frame rates a person overrides: one for all, or by glob."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import isfinite

Fps = float | Mapping[str, float] | None


def rates_of(episodes: Mapping[str, str], fps: Fps) -> dict[str, float | None]:
    """The overriding rate of each episode, None where the source's own counts; `episodes` gives the dataset by id.

    A glob may fit the last part of an id, the whole of it, both without "#t=...", and the dataset's name.
    """
    by_glob = fps if isinstance(fps, Mapping) else {} if fps is None else {"*": fps}
    rates: dict[str, float | None] = dict.fromkeys(episodes)
    for pattern, rate in by_glob.items():
        if not (isfinite(rate) and rate > 0):
            raise ValueError(f"fps {rate!r} for {pattern!r}: must be above 0 frames per second")
        matches = [name for name, dataset in episodes.items() if _fits(name, dataset, pattern)]
        if not matches:
            ids = list(episodes)
            some = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
            raise ValueError(f"fps: {pattern!r} matches no episode. There are: {some}")
        for episode_id in matches:
            other = rates[episode_id]
            if other is not None and other != rate:
                raise ValueError(f"fps: {pattern!r} says {rate:g} for {episode_id}, another glob {other:g}. Keep one")
            rates[episode_id] = rate
    return rates


def _fits(name: str, dataset: str, pattern: str) -> bool:
    whole = name.partition("#t=")[0]
    return any(fnmatchcase(each, pattern) for each in (name, whole, whole.rpartition("/")[2], dataset))
