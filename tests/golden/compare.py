# ruff: noqa: T201  (a program: it prints)
"""Compare two golden recordings: `python compare.py BEFORE.json AFTER.json`.

Exit code 1 where an output that must be equal differs, a number differs by more than 1e-6, or a section failed.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

TOLERANCE = 1e-6  # relative
SHOWN = 6  # differences of one case


def main() -> None:
    before, after = (json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:3])
    failed = [f"{name}: {text}" for part in (before, after) for name, text in part["errors"].items()]
    sections = [name for name in before["sections"] if name in after["sections"]]
    before, after = (_only(recording, sections) for recording in (before, after))
    must = _differences(before["equal"], after["equal"])
    close = _distances(before["close"], after["close"])
    far = [line for distance, line in close if distance > TOLERANCE]
    drift = [line for distance, line in _distances(before["drift"], after["drift"]) if distance]
    free = _differences(before["free"], after["free"])
    print(f"sections compared: {', '.join(sections)}")
    _show("sections that failed", failed)
    _show(f"must be equal ({len(before['equal'])} outputs)", must)
    _show(f"within {TOLERANCE:g}, relative ({len(close)} numbers)", far)
    _show("later numbers of those runs, where rounding has grown (for information)", drift)
    _show(f"may differ ({len(before['free'])} outputs: prose, markup, public names)", free)
    sys.exit(bool(failed or must or far or not sections))


def _only(recording: dict[str, Any], sections: list[str]) -> dict[str, Any]:
    return {
        kind: {key: value for key, value in recording[kind].items() if key.split("/")[0] in sections}
        for kind in ("equal", "close", "drift", "free")
    }


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [
        f"{key}: {'only before' if key not in after else 'only after' if key not in before else 'differs'}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def _distances(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[float, str]]:
    """The relative distance of each number, and a line about it; a number that is missing is infinitely far."""
    distances = []
    for key in sorted({*before, *after}):
        x, y = before.get(key), after.get(key)
        distance = 0.0 if x == y else float("inf") if x is None or y is None else abs(x - y) / max(abs(x), abs(y))
        distances.append((distance, f"{key}: {x} and {y}, {distance:.2g} apart"))
    return sorted(distances, key=lambda item: -item[0])


def _show(title: str, lines: list[str]) -> None:
    """All cases (section/case) that differ, each with its first differences."""
    print(f"{title}: {len(lines) or 'none'}")
    for _, group in groupby(sorted(lines, key=_case), key=_case):
        differing = list(group)
        for line in differing[:SHOWN]:
            print(f"  {line}")
        if len(differing) > SHOWN:
            print(f"  {_case(differing[0])}: and {len(differing) - SHOWN} more")


def _case(line: str) -> str:
    return "/".join(line.split(":")[0].split("/")[:2])


if __name__ == "__main__":
    main()
