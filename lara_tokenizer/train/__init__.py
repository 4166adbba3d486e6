"""Stage 1: train a latent action model on video, on transformers.Trainer.

>>> from lara_tokenizer.train import Recipe, train_latent_action_model
>>> train_latent_action_model("videos/", Recipe.load("lam.yaml"), out="run")  # doctest: +SKIP

The recipe is plain data; `frames` decodes every frame once; `pairs` draws frame pairs; `augment` changes them on the
device; `trainer` is the loop's loss and log; `schedule` drives the codebook; `monitor` watches a held-out batch.
"""

from __future__ import annotations

from lara_tokenizer.train.recipe import AugmentationOptions, Recipe, TrainingOptions
from lara_tokenizer.train.stage_one import plan_training, train_latent_action_model

__all__ = ["AugmentationOptions", "Recipe", "TrainingOptions", "plan_training", "train_latent_action_model"]
