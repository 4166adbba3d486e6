"""Run by torchrun (see test_two_processes.py): 20 joint steps; process 0 writes the losses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    from labelled_squares import TINY_POLICY, LabelledSquares
    from lara_policy.refine import RefineRecipe, refine

    from lara_tokenizer.data import Episode

    tokenizer, folder, batch, w1 = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    readers = [LabelledSquares(seed, "go", 3, bad=False, labelled=True) for seed in range(8)]
    episodes = [Episode(f"ep{seed}", reader, ("front",)) for seed, reader in enumerate(readers)]
    recipe = RefineRecipe.parse(
        {
            "tokenizer": tokenizer,
            "policy": TINY_POLICY,
            "alignment": {"w1": w1, "w2": 1.0, "center": True},
            "training": {
                "steps": 20,
                "batch_size": batch // int(os.environ.get("WORLD_SIZE", "1")),
                "learning_rate": 1e-3,
                "log_steps": 1,
                "save_steps": 100,
                "heldout_samples": 8,
                "heldout_share": 0.2,
            },
        }
    )
    losses: list[float] = []

    def note(phase: str, done: int, total: int, logs: dict[str, float]) -> None:
        if phase == "steps" and "loss" in logs:
            losses.append(logs["loss"])

    out = folder / "run"
    refine(episodes, recipe, out=out, frames=folder / "frames", stop=False, progress=note)
    if losses:
        (folder / "losses.json").write_text(json.dumps(losses), encoding="utf-8")


if __name__ == "__main__":
    main()
