"""The page of the arena from the JSON files of `arena.py`, and a small copy of each file.

    python benchmarks/arena_table.py results --kept benchmarks/results/arena --page docs/arena.md
    python benchmarks/arena_table.py benchmarks/results/arena --page docs/arena.md    # again, from the small copies

Sentences are written by the figures: each stands only where its interval says so.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from arena_statistics import (
    LEAST_Z_GAIN,
    NO_EVIDENCE,
    Run,
    Value,
    best_control,
    control_names,
    copying_gain,
    difference,
    keep,
    load,
    of_row,
    of_runs,
    uses_z,
    z_gain,
)
from arena_variants import OURS

from lara_tokenizer.evaluate.figures import ROW_NAMES

HEAD = Path(__file__).parent / "arena.md"
SETS = {"heldout": "held-out episodes", "unseen": "unseen tasks"}  # of Meta-World
REAL = "real"
Z, CODES = of_row("z"), of_row("quantized")
Seeds = dict[int, Run]  # the runs of a contender, by seed


def write_page(results: Path, to: Path) -> None:
    """Write the page of the results that are there."""
    runs, rates, shipped = (load(results, kind) for kind in ("run", "rate", "shipped"))
    to.write_text(page(runs, rates, shipped, HEAD.read_text(encoding="utf-8")), encoding="utf-8")


def page(runs: list[Run], rates: list[Run], shipped: list[Run], head: str) -> str:
    """The text of the page. A model as it `shipped` is on other terms: it has a row, and is in no comparison."""
    measured, beside = by_contender(runs), by_contender(shipped)
    parts = [head.rstrip()]
    if measured:
        parts += ["## What the figures say\n\n" + "\n".join(f"- {each}" for each in sentences(runs, measured))]
        parts += ["## Runs\n\n" + runs_table(runs), "## Real video\n\n" + real_table(measured | beside)]
        parts += [f"## Meta-World, {label}\n\n{league_table(measured, beside, part)}" for part, label in SETS.items()]
        parts += ["## Recipes against the best control\n\n" + control_table(measured)]
        parts += ["## Recipes against each other\n\n" + recipe_table(measured)]
        parts += ["## Stabilisers and steady pairs\n\n" + factor_table(measured)]
    else:
        parts += ["No run is finished yet: there is nothing to conclude."]
    if rates:
        parts += ["## Learning rates\n\n" + rate_table(rates)]
    return "\n\n".join(parts) + "\n"


def by_contender(runs: list[Run]) -> dict[str, Seeds]:
    """Measured runs by contender and seed; one whose weights are not finite was not measured."""
    found: dict[str, Seeds] = defaultdict(dict)
    for run in runs:
        if run["sets"]:
            found[run["name"]][run["seed"]] = run
    return dict(found)


def chosen(measured: dict[str, Seeds]) -> dict[str, str]:
    """The contender of each recipe: the one whose decoder uses z most on held-out training pairs, ours first.

    Neither test set nor action takes part in the choice.
    """
    use = {
        name: np.mean([run["course"]["final"]["z_gain"] for run in seeds.values()]) for name, seeds in measured.items()
    }
    found: dict[str, str] = {}
    for name, seeds in sorted(measured.items(), key=lambda item: -use[item[0]]):
        found.setdefault(next(iter(seeds.values()))["recipe"], name)
    return dict(sorted(found.items(), key=lambda item: (not item[0].startswith(OURS), item[0])))


def sentences(runs: list[Run], measured: dict[str, Seeds]) -> Iterator[str]:
    """The conclusions that the figures allow, in words."""
    yield from _on_runs(runs, measured)
    using = [name for name, seeds in measured.items() if uses_z(seeds, REAL)]
    idle = [name for name in measured if name not in using]
    yield f"Real video: the decoder uses z in {_listed(using)}{f', and does not in {_listed(idle)}' if idle else ''}."
    for part, label in SETS.items():
        yield from _on_controls(measured, part, label)
    if OURS in (best := chosen(measured)):
        yield from _on_ours(measured, best)


def _on_runs(runs: list[Run], measured: dict[str, Seeds]) -> Iterator[str]:
    plateau = sum(run["course"]["at_plateau"] for run in runs)
    yield (
        f"{plateau} of {len(runs)} runs ended at a plateau. The others used all pairs of the safety net: they had not "
        "begun to use z, or were still gaining, or ended in numbers that are not finite ('Runs' says which)."
        if plateau < len(runs)
        else f"All {len(runs)} runs ended at a plateau."
    )
    counts = sorted({len(seeds) for seeds in measured.values()})
    yield (
        f"Seeds per contender: {' or '.join(map(str, counts))}."
        + (
            " Intervals of a single seed are over episodes alone, and do not say what another seed would give."
            * (1 in counts)
        )
    )


def _on_controls(measured: dict[str, Seeds], part: str, label: str) -> Iterator[str]:
    verdicts: dict[str, list[str]] = defaultdict(list)
    for name, seeds in measured.items():
        verdicts[against_control(seeds, part)[2]].append(name)
    strongest = [best_control(seeds, part) for seeds in measured.values()]
    control = max(dict.fromkeys(strongest), key=strongest.count)
    said = {
        ABOVE: "z tells more about the actions than its best control in",
        BELOW: "it tells less in",
        APART: "neither can be said of",
        IDLE: "the decoder does not use z, so that nothing is claimed, in",
    }
    clauses = [f"{words} {_listed(verdicts[each])}" for each, words in said.items() if verdicts[each] or each == ABOVE]
    yield (
        f"Meta-World, {label}: the best control is {ROW_NAMES[control]} for {strongest.count(control)} of "
        f"{len(strongest)} contenders. {'; '.join(clauses)}."
    )


def _on_ours(measured: dict[str, Seeds], best: dict[str, str]) -> Iterator[str]:
    for part, label in SETS.items():
        if not uses_z(measured[best[OURS]], part):
            yield f"Meta-World, {label}: the decoder of {OURS} does not use z, so it is compared with no recipe."
            continue
        for recipe, name in best.items():
            verdict = against_recipe(measured[best[OURS]], measured[name], part, Z)[1]
            if recipe != OURS:
                yield f"Meta-World, {label}: z of {OURS}, each recipe in its best setting, {WORDS[verdict]} {recipe}'s."


ABOVE, BELOW, APART, IDLE = "above", "below", "not told apart", "not in use"
WORDS = {
    ABOVE: "tells more about the actions than",
    BELOW: "tells less about the actions than",
    APART: "cannot be told apart from",
    IDLE: "is not compared, since the decoder does not use it, with",
}


def against_control(seeds: Seeds, part: str) -> tuple[str, list[float], str]:
    """The best control of a contender, the difference of conditional R2, and the verdict.

    Above is evidence: the difference is above 0 by its interval, and the intervals of the two do not touch.
    """
    control = best_control(seeds, part)
    result = difference(seeds, seeds, part, Z, of_row(control))
    if not uses_z(seeds, part):
        return control, result, IDLE
    clear = of_runs(seeds, part, Z)[1] > of_runs(seeds, part, of_row(control))[2]
    return control, result, ABOVE if result[1] > 0 and clear else BELOW if result[2] < 0 else APART


def against_recipe(seeds: Seeds, others: Seeds, part: str, value: Value) -> tuple[list[float], str]:
    """The difference of two contenders over the seeds of both, and the verdict; [] where they share no seed."""
    result = difference(seeds, others, part, value, value)
    if not uses_z(seeds, part) or not uses_z(others, part):
        return result, IDLE
    if not result or result[1] <= 0 <= result[2]:
        return result, APART
    return result, ABOVE if result[1] > 0 else BELOW


def runs_table(runs: list[Run]) -> str:
    """One row per contender: its training."""
    rows = []
    for name in _names(runs):
        own = [run for run in runs if run["name"] == name]
        used, final = ([run["course"]["final"][key] for run in own] for key in ("pairs", "z_gain"))
        ends = ", ".join(sorted({_end(run) for run in own}))
        parameters, rate = (own[0][key] for key in ("parameters", "learning_rate"))
        use = f"{np.mean(final):.3f}" if min(final) > -1 else ""
        rows.append([name, len(own), f"{parameters:,}", f"{rate:g}", f"{np.mean(used):,.0f}", use, ends])
    return _table(("contender", "seeds", "parameters", "learning rate", "pairs", "held-out z_gain", "end"), rows)


def _end(run: Run) -> str:
    if not run["sets"]:
        return "not finite"
    if run["course"]["at_plateau"]:
        return "plateau"
    in_use = run["course"]["final"]["z_gain"] >= LEAST_Z_GAIN
    return "not at a plateau, still gaining" if in_use else "not at a plateau, z not in use"


def real_table(measured: dict[str, Seeds]) -> str:
    """One row per model: its decoder and codes on held-out clips of real video, which have no actions."""
    rows = []
    for name, seeds in measured.items():
        codes = [_mean(seeds, REAL, figure) for figure in ("perplexity", "perplexity_per_position")]
        gains = (_shown(of_runs(seeds, REAL, figure)) for figure in (z_gain, copying_gain))
        rows.append([name, len(seeds), *gains, *codes])
    return _table(("contender", "seeds", "z_gain", "gain over copying", "perplexity", "per position"), rows)


def league_table(measured: dict[str, Seeds], shipped: dict[str, Seeds], part: str) -> str:
    """Models and controls by conditional R2; controls that depend on the model are those of ours."""
    rows: list[tuple[float, list[str]]] = []

    def add(label: str, seeds: Seeds, row: str, codes: str = "", use: str = "") -> None:
        value = of_runs(seeds, part, of_row(row))
        disturbed = (_mean_of(seeds, part, row, key) for key in ("conditional_r2", "nuisance_r2"))
        rows.append((-value[0], [label, _shown(value), codes, use, *disturbed]))

    for name, seeds in (measured | shipped).items():
        has_codes = "frame+quantized" in _first(seeds)["sets"][part]["errors"]
        codes = _shown(of_runs(seeds, part, CODES)) if has_codes else ""
        add(name, seeds, "z", codes, _shown(of_runs(seeds, part, z_gain)) if uses_z(seeds, part) else IDLE)
    reference = measured[chosen(measured).get(OURS, next(iter(measured)))]
    for control in (*control_names(_first(reference), part), *NO_EVIDENCE):
        add(f"*{ROW_NAMES[control]}*", reference, control)
    cells = [cells for _, cells in sorted(rows)]
    return _table(("z, or *control*", "conditional R2", "of codes", "z_gain", "under nuisance", "nuisance R2"), cells)


def _mean_of(seeds: Seeds, part: str, row: str, figure: str) -> str:
    found = [run["sets"][part]["rows"]["nuisance"].get(row, {}).get(figure) for run in seeds.values()]
    known = [value for value in found if value is not None]
    return f"{np.mean(known):.3f}" if known else ""


def control_table(measured: dict[str, Seeds]) -> str:
    """Each recipe in its best setting against the best control."""
    rows = []
    for part, label in SETS.items():
        for name in chosen(measured).values():
            control, result, verdict = against_control(measured[name], part)
            rows.append([label, name, ROW_NAMES[control], *_judged(result, verdict)])
    return _table(("test set", "contender", "best control", "difference of conditional R2", "z is"), rows)


def recipe_table(measured: dict[str, Seeds]) -> str:
    """Recipes in their best settings, pair by pair; on real video by the decoders' use of z."""
    rows = []
    for part, label in (*SETS.items(), (REAL, "real video")):
        measure, value = ("z_gain", z_gain) if part == REAL else ("conditional R2", Z)
        for name, other in combinations(chosen(measured).values(), 2):
            judged = _judged(*against_recipe(measured[name], measured[other], part, value))
            rows.append([label, measure, name, other, *judged])
    return _table(("test set", "measure", "contender", "opponent", "difference", "contender is"), rows)


