"""The cost of a joint step relative to a policy step and a tokenizer step, measured in turn in one run.

    python benchmarks/joint_step.py demos --recipe metaworld

Each step is forward, backward and AdamW on the same batches. A joint step is compared with the sum of a step of the
policy alone (mode dit-only) and a step of the tokenizer alone on the same pairs, its vision encoder frozen as in stage
2. In separate steps frame t goes through that encoder twice, in a joint step once. Gradients are never clipped.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from lara_policy.refine import RefineRecipe
from lara_policy.refine.setup import build_model, set_up
from torch.nn.attention import SDPBackend, sdpa_kernel

from lara_tokenizer.data import load_episodes


def main(
    source: Annotated[str, typer.Argument(help="Episodes with actions.")],
    recipe: Annotated[Path, typer.Option(help="A recipe of lara-tok refine.")],
    rounds: Annotated[int, typer.Option(min=3, help="Of each kind of step; the median of all but two counts.")] = 12,
    threads: int = 2,
) -> None:
    """Print the medians and their ratio."""
    torch.set_num_threads(threads)
    loaded = RefineRecipe.load(recipe)
    with tempfile.TemporaryDirectory() as folder:
        models, batches = {}, {}
        for mode in ("dit-only", "joint"):
            data = set_up(load_episodes(source, cameras="all"), replace(loaded, mode=mode), folder)
            models[mode] = build_model(data, replace(loaded, mode=mode)).train()
            size = loaded.training.batch_size
            # Made before the clock starts: reading frames is no part of a step.
            batches[mode] = [data.samples.batch(range(k * size, (k + 1) * size)) for k in range(rounds)]
        lara = models["joint"]
        steps: dict[str, Callable[[int], torch.Tensor]] = {
            "policy": lambda k: models["dit-only"](**batches["dit-only"][k]).loss,
            "tokenizer": lambda k: _tokenizer_loss(lara, batches["joint"][k]),
            "joint": lambda k: lara(**batches["joint"][k]).loss,
        }
        trained = {"policy": models["dit-only"], "tokenizer": lara.lam, "joint": lara}
        trainable = {name: [p for p in model.parameters() if p.requires_grad] for name, model in trained.items()}
        optimizers = {name: torch.optim.AdamW(parameters, lr=1e-5) for name, parameters in trainable.items()}
        # Precision and attention are those of the training.
        times = _measure(steps, optimizers, rounds, loaded.training.precision == "bf16")
    # The first steps allocate memory and the optimizer's state.
    median = {name: statistics.median(seconds[2:]) for name, seconds in times.items()}
    for name, seconds in median.items():
        print(f"{name:12} {seconds * 1000:7.1f} ms")
    print(f"joint / (policy + tokenizer) = {median['joint'] / (median['policy'] + median['tokenizer']):.3f}")


def _tokenizer_loss(lara: Any, batch: dict[str, Any]) -> torch.Tensor:
    now, future = lara._pixel_values(batch["pair"])
    return lara.lam(now, future, pair_mask=batch["pair_mask"]).loss


def _measure(
    steps: dict[str, Callable[[int], torch.Tensor]], optimizers: dict[str, Any], rounds: int, bf16: bool
) -> dict[str, list[float]]:
    """Seconds of every step; the kinds take turns, so that other load of the machine affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for k in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16), sdpa_kernel(SDPBackend.MATH):
                loss = step(k)
            loss.backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    typer.run(main)
