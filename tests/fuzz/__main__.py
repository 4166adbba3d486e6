"""`python -m fuzz`: damaged and hostile inputs of all kinds through the real commands, and a table of what came out."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from fuzz.kinds import Kind, all_kinds
from fuzz.outcome import Outcome, grouped_violations, table
from fuzz.warm import import_everything

TOTAL = 3000
KINDS: dict[str, Kind] = {}  # by name; the forked processes find them, prepared, in their copy of this module


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs that one process works on in one go."""

    kind: str
    indices: Sequence[int]


def main() -> None:
    options = _options()
    if shutil.which("ffmpeg") is None:
        sys.exit(
            "Frames are compared with those of the ffmpeg program, which is missing (Debian: apt-get install ffmpeg)"
        )
    folder = options.folder or Path(tempfile.gettempdir()) / f"lara-fuzz-{options.seed}-{options.count}"
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    import_everything()
    KINDS.update((kind.name, kind) for kind in all_kinds(folder))
    if options.kind and options.kind not in KINDS:
        sys.exit(f"KIND={options.kind}: takes {', '.join(KINDS)}")
    kinds = {name: kind for name, kind in KINDS.items() if options.kind in (None, name)}
    journal = Journal(folder / "outcomes.jsonl")
    batches = list(_pending(kinds, options.count, journal))
    for kind in {batch.kind for batch in batches}:
        kinds[kind].prepare()
    # Forked workers share what is imported; each forks again for every command.
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("fork")) as pool:
        running = [pool.submit(_run, batch, options.seed, folder / "found") for batch in batches]
        faults = list(filter(None, (_record(journal, done) for done in as_completed(running))))
    outcomes = [outcome for outcome in journal.outcomes.values() if outcome.kind in kinds]
    for line in (*grouped_violations(outcomes), table(outcomes)):
        print(line)
    print(
        f"seed {options.seed}, {time.monotonic() - started:,.0f} s in this run; journal, inputs of violations: {folder}"
    )
    if faults:
        print(f"{len(faults)} batches were not tried, for a fault of this harness: {faults[0]!r}")
    sys.exit(1 if faults or any(outcome.violations for outcome in outcomes) else 0)


def _record(journal: Journal, done: Future[list[Outcome]]) -> BaseException | None:
    """Write down a batch's outcomes; an exception is a fault of the harness, and costs that batch."""
    if (error := done.exception()) is not None:
        traceback.print_exception(error)
        return error
    for outcome in done.result():
        journal.add(outcome)
    return None


class Journal:
    """Outcomes on disk, so that a run that was stopped goes on where it was."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.outcomes: dict[tuple[str, int], Outcome] = {}
        for line in file.read_text().splitlines() if file.exists() else []:
            outcome = Outcome(**json.loads(line))
            self.outcomes[outcome.kind, outcome.index] = outcome

    def add(self, outcome: Outcome) -> None:
        self.outcomes[outcome.kind, outcome.index] = outcome
        with self._file.open("a") as stream:
            stream.write(json.dumps(outcome.to_dict()) + "\n")
        if outcome.violations:
            print(f"{outcome.kind} {outcome.index}: {', '.join(outcome.violations)}", flush=True)


def _run(batch: Batch, seed: int, found: Path) -> list[Outcome]:
    """Try a batch, in a process of the pool."""
    return KINDS[batch.kind].run(batch.indices, seed, found)


def _pending(kinds: dict[str, Kind], count: int, journal: Journal) -> Iterator[Batch]:
    """The batches of all kinds, by their shares of `count`, without what is done."""
    for kind in kinds.values():
        indices = range(max(1, -(-kind.share * count // TOTAL)))
        todo = [index for index in indices if (kind.name, index) not in journal.outcomes]
        yield from (Batch(kind.name, batch) for batch in kind.batches(todo))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=TOTAL, help="inputs over all kinds")
    parser.add_argument("--kind", help="only this kind")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--folder", type=Path, help="for the journal and the inputs; default: in the temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
