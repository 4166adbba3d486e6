"""`python -m chaos`: kills, full disks, damaged jobs and replaced sources, and a table of how each ended."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random

from chaos.disk import full_disks
from chaos.jobs import damaged_jobs, replaced_sources, second_runs
from chaos.kills import kills
from chaos.scenario import Case, Scenario
from chaos.works import Bench
from fuzz.warm import import_everything

BENCH: list[Bench] = []  # one, prepared; the forked processes find it in their copy of this module


@dataclass(frozen=True, slots=True)
class Result:
    """How a scenario ended."""

    scenario: str
    group: str
    ends: list[str]
    faults: list[str]
    seconds: float


def main() -> None:
    options = _options()
    folder = options.folder or Path(tempfile.gettempdir()) / f"lara-chaos-{options.seed}"
    started = time.monotonic()
    import_everything()
    chosen = [k for k, each in enumerate(_scenarios(options.seed)) if options.only in f"{each.group}: {each.name}"]
    BENCH.append(Bench(folder / "bench"))
    BENCH[0].prepare()
    results: dict[int, Result] = {}
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("fork")) as pool:
        running = {pool.submit(_run, options.seed, k, folder / f"case-{k}"): k for k in chosen}
        for done in as_completed(running):
            result = results[running[done]] = done.result()
            print(
                f"{result.group}: {result.scenario}: {', '.join(result.ends)}", *result.faults, sep="\n    ", flush=True
            )
    print(_table([results[k] for k in sorted(results)]))
    faults = sum(bool(result.faults) for result in results.values())
    print(f"seed {options.seed}, {time.monotonic() - started:,.0f} s; folders of cases with faults: {folder}")
    sys.exit(1 if faults else 0)


def _scenarios(seed: int) -> list[Scenario]:
    """All scenarios; equal seeds give equal ones."""
    rng = Random(seed)
    return [*kills(rng), *full_disks(), *damaged_jobs(rng), *replaced_sources(), *second_runs()]


def _run(seed: int, number: int, folder: Path) -> Result:
    """Run one scenario, in a process of the pool; its folder stays if there are faults."""
    scenario, started = _scenarios(seed)[number], time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    case = Case(BENCH[0], folder)
    case.log.unlink(missing_ok=True)
    try:
        scenario.run(case)
    except Exception as error:
        traceback.print_exc()
        case.faults.append(f"the scenario itself failed: {error!r}")
    if not case.faults:
        shutil.rmtree(folder)
        case.log.unlink(missing_ok=True)
    return Result(scenario.name, scenario.group, case.ends, case.faults, time.monotonic() - started)


def _table(results: Iterable[Result]) -> str:
    """A line for each group: how the runs ended before all was done, and the cases with faults."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.group, []).append(result)
    rows = [_row(group, members) for group, members in groups.items()]
    rows.append(_row("all", [result for members in groups.values() for result in members]))
    head = ["disturbance", "cases", "runs stopped", "refused", "failed items", "equal in the end", "faults", "seconds"]
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    )


def _row(group: str, results: list[Result]) -> list[str]:
    ends = [end for result in results for end in result.ends]
    stopped = sum(end.startswith("signal") or end in ("exit 130", "exit 143") for end in ends)
    faults = sum(bool(result.faults) for result in results)
    counts = [len(results), stopped, ends.count("exit 2"), ends.count("exit 1"), len(results) - faults, faults]
    return [group, *map(str, counts), f"{sum(result.seconds for result in results):,.0f}"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="only the scenarios whose 'group: name' contains this text")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--folder", type=Path, help="for inputs and outputs; default: in the temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
