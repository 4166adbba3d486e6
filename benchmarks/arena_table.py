"""Tables with confidence intervals from the JSON files of `arena.py`, and a small copy of each file.

    python benchmarks/arena_table.py results/ --kept benchmarks/results/arena --page docs/arena.md
    python benchmarks/arena_table.py benchmarks/results/arena --page docs/arena.md    # again, from the small copies

The interval of a difference is a hierarchical bootstrap: seeds are drawn with replacement, and for each the episodes of
the test set; both recipes of a pair have the same seed and the same episodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from lara_tokenizer.evaluate.figures import resamples
from lara_tokenizer.evaluate.probes import pooled_r2

OURS = "lara"
LABELLED = ("lara:few-labels",)  # of the ablation: they see actions, the others do not
SETS = {"heldout": "held-out episodes", "unseen": "unseen tasks"}
CONTROLS = {
    "pixel_difference": "pixel-difference PCA, 256-d",
    "random_init": "a random-init model",
    "shuffled": "shuffled z",
    "mean": "mean predictor",
    "frame": "frame t alone",
}
FAMILIES = ("shake", "light", "background")
FIGURES = (
    "conditional_r2",
    "conditional_r2_nuisance",
    "nuisance_r2",
    "selectivity",
    "z_gain",
    "z_gain_moving",
    "gain_over_copying",
    "perplexity",
    "perplexity_per_position",
    "spread",
    "effective_rank",
)
SCREENED = ("conditional_r2", "conditional_r2_nuisance", "nuisance_r2", "selectivity", "z_gain", "perplexity")
SEED_RESAMPLES = np.random.SeedSequence(0)
Run = dict[str, Any]


def load(folder: Path, tag: str) -> list[Run]:
    """The runs of a tag, sorted by name and seed."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"{tag}-*.json"))]
    return sorted(runs, key=lambda run: (run["name"], run["seed"]))


def keep(run: Run) -> Run:
    """The parts of a run that statistics need: headline, and errors by episode of z and, of ours, the controls."""
    rows = ["z", *(name for name in CONTROLS if name not in ("mean", "frame"))] if run["name"] == OURS else ["z"]
    single = ["", "frame", *rows]
    actions = [*single, *(f"frame+{row}" for row in rows)]
    targets = {"plain": {"actions": actions}, "nuisance": {"actions": actions, **dict.fromkeys(FAMILIES, single)}}
    small = {key: value for key, value in run.items() if key not in SETS}
    for part in SETS:
        if part in run:
            errors = run[part]["errors"]
            small[part] = {
                "headline": run[part]["headline"],
                "alarms": run[part]["alarms"],
                "errors": {
                    kind: {target: _rounded(errors[kind].get(target, {}), keys) for target, keys in by_target.items()}
                    for kind, by_target in targets.items()
                },
            }
    return small


def _rounded(errors: dict[str, Any], keys: list[str]) -> dict[str, list[Any]]:
    """The errors of those of `keys` that there are, to four significant digits."""
    # More digits would change no printed figure, and make the committed files larger.
    digits = {key: [float(f"{x:.4g}") for x in np.ravel(errors[key])] for key in keys if key in errors}
    return {key: np.reshape(values, np.shape(errors[key])).tolist() for key, values in digits.items()}


class Statistics:
    """Figures of one run on one test set, for any weights of its episodes."""

    def __init__(self, run: Run, part: str) -> None:
        self.errors = run[part]["errors"]

    def r2(self, kind: str, target: str, key: str, weights_RE: np.ndarray) -> np.ndarray:
        """R2 (R,) of the probe on `key` ("" for the mean predictor)."""
        errors = self.errors[kind][target]
        return pooled_r2(np.array(errors[key]), np.array(errors[""]), weights_RE)

    def conditional(self, kind: str, row: str, weights_RE: np.ndarray) -> np.ndarray:
        """R2 of the actions that a row adds to frame t."""
        if row in ("mean", "frame"):  # nothing beside frame t
            return np.zeros(len(weights_RE))
        frame = self.r2(kind, "actions", "frame", weights_RE)
        return self.r2(kind, "actions", f"frame+{row}", weights_RE) - frame

    def selectivity(self, row: str, weights_RE: np.ndarray) -> np.ndarray:
        """R2 of the actions minus the mean R2 of the families, both from the row alone, under the nuisance."""
        key = "" if row == "mean" else row
        families = [self.r2("nuisance", family, key, weights_RE) for family in FAMILIES]
        return self.r2("nuisance", "actions", key, weights_RE) - np.mean(families, 0)


MEASURES: dict[str, Callable[[Statistics, str, np.ndarray], np.ndarray]] = {
    "conditional R2": lambda one, row, weights: one.conditional("plain", row, weights),
    "conditional R2 under nuisance": lambda one, row, weights: one.conditional("nuisance", row, weights),
    "selectivity": lambda one, row, weights: one.selectivity(row, weights),
}


def difference(pairs: list[tuple[Statistics, str, Statistics, str]], measure: Callable[..., np.ndarray]) -> list[float]:
    """[difference, low, high]: mean over seeds of measure(ours) - measure(other), with the 95 % interval."""
    count = len(next(iter(pairs[0][0].errors["plain"]["actions"].values())))
    weights_RE = resamples(count, 0)
    # Row 0 of the weights has each episode once: column 0 is the figure itself.
    by_seed_SR = np.stack(
        [measure(one, row, weights_RE) - measure(other, control, weights_RE) for one, row, other, control in pairs]
    )
    # Seeds are few, so they are drawn again for each resample of the episodes.
    drawn_RS = np.random.default_rng(SEED_RESAMPLES).integers(len(pairs), size=(len(weights_RE) - 1, len(pairs)))
    resampled_R = np.take_along_axis(by_seed_SR[:, 1:].T, drawn_RS, 1).mean(1)
    return [float(by_seed_SR[:, 0].mean()), *(float(x) for x in np.quantile(resampled_R, [0.025, 0.975]))]


