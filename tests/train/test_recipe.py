"""Recipes are plain data: those that ship parse, mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from lara_tokenizer.train import Recipe, plan_training

RECIPES = Path(__file__).resolve().parents[2] / "hub_configs" / "training"
STAGE_ONE = sorted(path for path in RECIPES.glob("*.yaml") if "lara-tok refine" not in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", STAGE_ONE, ids=lambda path: path.stem)
def test_a_shipped_recipe_parses_and_survives_a_round_trip(path):
    recipe = Recipe.load(path)
    assert Recipe.parse(recipe.to_dict()) == recipe
    assert recipe.build_config().strides


def test_the_papers_recipe_is_table_s2_and_dry_runs():
    recipe = Recipe.load(RECIPES / "paper_lam.yaml")
    training = recipe.training
    assert (training.steps, training.batch_size, training.learning_rate, training.weight_decay) == (
        350_000,
        512,
        1e-4,
        1e-5,
    )
    plan = plan_training(recipe)
    assert plan["strides"] == ["5f"]
    assert plan["trainable_parameters"] == 121_210_944
    assert plan["frozen_parameters"] == 303_301_632
    assert plan["pairs"] == 350_000 * 512
    # Two frames of 123 GFLOP through the frozen encoder, M-Former and decoder on top.
    assert 280 < plan["forward_gflop_per_pair"] < 310
    assert plan["forward_gflop_per_pair"] < plan["training_gflop_per_pair"] < 2 * plan["forward_gflop_per_pair"]


def test_options_override_the_recipe_and_none_leaves_it():
    recipe = Recipe.parse({"training": {"steps": 7, "batch_size": 9}}).override(steps=3, batch_size=None)
    assert (recipe.training.steps, recipe.training.batch_size) == (3, 9)


def test_yamls_text_numbers_are_all_scales():
    assert Recipe.parse({"training": {"learning_rate": "1e-4"}}).training.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trainig": {}}, "unknown recipe key 'trainig'. There are: preset, model"),
        ({"training": {"stpes": 5}}, "unknown training key 'stpes'"),
        ({"augmentation": {"blur": 1}}, "unknown augmentation key 'blur'"),
        ({"preset": "lapa"}, "preset 'lapa': takes one of default, paper_exact, moto"),
        ({"training": {"steps": "many"}}, "training steps: takes a int, got 'many'"),
        ({"training": {"steps": 0}}, "training steps 0: takes at least 1"),
        ({"training": {"compile": 1}}, "training compile: takes a bool"),
        ({"training": {"precision": "fp16"}}, "precision 'fp16': takes one of fp32, bf16"),
        ({"sources": "videos"}, "sources: takes a list of strings, got 'videos'"),
        ({"training": {"cache_frames": "no"}}, "training cache_frames: takes a bool"),
        ({"training": {"flow_weight": -1}}, "training flow_weight -1.0: takes 0"),
        ({"augmentation": {"view_shift": 0.6}}, "augmentation view_shift 0.6: takes 0"),
        ({"steady_pairs": "yes"}, "steady_pairs: takes true or false, got 'yes'"),
        ({"training": {"start_at_change": True}, "vision_encoder": "vit"}, "leave out one of the two"),
        ({"training": {"direction_weight": 0.5}}, "direction_weight was removed: .* Use flow_weight"),
        ({"training": [1]}, "training is a mapping"),
        ([1], "recipe is a mapping"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        Recipe.parse(values)


def test_a_recipe_made_in_python_is_checked_as_well():
    with pytest.raises(ValueError, match="preset 'lapa': takes one of"):
        Recipe(preset="lapa")


def test_an_unknown_model_key_is_named_with_the_keys_there_are():
    with pytest.raises(ValueError, match=r"unknown model key 'codebok_size'.*codebook_size"):
        Recipe.parse({"model": {"codebok_size": 8}}).build_config()


def test_a_file_that_is_no_recipe_is_named(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("training: [", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad.yaml: not YAML"):
        Recipe.load(path)
    path.write_text("training: {stpes: 3}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad.yaml: unknown training key 'stpes'"):
        Recipe.load(path)


def test_a_missing_recipe_is_named_with_where_recipes_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^recipe '.*nope.yaml': no such file. Recipes are in hub_configs"):
        Recipe.load(tmp_path / "nope.yaml")
