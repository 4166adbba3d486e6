"""The curves and figures of docs/training.md: a healthy run, a collapsing one, and one whose z is appearance alone.

    python benchmarks/training_curves/draw.py --work runs/curves --page docs/training.md \\
        --picture docs/images/training-curves.png

Three tiny runs on squares that move by known actions, minutes on one core. The second has a learning rate ten times
as high. In the third world a lamp changes its colour between any two frames, which changes more pixels than the motion
of the square: z learns the lamp. `lara-tok eval` then asks each z for the actions.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lara_tokenizer.data import Episode, FrameIndex, Signals
from lara_tokenizer.data.lerobot.writer import LeRobotWriter
from lara_tokenizer.evaluate import evaluate_checkpoint
from lara_tokenizer.evaluate.figures import Estimate
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.train import Recipe, train_latent_action_model
from lara_tokenizer.train.watch import LOG_LINES
from lara_tokenizer.train.watch.monitor import CollapseError
from lara_tokenizer.train.watch.plot import draw_curves

SIZE, SIDE, LENGTH, FPS, STEP = 48, 10, 40, 10.0, 2
EPISODES, UNSEEN = 40, 12
RECIPE: dict[str, Any] = {
    "steady_pairs": False,
    "model": {
        "strides": ["0.3s"],
        "image_size": SIZE,
        "patch_size": 8,
        "hidden_size": 48,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "num_m_former_layers": 2,
        "num_decoder_layers": 2,
        "num_latents": 4,
        "codebook_size": 32,
        "codebook_dim": 16,
        "vision_config": {
            "model_type": "vit_mae",
            "image_size": SIZE,
            "patch_size": 8,
            "hidden_size": 48,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "num_hidden_layers": 1,
            "initializer_range": 0.08,
        },
        "standardize_latents": False,
        "decoder_warp": True,
        "continuous_steps": 200,
        "dead_code_share": 0.4,
    },
    "training": {
        "steps": 800,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "warmup_steps": 50,
        "start_at_change": True,
        "flow_weight": 2.0,
        "workers": 0,
        "log_steps": 25,
        "save_steps": 10_000,
        "heldout_share": 0.15,
        "grace_steps": 100,
    },
}


@dataclass(eq=False)
class Squares:
    """A square on a background of its own, moved by its actions; with a `lamp` the background changes colour."""

    seed: int
    lamp: bool

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 7])
        self.actions = rng.integers(-STEP, STEP + 1, (LENGTH, 2)).astype(np.float32)
        position = rng.integers(0, SIZE - SIDE, 2)
        tiles = rng.integers(40, 120, (6, 6, 3))
        background = np.kron(tiles, np.ones((SIZE // 6, SIZE // 6, 1)))
        self.pixels = np.empty((LENGTH, SIZE, SIZE, 3), np.uint8)
        for t in range(LENGTH):
            light = rng.uniform(0.5, 1.9, 3) if self.lamp else np.ones(3)
            frame = background * light
            y, x = position
            frame[y : y + SIDE, x : x + SIDE] = (230, 200, 60)
            self.pixels[t] = frame.clip(0, 255)
            moved = (position + self.actions[t]).clip(0, SIZE - SIDE).astype(int)
            self.actions[t] = moved - position
            position = moved

    def index(self, camera: str) -> FrameIndex:
        return FrameIndex(np.arange(LENGTH) / FPS, FPS)

    def signals(self) -> Signals:
        return Signals(actions=self.actions)

    def frames(self, camera: str, indices: np.ndarray) -> np.ndarray:
        return self.pixels[np.asarray(indices)]

    def close(self) -> None:
        pass


def world(seeds: Sequence[int], lamp: bool) -> list[Episode]:
    """Episodes of squares."""
    return [Episode(f"{seed:03d}", Squares(seed, lamp), available_signals=("actions",), index=seed) for seed in seeds]


@dataclass(frozen=True)
class Run:
    """A run: its world, and what it changes in the recipe."""

    lamp: bool
    training: dict[str, Any]


RUNS = {
    "healthy": Run(lamp=False, training={}),
    "collapsing": Run(lamp=False, training={"learning_rate": 1e-2}),
    "appearance only": Run(lamp=True, training={"flow_weight": 0.0, "start_at_change": False}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs; finished ones are kept")
    parser.add_argument("--page", type=Path, required=True, help="page with the table")
    parser.add_argument("--picture", type=Path, required=True, help="PNG with the curves")
    options = parser.parse_args()
    for name, run in RUNS.items():
        train(run, options.work / name)
    logs = {name: history(options.work / name) for name in RUNS}
    draw_curves(logs, options.picture)
    rows = [row(name, logs[name], probe(run, options.work / name)) for name, run in RUNS.items()]
    write_table(options.page, rows)


def train(run: Run, out: Path) -> None:
    """Train one run, unless it is there; a collapse ends it, as it should."""
    if (out / LOG_LINES).exists():
        return
    recipe = Recipe.parse({**RECIPE, "training": {**RECIPE["training"], **run.training}})
    try:
        train_latent_action_model(world(range(EPISODES), run.lamp), recipe, out=out)
    except CollapseError as error:
        (out / "stopped.txt").write_text(str(error), encoding="utf-8")


def history(out: Path) -> list[dict[str, float]]:
    """The logs of a run."""
    lines = map(json.loads, (out / LOG_LINES).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "loss" in line]


def probe(run: Run, out: Path) -> dict[str, Estimate]:
    """The figures of `lara-tok eval` for a finished run on unseen episodes of its world; {} for one that stopped."""
    if not (out / "model.safetensors").exists():
        return {}
    model, processor = LatentActionModel.from_pretrained(out).eval(), LatentActionProcessor.from_pretrained(out)
    return evaluate_checkpoint(model, processor, write_unseen(run, out / "unseen")).figures.headline


def write_unseen(run: Run, folder: Path) -> Path:
    """Unseen episodes of a run's world as a LeRobotDataset, which `lara-tok eval` reads."""
    if folder.exists():
        return folder
    key = "observation.images.top"
    names = {"action": ("rows", "columns")}
    writer = LeRobotWriter(folder, fps=FPS, video_shapes={key: (SIZE, SIZE)}, column_names=names, robot_type="square")
    for index in range(UNSEEN):
        square = Squares(EPISODES + index, run.lamp)
        writer.add_episode(index, "move", {"action": square.actions}, {key: square.pixels}, {})
    writer.finalize()
    return folder


