"""The figures of the model card of lara-lam: codebook, use of z, action probes, on held-out and on unseen tasks.

    python benchmarks/lara_lam_card.py lara-lam --heldout runs/mw-heldout --unseen runs/mw-unseen \\
        --card hub_configs/lara-lam/card.json --write-card hub_configs/lara-lam/README.md

Without a checkpoint the figures are read from the existing card, to print them or to write the page again. The datasets
come from `lara-tok simulate metaworld`; the page names the commands. One CPU thread needs two minutes.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import string
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lara_tokenizer import LatentActionModel, LatentActionProcessor, __version__
from lara_tokenizer.checkpoint import Checkpoint
from lara_tokenizer.evaluate import evaluate_checkpoint

PAGE = Path(__file__).with_name("lara_lam_page.md")
SETS = {"heldout": "held-out episodes", "unseen": "unseen tasks"}
LIBRARIES = ("torch", "transformers", "numpy", "av")


@dataclass(frozen=True, slots=True)
class Bar:
    """A minimum that `lara-lam` must reach, on held-out episodes and on unseen tasks."""

    figure: str
    heldout: float
    unseen: float
    measured: Callable[[dict[str, Any]], float]


BARS = (
    Bar("z_gain", 0.75, 0.60, lambda report: report["z_gain"]),
    Bar("z_gain, moving pixels", 0.55, 0.40, lambda report: report["z_gain_moving"]),
    Bar("gain over copying", 0.50, 0.30, lambda report: report["gain_over_copying"]),
    Bar("perplexity, pooled", 104, 80, lambda report: report["perplexity"]),
    Bar("perplexity, mean per position", 48, 32, lambda report: report["perplexity_per_position"]),
    Bar("test episodes of the probe", 60, 60, lambda report: report["probe"]["test_episodes"]),
)
# Controls that z must beat: the whole 95 % interval of the difference in conditional R2 is above 0.
CONTROLS = {
    "mean": "z above the mean predictor",
    "shuffled": "z above shuffled z",
    "pixel_difference": "z above pixel-difference PCA",
    "random_init": "z above a random-init model",
}
ROW_NAMES = {
    "z": "z",
    "quantized": "z, quantized",
    "mean": "mean predictor",
    "shuffled": "shuffled z",
    "pixel_difference": "pixel-difference PCA, 256-d",
    "random_init": "z of a random-init model",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="'lara-lam', a folder or a Hub id; without, the card is read")
    parser.add_argument("--heldout", nargs="+", help="dataset folders: trained tasks, seeds never trained on")
    parser.add_argument("--unseen", nargs="+", help="dataset folders: tasks never trained on")
    parser.add_argument("--card", required=True, type=Path, help="JSON file with the figures")
    parser.add_argument("--write-card", type=Path, help="also write the model card's page, in Markdown")
    options = parser.parse_args()
    if options.checkpoint is not None:
        if not (options.heldout and options.unseen):
            parser.error("a checkpoint is measured on both --heldout and --unseen")
        card = measure(options.checkpoint, {"heldout": options.heldout, "unseen": options.unseen})
        options.card.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    # Read again even where it was just measured: the page must follow from the file.
    card = json.loads(options.card.read_text(encoding="utf-8"))
    if options.write_card is not None:
        options.write_card.write_text(page(card), encoding="utf-8")
    print(page_tables(card))


def measure(checkpoint: str, folders: dict[str, list[str]]) -> dict[str, Any]:
    """The card: figures, datasets, versions, and the bars that are reached."""
    model = LatentActionModel.from_pretrained(checkpoint).eval()
    processor = LatentActionProcessor.from_pretrained(checkpoint)
    opened = Checkpoint.open(checkpoint)
    card: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/lara_lam_card.py", *sys.argv[1:]]),
        "model": {
            "weights_sha256": opened.weights_sha256,
            "weights_bytes": opened.weights_bytes,
            "parameters": model.num_parameters(),
        },
        "versions": {
            "lara-tokenizer": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
    }
    for name, paths in folders.items():
        print(f"{SETS[name]}: {' '.join(paths)}", file=sys.stderr)  # standard output is for the tables
        report = evaluate_checkpoint(model, processor, paths).report
        card[name] = {"data": [describe(Path(path)) for path in paths], **figures(report)}
    return card | {"bars": judge(card)}


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of a report for the card, without their intervals, and the whole probe."""
    values = {name: figure["value"] for name, figure in report["headline"].items()}
    counts = {name: report["data"][name] for name in ("episodes", "cameras", "frames", "pairs", "stride", "seed")}
    alarms = {"alarms": [f"{alarm['name']} ({alarm['severity']})" for alarm in report["alarms"]]}
    # The probe keeps its intervals: the margins over controls are judged by them.
    return counts | values | {"used_codes_share": report["codebook"]["used_share"], "probe": report["probe"]} | alarms


