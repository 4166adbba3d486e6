"""Comparison of recipes at equal data and equal compute: train one, measure it, write one JSON.

    python benchmarks/arena.py run lara --seed 0 --learning-rate 1e-3 --runs runs --out results/
    python benchmarks/arena.py run moto --seed 0 --learning-rate 3e-4 --runs runs --out results/

Data: the training episodes of `lara-tok simulate metaworld` (see docs/arena.md) under camera shake and changing light
with known parameters (`lara_tokenizer.evaluate.nuisance`); the moving background is in no training and in every test.
Compute: the same floating-point operations for all, forward and backward, counted by torch. Recipes are "lara", the
recipe of `hub_configs/training/lam_sim.yaml`, "lara:NAME", a variant of it (see `arena_variants.py`), and the peers of
`benchmarks/peers/`.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import arena_bottlenecks
import arena_losses
import numpy as np
import torch
import typer
from arena_variants import VARIANTS
from peers import RECIPES, training_flops_per_pair
from torch.nn.attention import SDPBackend, sdpa_kernel

from lara_tokenizer import metrics
from lara_tokenizer.data import load_episodes
from lara_tokenizer.evaluate import evaluate_checkpoint
from lara_tokenizer.evaluate.encoding import decode_frames, encode_frames
from lara_tokenizer.evaluate.nuisance import Nuisance, with_nuisance
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.train.augment import normalize, to_unit_range
from lara_tokenizer.train.frames import FrameCache
from lara_tokenizer.train.mixture import find_pairs, split_sequences
from lara_tokenizer.train.pairs import PairDataset
from lara_tokenizer.train.recipe import Recipe
from lara_tokenizer.train.train import plan_training, train_latent_action_model

ROOT = Path(__file__).resolve().parent.parent
LAM_RECIPE = ROOT / "hub_configs" / "training" / "lam_sim.yaml"
TRAINING_NUISANCE = Nuisance(("shake", "light"), seed=11)  # evaluation draws with seeds of its own
HELDOUT_SHARE, HELDOUT_PAIRS = 0.05, 256  # of the training episodes: the sweep must not see the test sets
SETS = {"heldout": "mw-heldout", "unseen": "mw-unseen"}
PEER_BATCH = 32  # as lam_sim.yaml has it: peers publish 64 to 480, of which few steps would fit into the same compute
CAMERA = "observation.images.corner2"  # measured; training uses both cameras

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass
class Trained:
    """A trained model and its cost."""

    model: Any
    processor: LatentActionProcessor
    steps: int
    pairs: int
    tflop: float


def training_episodes(runs: Path) -> list[Any]:
    """The training episodes of every recipe, under the nuisance."""
    return with_nuisance(load_episodes(runs / "mw-train", cameras="all"), TRAINING_NUISANCE)


def train_lara(
    recipe: Recipe, *, seed: int, rate: float | None, tflop: float, runs: Path, out: Path, extra: float = 0.0
) -> Trained:
    """Train our own recipe by the library's own training, for as many steps as the operations allow.

    extra: 10^9 operations per pair of a variant's own loss.
    """
    per_pair = plan_training(recipe)["training_gflop_per_pair"] + extra
    steps = max(1, int(tflop * 1000 / (per_pair * recipe.training.batch_size)))
    # A short run keeps the recipe's own phases as far as they fit into half of it.
    continuous = min(recipe.build_config().continuous_steps, steps // 2)
    recipe = replace(recipe, model={**recipe.model, "continuous_steps": continuous}).override(
        steps=steps,
        seed=seed,
        learning_rate=rate,
        warmup_steps=min(recipe.training.warmup_steps, steps // 10),
        heldout_share=HELDOUT_SHARE,
        heldout_pairs=HELDOUT_PAIRS,
        log_steps=max(50, steps // 10),
        save_steps=steps + 1,  # only the last weights are measured
    )
    train_latent_action_model(training_episodes(runs), recipe, out=out, frames=runs / "cache-arena")
    pairs = steps * recipe.training.batch_size
    return Trained(
        LatentActionModel.from_pretrained(out).eval(),
        LatentActionProcessor.from_pretrained(out),
        steps,
        pairs,
        pairs * per_pair / 1000,
    )


def train_variant(name: str, *, seed: int, rate: float | None, tflop: float, runs: Path, out: Path) -> Trained:
    """Train a variant of our recipe; "" is the recipe itself."""
    recipe = VARIANTS[name](Recipe.load(LAM_RECIPE))
    extra = 0.0
    if name in arena_bottlenecks.BOTTLENECKS:
        arena_bottlenecks.use(name)
    if name in arena_losses.LOSSES:
        arena_losses.use(name, training_episodes(runs))
        extra = arena_losses.extra_gflop_per_pair(name, recipe.build_config(), recipe.training.batch_size)
    return train_lara(recipe, seed=seed, rate=rate, tflop=tflop, runs=runs, out=out, extra=extra)


def train_peer(name: str, *, seed: int, rate: float, tflop: float, pairs: PairDataset) -> Trained:
    """Train a peer with its own loss, optimizer, schedule, clipping, augmentation and code resets."""
    recipe = RECIPES[name]
    torch.manual_seed(seed)
    model = recipe.build()
    per_pair = training_flops_per_pair(model)
    steps = max(1, int(tflop * 1e12 / (per_pair * PEER_BATCH)))
    optimizer = recipe.optimizer(model, rate)
    processor = LatentActionProcessor(size={"height": model.config.image_size, "width": model.config.image_size})
    model.train()
    for step in range(steps):
        # As in the library's trainer: pairs in its order, bfloat16, and attention as products of matrices.
        for group in optimizer.param_groups:
            group["lr"] = rate * recipe.learning_rate_share(step, steps)
        frames = to_unit_range(pairs.batch(range(step * PEER_BATCH, (step + 1) * PEER_BATCH)))
        frames = frames if recipe.augment is None else recipe.augment(frames)
        now, future = normalize(frames, processor.image_mean, processor.image_std)
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            loss, _ = model.training_loss(now, future)
        optimizer.zero_grad()
        loss.backward()
        if recipe.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        model.after_step(step + 1, steps)
    return Trained(model.eval(), processor, steps, steps * PEER_BATCH, steps * PEER_BATCH * per_pair / 1e12)


@torch.no_grad()
def heldout_gain(trained: Trained, monitored: torch.Tensor) -> float:
    """Gain over copying on held-out pairs of the training data, by which every recipe's learning rate is chosen."""
    now, future = monitored.unbind(1)
    # As for the encoder: camera motion is compensated where the model's processor does it.
    future = trained.processor.steady_future(now, future)
    reconstructions = []
    for rows in range(0, len(now), 64):
        out = encode_frames(trained.model, trained.processor, now[rows : rows + 64], future[rows : rows + 64])
        decoded = decode_frames(trained.model, trained.processor, now[rows : rows + 64], out.quantized_latents)
        reconstructions.append(decoded)
    return float(metrics.gain_over_copying(torch.cat(reconstructions).cpu(), now.float() / 255, future.float() / 255))