def margins(runs: list[Run]) -> Iterable[tuple[str, str, str, list[float]]]:
    """(test set, measure, opponent, [difference, low, high]) of ours against every peer and control."""
    ours = {run["seed"]: run for run in runs if run["name"] == OURS}
    peers = sorted({run["name"] for run in runs} - {OURS})
    for part in SETS:
        own = {seed: Statistics(run, part) for seed, run in ours.items()}
        for name, measure in MEASURES.items():
            for peer in peers:
                other = {run["seed"]: Statistics(run, part) for run in runs if run["name"] == peer}
                # Recipes of a seed saw the same pairs, so their difference varies less than that of any two.
                pairs = [(own[seed], "z", other[seed], "z") for seed in sorted(own) if seed in other]
                yield part, name, peer, difference(pairs, measure)
            for control, label in CONTROLS.items():
                yield part, name, label, difference([(one, "z", one, control) for one in own.values()], measure)


def recipe_rows(runs: list[Run]) -> list[str]:
    """One row per recipe and test set: means over seeds."""
    lines = ["| recipe | test set | seeds | " + " | ".join(FIGURES) + " |", "|" + " --- |" * (len(FIGURES) + 3)]
    for name in sorted({run["name"] for run in runs}, key=lambda name: (name != OURS, name)):
        of_name = [run for run in runs if run["name"] == name]
        for part, label in SETS.items():
            measured = [run for run in of_name if part in run]
            if not measured:
                continue
            values = [[run[part]["headline"][figure]["value"] for run in measured] for figure in FIGURES]
            cells = [_mean(each) for each in values]
            lines.append(f"| {name} | {label} | {len(measured)} | " + " | ".join(cells) + " |")
    return lines


def ablation_sections(runs: list[Run]) -> list[str]:
    """One seed of every variant, those with labels apart; then every seed of variants run with several seeds."""
    first = [run for run in runs if run["seed"] == 0]
    lines = ["", "## One part at a time", "", *recipe_rows([run for run in first if run["name"] not in LABELLED])]
    if labelled := [run for run in first if run["name"] in LABELLED]:
        lines += ["", "## With labels", "", *recipe_rows([run for run in first if run["name"] == OURS] + labelled)]
    again = {run["name"] for run in runs if run["seed"] != 0}
    if again:
        lines += ["", "## Seed by seed", ""]
        lines += ["| recipe | test set | seed | " + " | ".join(SCREENED) + " |", "|" + " --- |" * (len(SCREENED) + 3)]
        for run in runs:
            for part, label in SETS.items():
                if run["name"] in again and part in run:
                    cells = [_mean([run[part]["headline"][figure]["value"]]) for figure in SCREENED]
                    lines.append(f"| {run['name']} | {label} | {run['seed']} | " + " | ".join(cells) + " |")
    return lines


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = float(np.mean(known))
    return f"{mean:.1f}" if abs(mean) >= 10 else f"{mean:+.3f}" if mean < 0 else f"{mean:.3f}"


def page(finals: list[Run], ablation: list[Run], sweep: list[Run], head: str) -> str:
    """The text of docs/arena.md."""
    lines = [head.rstrip(), "", "## Recipes", ""]
    lines += recipe_rows(finals)
    cost = {run["name"]: run for run in finals}
    lines += ["", "| recipe | parameters | pairs | steps | 10^12 operations | learning rate |", "|" + " --- |" * 6]
    for name, run in cost.items():
        lines.append(
            f"| {name} | {run['parameters']:,} | {run['pairs']:,} | {run['steps']:,} | {run['tflop']} | "
            f"{run['learning_rate']:g} |"
        )
    lines += ["", "## Ours minus each opponent", ""]
    lines += ["| test set | measure | opponent | difference | 95 % interval | above 0 |", "|" + " --- |" * 6]
    for part, measure, opponent, (value, low, high) in margins(finals):
        verdict = "yes" if low > 0 else "**no**"
        lines.append(
            f"| {SETS[part]} | {measure} | {opponent} | {value:+.3f} | {low:+.3f} to {high:+.3f} | {verdict} |"
        )
    if ablation:
        lines += ablation_sections(ablation)
    if sweep:
        lines += ["", "## Learning rates", "", "| recipe | rate | held-out gain over copying |", "| --- | --- | --- |"]
        lines += [f"| {run['name']} | {run['learning_rate']:g} | {run['heldout_gain']:+.3f} |" for run in sweep]
    return "\n".join(lines) + "\n"


def main(
    results: Annotated[Path, typer.Argument(help="Folder of JSON files of `arena.py`.")],
    to: Annotated[Path, typer.Option("--page", help="The page to write.")],
    head: Annotated[Path, typer.Option(help="Text of the page above its tables.")] = Path(__file__).parent / "arena.md",
    kept: Annotated[Path | None, typer.Option(help="Folder for a small copy of each file.")] = None,
) -> None:
    """Write the page, and a small copy of each run."""
    finals, ablation, sweep = (load(results, tag) for tag in ("final", "ablation", "sweep"))
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        for path in sorted(results.glob("*.json")):
            run = keep(json.loads(path.read_text(encoding="utf-8")))
            if path.name.startswith("ablation"):  # its tables have no intervals
                for part in SETS:
                    run.get(part, {}).pop("errors", None)
            (kept / path.name).write_text(json.dumps(run) + "\n", encoding="utf-8")
    to.write_text(page(finals, ablation, sweep, head.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
