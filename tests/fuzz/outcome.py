"""`Outcome` of one input, what counts as a violation, and the table of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from fuzz.forked import Finished

MOST_BYTES = 10**9  # that a driver may hold resident
# Of these, beyond its start: a driver with all imports holds 450 MB, a test run in which it is forked may hold more.
_MOST_GROWTH = 5 * 10**8
EXIT_CODES = {0: "ok", 1: "failed", 2: "refused", 130: "refused"}  # as lara_tok.__main__.main documents them
_UNEXPECTED = 70  # its exit code for an exception that nobody foresaw: a traceback without its text
VIOLATIONS = ("traceback", "crash", "hang", "memory", "wrong rows", "changed rows", "output", "executed")
# Not "more memory requested than available": FFmpeg refuses an absurd size so, and allocates nothing for it.
_OUT_OF_MEMORY = re.compile(r"MemoryError|bad_alloc|[Cc]annot allocate|malloc of size|not enough memory")
# A terminal obeys these: C0 without newline, carriage return and tab, DEL, C1.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")


@dataclass(slots=True)
class Outcome:
    """Result of one input.

    Attributes:
        verdict: "ok", "refused" (exit code 2) or "failed" (an item in failed.jsonl, or exit code 1).
        violations: text by name of `VIOLATIONS`.
        peak: resident bytes of the driver.
    """

    kind: str
    index: int
    verdict: str = "ok"
    violations: dict[str, str] = field(default_factory=dict)
    peak: int = 0
    seconds: float = 0.0

    def add(self, done: Finished) -> None:
        """Take over a command's end."""
        self.verdict = EXIT_CODES.get(done.code, self.verdict) if done.code is not None else self.verdict
        self.peak = max(self.peak, done.peak)
        self.seconds += done.seconds
        self.violations |= violations(done)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def violations(done: Finished) -> dict[str, str]:
    """Everything about a command's end that no input may cause, by name."""
    found = {}
    last = [line for line in re.split(r"[\r\n]+", done.output) if line.strip()][-1:] or [""]
    if done.code == _UNEXPECTED or re.search(r"Traceback \(most recent call last\)|Exception ignored in", done.output):
        found["traceback"] = last[0]
    elif done.code is not None and done.code not in EXIT_CODES:
        found["crash"] = f"exit code {done.code}: {last[0]}"
    elif done.code == 2 and not re.search(r"^(error|Error|Usage|usage)|Invalid value", done.output, re.MULTILINE):
        found["output"] = f"exit code 2 without an error: {last[0]}"
    if done.code is None:
        found["hang"] = f"killed after {done.seconds:.0f} s; {last[0]}"
    is_large = done.peak > MOST_BYTES and done.peak - done.inherited > _MOST_GROWTH
    if is_large or _OUT_OF_MEMORY.search(done.output):
        found["memory"] = f"peak {done.peak / 1e6:,.0f} MB; {last[0]}"
    if control := _CONTROLS.search(done.output):
        found["output"] = (
            f"control character {control[0]!r} printed: {done.output[max(0, control.start() - 60) :][:120]!a}"
        )
    return found


def grouped_violations(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """A line for all violations that read the same but for their numbers, the most frequent first."""
    groups: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for outcome in outcomes:
        for name, text in outcome.violations.items():
            key = outcome.kind, name, re.sub(r"\d+|'[^']*'", "", text)[:80]
            groups.setdefault(key, []).append((outcome.index, text))
    for (kind, name, _), members in sorted(groups.items(), key=lambda group: -len(group[1])):
        index, text = members[0]
        yield f"{len(members):4} x {kind}: {name}, e.g. input {index}: {ascii(text)[1:-1][:300]}"


def table(outcomes: Iterable[Outcome]) -> str:
    """One line per kind, and the sums."""
    by_kind: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_kind.setdefault(outcome.kind, []).append(outcome)
    rows = [_row(kind, each) for kind, each in by_kind.items()]
    rows.append(_row("all", [outcome for each in by_kind.values() for outcome in each]))
    head = ["kind", "inputs", "ok", "refused", "failed items", "tracebacks", "crashes", "hangs", "memory", "wrong rows"]
    head += ["changed rows", "output", "executed", "peak MB", "seconds"]
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    )


def _row(kind: str, outcomes: list[Outcome]) -> list[str]:
    verdicts = [outcome.verdict for outcome in outcomes]
    counts = [len(outcomes), *(verdicts.count(name) for name in ("ok", "refused", "failed"))]
    counts += [sum(name in outcome.violations for outcome in outcomes) for name in VIOLATIONS]
    peak, seconds = max((o.peak for o in outcomes), default=0), sum(o.seconds for o in outcomes)
    return [kind, *(f"{count:,}" for count in counts), f"{peak / 1e6:,.0f}", f"{seconds:,.0f}"]