def factor_table(measured: dict[str, Seeds]) -> str:
    """One change at a time: what the stabilisers and steady pairs add to a recipe, on held-out episodes."""
    rows = []
    for name, seeds in measured.items():
        run = _first(seeds)
        for change, other in (
            ("stabilisers", name.replace("-stabilised", "-published") if run["stabilised"] else ""),
            ("steady pairs", name.replace("-steady", "-recorded") if run["steady"] else ""),
        ):
            if other in measured and (result := difference(seeds, measured[other], "heldout", Z, Z)):
                gain = difference(seeds, measured[other], REAL, z_gain, z_gain)
                rows.append([change, name, other, _shown(result, signed=True), _shown(gain, signed=True)])
    rows.sort(key=lambda row: row[0])
    return _table(("change", "with", "without", "conditional R2, held-out episodes", "z_gain, real video"), rows)


def rate_table(rates: list[Run]) -> str:
    """Held-out gain over copying of short runs on moving pixels, by recipe and rate; the best in bold."""
    by_form: dict[str, dict[float, float]] = defaultdict(dict)
    for each in rates:
        by_form[each["form"]][each["rate"]] = each["gain_moving"]
    tried = sorted({each["rate"] for each in rates})
    rows = []
    for form, gains in by_form.items():
        best = max(gains.values())
        cells = (f"{gains[rate]:+.3f}" if gains.get(rate, -1e9) > -1e6 else "" for rate in tried)
        rows.append(
            [
                form,
                *(f"**{cell}**" if gains.get(rate) == best else cell for rate, cell in zip(tried, cells, strict=True)),
            ]
        )
    return _table(("recipe", *(f"{rate:g}" for rate in tried)), rows)


