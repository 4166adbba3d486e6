"""Variants of the recipe of lara-lam for the ablation; each changes one part."""

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


def _unchanged(recipe: Recipe) -> Recipe:
    return recipe


VARIANTS: dict[str, Change] = {
    "": _unchanged,
    "no-steady-pairs": lambda recipe: replace(recipe, steady_pairs=False),
    # Both with the direction loss of arena_losses.py, which took the place of the flow target.
    "no-flow-target": _all(_training(flow_weight=0.0), _model(standardize_latents=True)),
    "first-release": lambda recipe: replace(
        recipe,
        steady_pairs=False,
        model={"strides": ["0.5s"]},
        augmentation=AugmentationOptions(crop_scale=0.95, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.02),
        training=replace(recipe.training, flow_weight=0.0, start_at_change=False, learning_rate=6e-4),
    ),
    "no-change-start": _training(start_at_change=False),
    "no-warp": _model(decoder_warp=False),
    "no-paired-augmentation": _augmentation(crop_scale=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0),
    "no-cross-augmentation": _augmentation(view_shift=0.0, view_light=0.0),
    "no-reverse": _augmentation(reverse=0.0),
    "motion-weight-0": _model(motion_weight=0.0),
    "motion-weight-5": _model(motion_weight=5.0),
    "three-strides": _model(strides=["0.5s", "0.3s", "0.8s"]),
    "standardised-z": _model(standardize_latents=True),
    # Their bottleneck or loss is replaced in the library: see arena_bottlenecks.py and arena_losses.py.
    **dict.fromkeys(("fsq", "no-quantizer", "kl", "zero-transition", "feature-target", "few-labels"), _unchanged),
}