def row(name: str, log: list[dict[str, float]], headline: dict[str, Estimate]) -> str:
    """A row of the table."""
    last = log[-1]
    cells = [
        name,
        f"{last['step']:,}",
        f"{last['loss']:.3f}",
        *(f"{last[f'heldout_{key}']:.2f}" for key in ("spread", "perplexity", "gain_over_copying", "z_gain")),
        _interval(headline.get("conditional_r2")),
    ]
    return f"| {' | '.join(cells)} |"


def _interval(figure: Estimate | None) -> str:
    if figure is None or figure.bounds is None:
        return "stopped, not probed"
    low, high = figure.bounds
    return f"{figure.known:.2f} ({low:.2f} to {high:.2f})"


def write_table(page: Path, rows: list[str]) -> None:
    """Replace the table of the page, between its two marks."""
    head = "| run | steps | loss | spread | codes in use | gain over copying | z gain | R2 of the action |"
    table = "\n".join([head, "| --- " * 8 + "|", *rows])
    text = page.read_text(encoding="utf-8")
    pattern = r"(<!-- runs -->\n).*?(\n<!-- /runs -->)"
    page.write_text(re.sub(pattern, lambda found: found[1] + table + found[2], text, flags=re.S), encoding="utf-8")


if __name__ == "__main__":
    main()
