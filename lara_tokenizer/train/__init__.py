"""Stage 1: training of a latent action model on video, with transformers.Trainer.

>>> from lara_tokenizer.train import Recipe, train_latent_action_model
>>> train_latent_action_model("videos/", Recipe.load("lam.yaml"), out="run")  # doctest: +SKIP

A run in the order of its modules: `recipe` (parsed by `yaml_config`) holds the options; `sequences` lists the frame
sequences of the episodes, `frames` decodes them; `mixture` samples pairs, `pairs` and `actions` make batches of them;
`augment` changes these, on the device or in loader processes; `trainer` computes and logs the loss, with `losses` and
`codebook_schedule`; `watch` measures held-out pairs, draws and reports. `train` connects all of it. `recipe_files`
finds the recipes that ship.

Pairs for a training loop of your own, the datasets of several sources sampled equally often:

>>> episodes = load_episodes(["lerobot:lerobot/pusht", "rlds:bridge"])  # doctest: +SKIP
>>> frames = ReaderFrames(episodes, processor)                          # doctest: +SKIP
>>> pairs = PairDataset(frames, find_pairs(frames.sequences, ["0.6s"])) # doctest: +SKIP
>>> loader = DataLoader(                                                # doctest: +SKIP
...     pairs, 64, sampler=InfiniteSampler(10_000), collate_fn=PairDataset.collate, num_workers=4,
...     multiprocessing_context=frames.start_method, persistent_workers=True,
... )

The names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lara_tokenizer._lazy import lazy

if TYPE_CHECKING:
    from lara_tokenizer.train.actions import EpisodeActions
    from lara_tokenizer.train.frames import FrameCache, ReaderFrames
    from lara_tokenizer.train.mixture import find_pairs, split_sequences
    from lara_tokenizer.train.pairs import InfiniteSampler, PairDataset
    from lara_tokenizer.train.recipe import AugmentationOptions, Recipe, TrainingOptions
    from lara_tokenizer.train.train import plan_training, train_latent_action_model

__all__ = [
    "AugmentationOptions",
    "EpisodeActions",
    "FrameCache",
    "InfiniteSampler",
    "PairDataset",
    "ReaderFrames",
    "Recipe",
    "TrainingOptions",
    "find_pairs",
    "plan_training",
    "split_sequences",
    "train_latent_action_model",
]

# A recipe is parsed without torch, so that a mistake in it is reported at once.
_HOME = {
    "AugmentationOptions": "recipe",
    "EpisodeActions": "actions",
    "FrameCache": "frames",
    "InfiniteSampler": "pairs",
    "PairDataset": "pairs",
    "ReaderFrames": "frames",
    "Recipe": "recipe",
    "TrainingOptions": "recipe",
    "find_pairs": "mixture",
    "plan_training": "train",
    "split_sequences": "mixture",
    "train_latent_action_model": "train",
}

__getattr__, __dir__ = lazy(__name__, _HOME)
