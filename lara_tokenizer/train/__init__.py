"""Stage 1: train a latent action model on video, on transformers.Trainer.

>>> from lara_tokenizer.train import Recipe, train_latent_action_model
>>> train_latent_action_model("videos/", Recipe.load("lam.yaml"), out="run")  # doctest: +SKIP

The recipe is plain data; `frames` decodes every frame once, `reader_frames` at each draw; `mixture` says which pair
comes next, `pairs` makes samples of it; `augment` changes them on the device; `trainer` is the loop's loss and log;
`schedule` drives the codebook; `monitor` watches a held-out batch.

Pairs for a loop of one's own, the datasets of several sources drawn equally often:

>>> episodes = load_episodes(["lerobot:lerobot/pusht", "rlds:bridge"])  # doctest: +SKIP
>>> frames = ReaderFrames(episodes, processor)                          # doctest: +SKIP
>>> pairs = PairDataset(frames, find_pairs(frames.streams, ["0.6s"]))   # doctest: +SKIP
>>> loader = DataLoader(                                                # doctest: +SKIP
...     pairs, 64, sampler=DrawSampler(10_000), collate_fn=PairDataset.whole, num_workers=4,
...     multiprocessing_context=frames.start_method, persistent_workers=True,
... )
"""

from __future__ import annotations

from lara_tokenizer.train.actions import EpisodeActions
from lara_tokenizer.train.frames import FrameCache
from lara_tokenizer.train.mixture import find_pairs, split_streams
from lara_tokenizer.train.pairs import DrawSampler, PairDataset
from lara_tokenizer.train.reader_frames import ReaderFrames
from lara_tokenizer.train.recipe import AugmentationOptions, Recipe, TrainingOptions
from lara_tokenizer.train.stage_one import plan_training, train_latent_action_model

__all__ = [
    "AugmentationOptions",
    "DrawSampler",
    "EpisodeActions",
    "FrameCache",
    "PairDataset",
    "ReaderFrames",
    "Recipe",
    "TrainingOptions",
    "find_pairs",
    "plan_training",
    "split_streams",
    "train_latent_action_model",
]