def _judged(result: list[float], verdict: str) -> list[str]:
    return [_shown(result, signed=True) if result and verdict != IDLE else "", verdict]


def _shown(result: Sequence[float], signed: bool = False) -> str:
    """
    >>> _shown([0.1234, 0.1, 0.15])
    '0.123 (0.100 to 0.150)'
    """
    value, low, high = (f"{x:+.3f}" if signed else f"{x:.3f}" if abs(x) < 10 else f"{x:.1f}" for x in result)
    return f"{value} ({low} to {high})"


def _mean(seeds: Seeds, part: str, figure: str) -> str:
    values = [run["sets"][part]["headline"][figure]["value"] for run in seeds.values()]
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.1f}" if known else ""


def _names(runs: list[Run]) -> list[str]:
    return list(dict.fromkeys(run["name"] for run in runs))


def _first(seeds: Seeds) -> Run:
    return seeds[min(seeds)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [" | ".join(header), " | ".join("---" for _ in header), *(" | ".join(map(str, row)) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def main(
    results: Annotated[Path, typer.Argument(help="Folder of JSON files of `arena.py`.")],
    to: Annotated[Path, typer.Option("--page", help="The page to write.")],
    kept: Annotated[Path | None, typer.Option(help="Folder for a small copy of each file.")] = None,
) -> None:
    """Write the page, and a small copy of each run."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        for path in sorted(results.glob("*-*.json")):
            run = json.loads(path.read_text(encoding="utf-8"))
            small = keep(run) if "sets" in run else run
            (kept / path.name).write_text(json.dumps(small) + "\n", encoding="utf-8")
    write_page(results, to)


if __name__ == "__main__":
    typer.run(main)
