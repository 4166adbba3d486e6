"""A whole run with targets: they are learned and logged, by any number of processes, and a restart changes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import ResNetConfig, ResNetModel

from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.train import FrameCache, PairDataset, Recipe, find_pairs, train_latent_action_model, trainer
from lara_tokenizer.train.augment import LoadedViews
from lara_tokenizer.train.pairs import InfiniteSampler
from lara_tokenizer.train.recipe import AugmentationOptions
from lara_tokenizer.train.targets import setup
from lara_tokenizer.train.targets.features import TargetFeatures

pytest.importorskip("cv2", reason="dense flow needs OpenCV (extra eval)")

PROCESSOR = LatentActionProcessor(size={"height": 32, "width": 32}, steady_pairs=True)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("resnet")
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 24, 40], depths=[1, 1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def recipe(tiny_recipe_values, encoder) -> Recipe:
    vision = {"model_type": "latent_action_frames", "image_size": 32, "channels": [8, 8, 16], "match_channels": 4}
    model = {**tiny_recipe_values["model"], "vision_config": vision, "inverse_model": "matching"}
    model |= {"motion_channels": 38, "standardize_latents": False, "separate_codebooks": True}
    targets = {"target_weight": 1.0, "target_encoder": encoder, "frame_rate": 10}
    targets |= {"steps": 16, "log_steps": 4, "save_steps": 8}
    return Recipe.parse(
        {
            "steady_pairs": True,
            "model": model,
            "augmentation": {"view_shift": 0.02, "reverse": 0.5, "brightness": 0.1},
            "training": {**tiny_recipe_values["training"], **targets},
        }
    )


@pytest.fixture(scope="module", autouse=True)
def few_pairs():
    """Scales and the start of z from few pairs: dense flow takes most of these tests' time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "INIT_PAIRS", 64)
        patch.setattr(setup, "START_PAIRS", 128)
        patch.setattr(trainer, "START_PAIRS", 128)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, squares, recipe):
    out = tmp_path_factory.mktemp("run")
    train_latent_action_model(squares(8, fps=20, num_frames=40), recipe, out=out)
    return out


def _lines(folder) -> list[dict]:
    text = (folder / "training_log.jsonl").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if "loss" in line]


def test_every_group_is_logged_and_learned(run):
    lines = _lines(run)
    for group in ("flow", "normal_flow", "features"):
        assert lines[-1][f"train_target_{group}"] < lines[0][f"train_target_{group}"]
        assert lines[-1][f"heldout_r2_{group}"] < 1


def test_a_restart_ends_in_the_same_weights(tmp_path, squares, recipe, run):
    def kill(phase, done, total, logs):
        if phase == "steps" and done == 12:
            raise KeyboardInterrupt

    episodes = squares(8, fps=20, num_frames=40)
    with pytest.raises(KeyboardInterrupt):
        train_latent_action_model(episodes, recipe, out=tmp_path, frames=run / "frames", progress=kill)
    train_latent_action_model(episodes, recipe, out=tmp_path, frames=run / "frames", resume=True)
    resumed, whole = (LatentActionModel.from_pretrained(folder).state_dict() for folder in (tmp_path, run))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_targets_follow_the_reversal_of_their_pair_in_any_process(run, recipe, encoder):
    cache = FrameCache(run / "frames")
    features = TargetFeatures.build(cache, encoder, 2)
    pairs = PairDataset(cache, find_pairs(cache.sequences, ["0.5s"]), features=features)
    targets = setup.fit_targets(pairs, recipe.build_config(), PROCESSOR)
    as_they_are, reversed_all = (
        LoadedViews(AugmentationOptions(reverse=share), PROCESSOR, 0, targets) for share in (0.0, 1.0)
    )
    batch = pairs.__getitems__(range(8))
    forward, back = (views(batch, np.arange(8))["targets"] for views in (as_they_are, reversed_all))
    assert torch.equal(forward[:, targets.groups["features"]], -back[:, targets.groups["features"]])
    pairs.prepare = LoadedViews(recipe.augmentation, PROCESSOR, 0, targets)
    here, there = (
        list(DataLoader(pairs, 8, sampler=InfiniteSampler(16), num_workers=workers, collate_fn=pairs.collate))
        for workers in (0, 1)
    )
    assert all(torch.equal(one["targets"], two["targets"]) for one, two in zip(here, there, strict=True))
    loop = trainer.LatentActionTrainer(
        LatentActionModel(recipe.build_config()),
        PROCESSOR,
        recipe.training,
        AugmentationOptions(),
        pairs,
        None,
        run,
        targets,
    )
    assert torch.equal(loop._views(batch)[2], forward)


def test_strides_in_frames_are_refused_beside_a_frame_rate(tmp_path, squares, recipe):
    counted = Recipe.parse({**recipe.to_dict(), "model": {**recipe.model, "strides": ["5f"]}})
    with pytest.raises(ValueError, match="stride '5f' counts them"):
        train_latent_action_model(squares(2), counted, out=tmp_path)


def test_a_model_that_does_not_fit_its_targets_is_refused_before_frames_are_decoded(tmp_path, squares, recipe):
    fewer = Recipe.parse({**recipe.to_dict(), "model": {**recipe.model, "motion_channels": 6}})
    with pytest.raises(ValueError, match=r"motion_channels is 6, and there are 38 targets: .* Set it to 38"):
        train_latent_action_model(squares(2), fewer, out=tmp_path)
    assert not (tmp_path / "frames").exists()
