"""Variants of the recipe of lara-lam for the ablation: each changes one thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lara_tokenizer.train.recipe import AugmentationOptions, Recipe

Change = Callable[[Recipe], Recipe]


def _model(**changes: Any) -> Change:
    return lambda recipe: replace(recipe, model={**recipe.model, **changes})


def _augmentation(**changes: Any) -> Change:
    return lambda recipe: replace(recipe, augmentation=replace(recipe.augmentation, **changes))


def _training(**changes: Any) -> Change:
    return lambda recipe: replace(recipe, training=replace(recipe.training, **changes))


def _all(*changes: Change) -> Change:
    def change(recipe: Recipe) -> Recipe:
        for each in changes:
            recipe = each(recipe)
        return recipe

    return change


VARIANTS: dict[str, Change] = {
    "": lambda recipe: recipe,
    "no-steady-pairs": lambda recipe: replace(recipe, steady_pairs=False),
    "no-flow-target": _all(_training(flow_weight=0.0, direction_weight=0.5), _model(standardize_latents=True)),
    "no-change-start": _training(start_at_change=False),
    "no-warp": _model(decoder_warp=False),
    "no-paired-augmentation": _augmentation(crop_scale=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0),
    "no-cross-augmentation": _augmentation(view_shift=0.0, view_light=0.0),
    "no-reverse": _augmentation(reverse=0.0),
    "motion-weight-0": _model(motion_weight=0.0),
    "motion-weight-5": _model(motion_weight=5.0),
    "three-strides": _model(strides=["0.5s", "0.3s", "0.8s"]),
    "fsq": lambda recipe: recipe,  # see arena_bottlenecks.py
    "no-quantizer": lambda recipe: recipe,
    "kl": lambda recipe: recipe,
    "zero-transition": lambda recipe: recipe,  # see arena_losses.py
    "feature-target": lambda recipe: recipe,
    "few-labels": lambda recipe: recipe,
    "standardised-z": _model(standardize_latents=True),
    "first-release": lambda recipe: replace(
        recipe,
        steady_pairs=False,
        model={"strides": ["0.5s"]},
        augmentation=AugmentationOptions(crop_scale=0.95, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.02),
        training=replace(
            recipe.training, flow_weight=0.0, direction_weight=0.5, start_at_change=False, learning_rate=6e-4
        ),
    ),
}