def describe(folder: Path) -> dict[str, Any]:
    """A dataset folder: its size, and the settings of its simulation where they are recorded."""
    info = json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))
    described = {"folder": str(folder), **{name: info[name] for name in ("total_episodes", "total_frames", "fps")}}
    simulation = folder / "meta" / "simulation.json"
    if simulation.exists():  # recorded demonstrations have none
        described["simulation"] = json.loads(simulation.read_text(encoding="utf-8"))
    return described


def judge(card: dict[str, Any]) -> list[dict[str, Any]]:
    """Every bar on both sets: the figure, its minimum, its value, and whether it passes."""
    judged: list[dict[str, Any]] = []
    for name in SETS:
        measured = card[name]
        for bar in BARS:
            least, value = getattr(bar, name), bar.measured(measured)
            verdict = {"figure": bar.figure, "set": name, "least": least, "measured": value}
            judged.append(verdict | {"passed": value >= least})
        for row, figure in CONTROLS.items():
            margin = measured["probe"]["margins"][row]
            verdict = {"figure": figure, "set": name, "least": "above 0", "measured": margin["difference"]}
            judged.append(verdict | {"interval": margin["interval"], "passed": margin["interval"][0] > 0})
    return judged


BAR_HEADER = ("figure", "held-out episodes", "bar", "", "unseen tasks", "bar", "")


def bar_rows(card: dict[str, Any]) -> list[list[str]]:
    """The bars and the measured values, one figure per row, held-out beside unseen."""
    by_figure: dict[str, list[str]] = {}
    for bar in card["bars"]:
        interval = _interval(bar["interval"]) if "interval" in bar else ""
        sign = "+" if interval else ""
        measured = f"{bar['measured']:{sign}.4g} {interval}".strip()
        least = bar["least"] if isinstance(bar["least"], str) else f"{bar['least']:g}"
        by_figure.setdefault(bar["figure"], []).extend([measured, least, "pass" if bar["passed"] else "MISS"])
    return [[figure, *cells] for figure, cells in by_figure.items()]


PROBE_HEADER = ("features", "R2 alone", "adds to frame t", "z minus this")


def probe_rows(probe: dict[str, Any]) -> list[list[str]]:
    """Latents and controls: R2 alone, the conditional R2 and z's margin, each with its 95 % interval."""
    rows = [["frame t, PCA 256-d", f"{probe['frame_r2']:.3f}", "", ""]]
    for name, text in ROW_NAMES.items():
        row, margin = probe["rows"][name], probe["margins"].get(name)
        r2 = f"{row['r2']:.3f} {_interval(row['r2_interval']) if 'r2_interval' in row else ''}".strip()
        added = f"{row['conditional_r2']:+.3f} {_interval(row['interval'])}" if name != "mean" else "0"
        above = f"{margin['difference']:+.3f} {_interval(margin['interval'])}" if margin else ""
        rows.append([text, r2, added, above])
    return rows


