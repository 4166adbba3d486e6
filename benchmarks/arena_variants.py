"""The contenders of the arena: four recipes, each without and with our stabilisers, on pairs as recorded and steady.

    moto, lapa, adaworld    of benchmarks/peers/
    lara                    the M-Former recipe of `hub_configs/training/`, by the loss of the library's own trainer

All have the same image encoder, patch size and z; see `peers/`. The stabilisers are those of our recipe: codebook
warm-up, its start by k-means, resets of dead codes, and an M-Former that starts as the difference of the two frames.
LAPA's z is a difference by its architecture, so it gets the first three. AdaWorld has no codebook and no M-Former; in
their place it gets the KL weight with which DreamDojo trains the same model on robot video, a two hundredth of the
published one.

A `Learner` is a model in training: what the loop of `arena_train.py` needs to know.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import peers
import torch
from torch import Tensor

from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.train.augment import normalize, stabilize_pairs, to_unit_range
from lara_tokenizer.train.difference_init import initialize_from_difference
from lara_tokenizer.train.pairs import INIT_PAIRS, PairDataset
from lara_tokenizer.train.recipe import Recipe
from lara_tokenizer.train.watch.monitor import HeldOutMonitor

TRAINING_RECIPES = Path(__file__).resolve().parent.parent / "hub_configs" / "training"
# The M-Former recipe is lam.yaml until that is the recipe of another model; then it has a file of its own.
LARA_RECIPE = next(file for name in ("lam_sim", "lam") if (file := TRAINING_RECIPES / f"{name}.yaml").exists())
SIDE, PATCH, STRIDE, BATCH = 64, 8, "0.5s", 32
DEAD_CODES = {"dead_code_steps": 50, "dead_code_share": 0.4}
NO_SCHEDULE = {"continuous_steps": 0, "dead_code_steps": 0, "dead_code_share": 0.0}
DREAMDOJO_BETA = 1e-6
CODEBOOK_SAMPLES = 2**40  # first sample index that is reserved for the codebook: no training goes that far

OURS = "lara"
RECIPES = (OURS, *peers.RECIPES)


@dataclass(frozen=True, slots=True)
class Entry:
    """A contender."""

    recipe: str
    stabilised: bool
    steady: bool  # global motion compensation of pairs, in training and in use

    @property
    def form(self) -> str:
        """Recipe and form, which share a learning rate.

        >>> Entry("moto", True, False).form
        'moto-stabilised'
        """
        return f"{self.recipe}-{'stabilised' if self.stabilised else 'published'}"

    @property
    def name(self) -> str:
        """The name in files and tables.

        >>> Entry("moto", True, False).name
        'moto-stabilised-recorded'
        """
        return f"{self.form}-{'steady' if self.steady else 'recorded'}"


# In the order in which they run: with all that we know to help, then as published, then what tells the two apart.
SETTINGS = ((True, True), (False, False), (False, True), (True, False))
ENTRIES = tuple(Entry(recipe, *setting) for setting in SETTINGS for recipe in RECIPES)


class Learner(Protocol):
    """A model in training."""

    model: Any
    processor: LatentActionProcessor
    max_grad_norm: float | None

    def optimizer(self, rate: float) -> torch.optim.Optimizer:
        """The recipe's optimizer."""

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a batch of a `PairDataset`."""

    def draw_latents(self, batches: int, step: int) -> Tensor:
        """z (B, N, D) of some training batches, for the codebook."""

    def after_step(self, step: int, total_steps: int) -> None:
        """The recipe's own rule for its codebook, after step `step` (from 1)."""


def build(entry: Entry, pairs: PairDataset, monitored: Tensor, *, seed: int, continuous_steps: int) -> Learner:
    """A contender before its first step.

    Args:
        entry: which.
        pairs: of the training.
        monitored: held-out pairs, uint8 (B, 2, 3, S, S).
        seed: of weights and augmentation.
        continuous_steps: the codebook's warm-up, of stabilised contenders.
    """
    torch.manual_seed(seed)
    schedule = {"continuous_steps": continuous_steps, **DEAD_CODES} if entry.stabilised else NO_SCHEDULE
    processor = LatentActionProcessor(size={"height": SIDE, "width": SIDE}, steady_pairs=entry.steady)
    if entry.recipe == OURS:
        return LaraLearner(lara_recipe(entry, schedule, seed), processor, pairs, monitored)
    return PeerLearner(peers.RECIPES[entry.recipe], entry.stabilised, schedule, processor, pairs)


