"""The figures of a model card: codebook, use of z, action probes, on held-out episodes and on unseen tasks.

    python benchmarks/lara_lam_card.py lara-lam --heldout data/mw-heldout --unseen data/mw-unseen --out card.json

The datasets come from `lara-tok simulate metaworld`. Runs on a CPU in a few minutes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lara_tokenizer import LatentActionModel, LatentActionProcessor, __version__
from lara_tokenizer.evaluate import evaluate_lam

console, console_err = Console(), Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="'lara-lam', a folder or a Hub id")
    parser.add_argument("--heldout", required=True, nargs="+", help="trained tasks, seeds never trained on")
    parser.add_argument("--unseen", required=True, nargs="+", help="tasks never trained on")
    parser.add_argument("--out", required=True, type=Path, help="JSON file")
    parser.add_argument("--pairs-per-episode", type=int, default=16)
    options = parser.parse_args()

    model = LatentActionModel.from_pretrained(options.checkpoint).eval()
    processor = LatentActionProcessor.from_pretrained(options.checkpoint)
    sets = {"heldout": options.heldout, "unseen": options.unseen}
    card: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/lara_lam_card.py", *sys.argv[1:]]),
        "lara_tokenizer": __version__,
    }
    for name, folders in sets.items():
        console_err.print(f"{name}: {' '.join(folders)}")
        card[name] = evaluate_lam(model, processor, folders, pairs_per_episode=options.pairs_per_episode)
    options.out.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    show(card)


def show(card: dict[str, Any]) -> None:
    """Two tables: the flat figures side by side, then each set's probes."""
    table = Table("figure", "held-out", "unseen tasks")
    for name, value in card["heldout"].items():
        if isinstance(value, int | float):
            table.add_row(name, f"{value:.4g}", f"{card['unseen'][name]:.4g}")
    console.print(table)
    for name in ("heldout", "unseen"):
        probe = card[name]["probe"]
        if probe is None:
            console.print(f"{name}: no probe: {card[name]['probe_note']}")
            continue
        tests = probe["episodes"]["test"]
        title = f"{name}: R2 of summed actions, {tests} test episodes, frame t alone {probe['frame_r2']:.3f}"
        table = Table("features", "R2 alone", "added to frame t", "95 %", "z minus this", "95 %", title=title)
        for row, value in probe["rows"].items():
            margin = probe["margins"].get(row)
            low, high = value["interval"]
            cells = (
                [f"{margin['difference']:+.3f}", "{:+.3f} to {:+.3f}".format(*margin["interval"])]
                if margin
                else ["", ""]
            )
            table.add_row(
                row, f"{value['r2']:.3f}", f"{value['conditional_r2']:+.3f}", f"{low:+.3f} to {high:+.3f}", *cells
            )
        console.print(table)


if __name__ == "__main__":
    main()
