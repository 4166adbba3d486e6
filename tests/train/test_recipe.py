"""Recipes are plain data: those that ship parse, mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from lara_tokenizer.train import Recipe, plan_training
from lara_tokenizer.train.recipe_files import ShippedRecipe, shipped_recipes

RECIPES = Path(__file__).resolve().parents[2] / "hub_configs" / "training"
STAGE_ONE = sorted(path for path in RECIPES.glob("*.yaml") if "lara-tok refine" not in path.read_text(encoding="utf-8"))

TARGETS = {"target_weight": 1.0, "target_encoder": "vit"}


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
        ({"training": {"target_weight": -1}}, "training target_weight -1.0: takes 0"),
        ({"training": {"frame_rate": -5}}, "training frame_rate -5.0: takes 0"),
        ({"training": {"detach_latents": True}}, "detach_latents belongs to the targets: set target_weight"),
        ({"training": {"target_encoder": "vit"}}, "target_encoder belongs to the targets: set target_weight"),
        ({"training": TARGETS | {"cache_frames": False}}, "cache_frames is false"),
        ({"training": TARGETS, "augmentation": {"flip": 0.5}}, "crop_scale or flip moves their pixels"),
        ({"training": TARGETS, "augmentation": {"crop_scale": 0.9}}, "crop_scale or flip moves their pixels"),
        ({"augmentation": {"view_shift": 0.6}}, "augmentation view_shift 0.6: takes 0"),
        ({"steady_pairs": "yes"}, "steady_pairs: takes true or false, got 'yes'"),
        ({"training": {"start_at_change": True}, "vision_encoder": "vit"}, "leave out one of the two"),
        ({"training": {"direction_weight": 0.5}}, "direction_weight was removed: .* Use flow_weight"),
        ({"training": [1]}, "training is a mapping"),
        ([1], "recipe is a mapping"),
        ({"training": {"steps": 1e30}}, "training steps: takes a int, got 1e"),
        ({"training": {"steps": 10**400}}, "training steps: takes a int, got 1000"),
        ({"training": {"steps": float("nan")}}, "training steps: takes a int, got nan"),
        ({"training": {"steps": 5_000_000_000}}, "training steps: takes a int"),
        ({"training": {"steps": 2**31}}, "training steps 2147483648: takes at least 1, at most 1,000,000,000"),
        ({"training": {"batch_size": 10**9}}, "training batch_size 1000000000: takes at least 1, at most 65,536"),
        ({"training": {"heldout_pairs": 10**9}}, "training heldout_pairs 1000000000: .* at most 65,536"),
        ({"training": {"learning_rate": float("inf")}}, "training learning_rate: takes a float, got inf"),
        ({"training": {"learning_rate": -1}}, "training learning_rate -1.0: takes 0 or more"),
        ({"training": {"weight_decay": [1]}}, "training weight_decay: takes a float, got"),
        ({"training": {"workers": -1}}, "training workers -1: takes 0 to 1,024"),
        ({"training": {"seed": -1}}, "training seed -1: takes 0 to 4294967295"),
        ({"training": {"precision": ["a"] * 10**6}}, "training precision: takes a str, got"),
        ({"model": "large"}, "model: takes names and values, got 'large'"),
        ({"model": {1: 2}}, "model: takes names and values, got"),
        ({"vision_encoder": {"a": 1}}, "vision_encoder: takes a folder or a Hub id"),
        ({"preset": {"a": 1}}, "preset {'a': 1}: takes one of"),
        ({"sources": [["v"] * 10**6]}, "sources: takes a list of strings, got"),
        ({("a",) * 10**6: 1}, "unknown recipe key"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        Recipe.parse(values)
    assert len(str(caught.value)) < 400


ALIASES = "\n".join(["- &x0 [l, l]", *(f"- &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]" for n in range(1, 10))])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"sources:\n{ALIASES}", "more than 100,000 values, with its aliases written out"),
        ("training: " + "[" * 3000, "nested too deeply"),
        ("training: !!python/object/apply:os.system [exit]", "could not determine a constructor"),
        ("training: {steps: 10", "not YAML"),
        (b"\x7fELF\x02\x01\x01\x00", "not YAML"),
        ("steps", "recipe is a mapping of .*; got str"),
        ("- 1", "recipe is a mapping of .*; got list"),
        ("0", "recipe is a mapping of .*; got int"),
        ("model: {hidden_size: 1000000000}", r"hidden_size \(1000000000\) must be at most 1,048,576"),
        ("model: {hidden_size: [1]}", "hidden_size is list; it takes a whole number"),
        ("model: {motion_weight: .nan}", "motion_weight is nan; it takes a finite number"),
        ("model: {vision_config: {model_type: nosuch}}", "vision_config .* cannot be used"),
    ],
)
def test_a_hostile_recipe_file_is_one_line_that_names_it(tmp_path, content, message):
    file = tmp_path / "lam.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        Recipe.load(file).build_config()
    assert "\n" not in str(caught.value)


def test_an_empty_recipe_is_the_defaults_and_a_folder_is_none(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert Recipe.load(tmp_path / "empty.yaml") == Recipe()
    (tmp_path / "windows.yaml").write_text("training: {steps: 3}", encoding="utf-16")
    assert Recipe.load(tmp_path / "windows.yaml").training.steps == 3
    with pytest.raises(ValueError, match=r"a folder\. Name a YAML file"):
        Recipe.load(tmp_path)


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
    with pytest.raises(
        FileNotFoundError, match=r"^recipe '.*nope.yaml': no such file or recipe\. By name there are lam, "
    ):
        Recipe.load(tmp_path / "nope.yaml")


def test_a_shipped_recipe_goes_by_its_name_unless_a_file_has_it(tmp_path, monkeypatch):
    assert Recipe.load("lam_sim") == Recipe.load(RECIPES / "lam_sim.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lam_sim").mkdir()  # a folder, such as that of a run, is no recipe
    assert Recipe.load("lam_sim").training.steps == 6500
    (tmp_path / "lam_sim").rmdir()
    (tmp_path / "lam_sim").write_text("training: {steps: 7}", encoding="utf-8")
    assert Recipe.load("lam_sim").training.steps == 7
    with pytest.raises(FileNotFoundError, match=r"^recipe 'lamsim': no such file or recipe\. Nearest by name: lam_sim"):
        Recipe.load("lamsim")


def test_every_shipped_recipe_loads_under_the_command_that_is_listed_for_it():
    from lara_policy.refine import RefineRecipe

    for path in shipped_recipes().values():
        listed = ShippedRecipe.read(path)
        {"train": Recipe, "refine": RefineRecipe}[listed.command].load(listed.name)
        assert len(listed.summary) < 90
        assert listed.summary.endswith(".")
