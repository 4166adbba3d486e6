"""Which frame rates a person overrides: one for all, or by glob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import isfinite

Fps = float | Mapping[str, float] | None


def rates_of(ids: Sequence[str], fps: Fps) -> dict[str, float | None]:
    """The overriding rate of each episode, None where the source's own counts."""
    by_glob = fps if isinstance(fps, Mapping) else {} if fps is None else {"*": fps}
    rates: dict[str, float | None] = dict.fromkeys(ids)
    for pattern, rate in by_glob.items():
        if not (isfinite(rate) and rate > 0):
            raise ValueError(f"fps {rate!r} for {pattern!r}: must be above 0 frames per second")
        matches = [i for i in ids if fnmatchcase(i, pattern) or fnmatchcase(i.rpartition("/")[2], pattern)]
        if not matches:
            some = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
            raise ValueError(f"fps: {pattern!r} matches no episode. There are: {some}")
        for episode_id in matches:
            other = rates[episode_id]
            if other is not None and other != rate:
                raise ValueError(f"fps: {pattern!r} says {rate:g} for {episode_id}, another glob {other:g}. Keep one")
            rates[episode_id] = rate
    return rates