def measure(trained: Trained, runs: Path, pairs_per_episode: int, sets: list[str]) -> dict[str, Any]:
    """The machine-independent parts of the test sets' reports, and the probes' errors by episode."""
    results = {}
    for name in sets:
        evaluation = evaluate_checkpoint(
            trained.model, trained.processor, runs / SETS[name], pairs_per_episode=pairs_per_episode, cameras=[CAMERA]
        )
        report = evaluation.report
        results[name] = {
            **{key: report[key] for key in ("headline", "codebook", "latents", "nuisance", "probe")},
            "alarms": [alarm["name"] for alarm in report["alarms"]],
            "errors": {
                part: {
                    target: {"+".join(key): np.round(error, 5).tolist() for key, error in by_features.items()}
                    for target, by_features in by_target.items()
                }
                for part, by_target in evaluation.errors.items()
            },
        }
        if results[name]["codebook"]:
            results[name]["codebook"].pop("counts", None)  # long, and in no table
    return results


@app.callback()
def main() -> None:
    """Recipes of latent action models at equal data and equal compute."""


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="lara, lara:VARIANT, or a peer: " + ", ".join(RECIPES))],
    runs: Annotated[Path, typer.Option(help="Folder of mw-train, mw-heldout, mw-unseen; caches go there, too.")],
    out: Annotated[Path, typer.Option(help="Folder for the JSON.")],
    seed: int = 0,
    learning_rate: Annotated[float | None, typer.Option(help="Default: the recipe's own.")] = None,
    tflop: Annotated[float, typer.Option(help="Operations of training, 10^12.")] = 20.0,
    pairs_per_episode: int = 16,
    sets: Annotated[
        str, typer.Option(help="Test sets to measure: heldout,unseen; empty for the sweep.")
    ] = "heldout,unseen",
    tag: Annotated[str, typer.Option(help="Part of the file's name.")] = "final",
) -> None:
    """Train one recipe once and write OUT/TAG-NAME-rateR-seedS.json."""
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)  # runs share a machine, and sums in one order make them repeatable
    start = time.monotonic()
    test_sets = [name for name in sets.split(",") if name]
    cache = FrameCache.build(
        training_episodes(runs), LatentActionProcessor(size={"height": 64, "width": 64}), runs / "cache-arena"
    )
    training, heldout = split_sequences(find_pairs(cache.sequences, ["0.5s"]), HELDOUT_SHARE, 0)
    monitored = PairDataset(cache, heldout).batch(range(HELDOUT_PAIRS))
    label = f"{tag}-{name.replace(':', '-')}-rate{learning_rate or 'own'}-seed{seed}"
    if name.startswith("lara"):
        folder = runs / "arena" / label
        shutil.rmtree(folder, ignore_errors=True)  # training does not overwrite the run of an earlier call
        trained = train_variant(
            name.partition(":")[2], seed=seed, rate=learning_rate, tflop=tflop, runs=runs, out=folder
        )
    else:
        rate = learning_rate or RECIPES[name].published_learning_rate
        trained = train_peer(name, seed=seed, rate=rate, tflop=tflop, pairs=PairDataset(cache, training, seed))
    training_seconds = time.monotonic() - start
    result = {
        "name": name,
        "seed": seed,
        "learning_rate": learning_rate,
        "tflop": round(trained.tflop, 2),
        "steps": trained.steps,
        "pairs": trained.pairs,
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "heldout_gain": round(heldout_gain(trained, monitored), 4),
        **measure(trained, runs, pairs_per_episode, test_sets),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{label}.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    line = {key: value for key, value in result.items() if key not in SETS}
    line |= {key: {k: v["value"] for k, v in result[key]["headline"].items()} for key in test_sets}
    print(json.dumps(line), f"trained in {training_seconds:.0f} s, {time.monotonic() - start:.0f} s in all", flush=True)


if __name__ == "__main__":
    app()