class PeerLearner:
    """A peer with its own loss, optimizer, clipping, augmentation and code resets."""

    def __init__(
        self,
        recipe: peers.Recipe,
        stabilised: bool,
        schedule: Mapping[str, Any],
        processor: LatentActionProcessor,
        pairs: PairDataset,
    ) -> None:
        of_peer: dict[str, Any] = {"image_size": SIDE, "patch_size": PATCH}
        if recipe.name == "adaworld":
            of_peer |= {"beta": DREAMDOJO_BETA} if stabilised else {}
        else:
            of_peer |= schedule
        self.model: Any = recipe.build(**of_peer)
        self.recipe, self.processor, self.pairs = recipe, processor, pairs
        self.max_grad_norm = recipe.max_grad_norm
        self.optimizer: Callable[[float], torch.optim.Optimizer] = lambda rate: recipe.optimizer(self.model, rate)
        if stabilised and isinstance(self.model, LatentActionModel):
            initialize_from_difference(self.model, *first_pairs(pairs, processor))

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """The peer's loss of augmented pairs."""
        return self.model.training_loss(*self._shown(batch["frames"]))[0]

    def draw_latents(self, batches: int, step: int) -> Tensor:
        """z of pairs that no step trains on."""
        first = CODEBOOK_SAMPLES + step * batches * BATCH
        with torch.no_grad():
            now, future = self._shown(self.pairs.batch(np.arange(first, first + batches * BATCH)))
            features, future_features = (self.model.get_frame_features(each) for each in (now, future))
            out = self.model.encode(frame_features=features, future_frame_features=future_features)
            return out.latents.float()

    def after_step(self, step: int, total_steps: int) -> None:
        """The peer's own rule."""
        self.model.after_step(step, total_steps)

    def _shown(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            unit = to_unit_range(frames)
            unit = unit if self.recipe.augment is None else self.recipe.augment(unit)
            steady = stabilize_pairs(unit, self.processor)
            return normalize(steady.contiguous(), self.processor.image_mean, self.processor.image_std)


class LaraLearner:
    """Our recipe: the loss, the augmentation and the optimizer of the library's trainer, in the loop of all."""

    def __init__(self, recipe: Recipe, processor: LatentActionProcessor, pairs: PairDataset, monitored: Tensor) -> None:
        from lara_tokenizer.train.trainer import LatentActionTrainer

        self.model: Any = LatentActionModel(recipe.build_config())
        if recipe.training.start_at_change:
            initialize_from_difference(self.model, *first_pairs(pairs, processor))
        self.processor = processor
        self.max_grad_norm: float | None = recipe.training.max_grad_norm
        # It writes nothing until it is asked to train, which nobody does.
        folder = tempfile.gettempdir()
        monitor = HeldOutMonitor(monitored[:2], processor)
        self.trainer = LatentActionTrainer(
            self.model, processor, recipe.training, recipe.augmentation, pairs, monitor, folder
        )
        self.draw_latents: Callable[[int, int], Tensor] = self.trainer.draw_latents

    def optimizer(self, rate: float) -> torch.optim.Optimizer:
        """The trainer's AdamW; the loop sets its rate."""
        return self.trainer.create_optimizer()

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """The trainer's loss."""
        return self.trainer.compute_loss(self.model, batch)

    def after_step(self, step: int, total_steps: int) -> None:
        """No-op: the codebook's schedule is that of the stabilisers."""


def lara_recipe(entry: Entry, schedule: Mapping[str, Any], seed: int) -> Recipe:
    """The M-Former recipe with the image encoder, patch size and batch of all recipes."""
    recipe = Recipe.load(LARA_RECIPE)
    sizes = {"image_size": SIDE, "patch_size": PATCH, "vision_config": None, "strides": [STRIDE]}
    return replace(recipe, steady_pairs=entry.steady, model={**recipe.model, **sizes, **schedule}).override(
        seed=seed, batch_size=BATCH, workers=0, start_at_change=entry.stabilised
    )


def first_pairs(pairs: PairDataset, processor: LatentActionProcessor) -> tuple[Tensor, Tensor]:
    """Normalized frames t and t+C of the first pairs, from which the difference start takes its components."""
    frames = stabilize_pairs(to_unit_range(pairs.batch(range(INIT_PAIRS))), processor)
    return normalize(frames, processor.image_mean, processor.image_std)