OTHERS = (
    "conditional_r2_nuisance",
    "nuisance_r2",
    "selectivity",
    "gain_over_copying_moving",
    "dead_positions",
    "dead_codes",
    "used_codes_share",
    "spread",
    "effective_rank",
)
OTHER_HEADER = ("figure", "held-out episodes", "unseen tasks")


def other_rows(card: dict[str, Any]) -> list[list[str]]:
    """The figures without a bar, then the amount of data."""
    rows = [[name.replace("_", " "), *(f"{card[kind][name]:.3g}" for kind in SETS)] for name in OTHERS]
    rows.append(["alarms and warnings", *(", ".join(card[kind]["alarms"]) or "none" for kind in SETS)])
    return rows + [[name, *(f"{card[kind][name]:,}" for kind in SETS)] for name in ("episodes", "frames", "pairs")]


def misses(card: dict[str, Any]) -> str:
    """One sentence with the bars that are missed."""
    missed = [f"{bar['figure']} ({SETS[bar['set']]})" for bar in card["bars"] if not bar["passed"]]
    total = len(card["bars"])
    return f"{len(missed)} of {total} bars missed: {'; '.join(missed)}." if missed else f"All {total} bars reached."


def page_tables(card: dict[str, Any]) -> str:
    """The card's tables in Markdown."""
    tables = [("Bars", BAR_HEADER, bar_rows(card)), ("Other figures", OTHER_HEADER, other_rows(card))]
    for name, text in SETS.items():
        probe = card[name]["probe"]
        title = f"R2 of summed actions, {text}: {probe['test_episodes']} test episodes, {probe['pairs']} pairs"
        tables.append((title, PROBE_HEADER, probe_rows(probe)))
    parts = [f"{title}\n\n{_markdown(header, rows)}\n" for title, header, rows in tables]
    return "\n".join([*parts, misses(card)])


def page(card: dict[str, Any]) -> str:
    """The model card in Markdown: the page's text with the card's figures."""
    heldout, unseen = (card[name]["probe"] for name in SETS)
    (weights,) = card["model"]["weights_sha256"].values()
    return string.Template(PAGE.read_text(encoding="utf-8")).substitute(
        command=card["command"],
        data_commands="\n".join(simulate_command(data) for name in SETS for data in card[name]["data"]),
        weights_sha256=weights,
        megabytes=f"{card['model']['weights_bytes'] / 1e6:.1f}",
        parameters=f"{card['model']['parameters'] / 1e6:.1f}",
        versions=", ".join(f"{name} {release}" for name, release in card["versions"].items()),
        seed=card["heldout"]["seed"],
        bars=_markdown(BAR_HEADER, bar_rows(card)),
        misses=misses(card),
        others=_markdown(OTHER_HEADER, other_rows(card)),
        camera=heldout["camera"].rpartition(".")[2],
        heldout_tests=heldout["test_episodes"],
        unseen_tests=unseen["test_episodes"],
        heldout_probe=_markdown(PROBE_HEADER, probe_rows(heldout)),
        unseen_probe=_markdown(PROBE_HEADER, probe_rows(unseen)),
    )


def simulate_command(data: dict[str, Any]) -> str:
    """The command that makes a simulated dataset."""
    from lara_policy.simulation.metaworld.tasks import TASK_SETS

    made = data["simulation"]
    # A named set of tasks where there is one: the full set has dozens.
    tasks = next(([name] for name, tasks in TASK_SETS.items() if list(tasks) == made["tasks"]), made["tasks"])
    command = ["lara-tok", "simulate", made["simulator"], "--out", data["folder"]]
    command += [word for task in tasks for word in ("--task", task)]
    command += ["--episodes", str(data["total_episodes"] // len(made["tasks"])), "--size", str(made["size"])]
    return shlex.join([*command, "--seed", str(made["seed"]), "--action-noise", str(made["action_noise"])])


def _interval(bounds: Sequence[float]) -> str:
    return "({:+.3f} to {:+.3f})".format(*bounds)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
