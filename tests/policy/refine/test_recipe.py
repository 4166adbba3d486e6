"""The shipped recipes: the planned runs, without data or weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from lara_policy.refine import RefineRecipe, plan_refinement

FOLDER = Path(__file__).resolve().parents[3] / "hub_configs" / "training"


REFINE = sorted(path for path in FOLDER.glob("*.yaml") if "lara-tok refine" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", REFINE, ids=lambda path: path.stem)
def test_a_shipped_recipe_survives_a_round_trip(path):
    recipe = RefineRecipe.load(path)
    assert RefineRecipe.parse(recipe.to_dict()) == recipe


@pytest.mark.parametrize(("name", "steps"), [("paper_pretrain", 200_000), ("paper_posttrain", 20_000)])
def test_the_papers_stages_are_as_printed(name, steps):
    recipe = RefineRecipe.load(FOLDER / f"{name}.yaml")
    plan = plan_refinement(recipe)
    assert (plan["steps"], plan["batch_size"], plan["samples"]) == (steps, 384, 384 * steps)
    assert (plan["learning_rate"], plan["weight_decay"]) == (1e-4, 1e-5)
    assert (plan["w1"], plan["w2"], plan["layer"], plan["horizon"]) == (0.01, 0.01, "L-2", 16)
    assert not recipe.alignment.center
    # The transformer, the adapter, the positions and one robot's own layers.
    assert plan["parameters_of_each_embodiment"] == pytest.approx((456.4e6 + 105.0e6 + 69.3e6) / 64, rel=1e-3)
    assert plan["policy_trainable_parameters"] == pytest.approx(
        550.4e6 + 201.4e6 + plan["parameters_of_each_embodiment"], rel=1e-3
    )


def test_the_recipe_for_a_cpu_is_small():
    plan = plan_refinement(RefineRecipe.load(FOLDER / "metaworld.yaml"))
    assert plan["policy_trainable_parameters"] < 5e6
    assert plan["mode"] == "joint"


def test_a_mistake_in_a_recipe_names_file_and_key(tmp_path):
    file = tmp_path / "recipe.yaml"
    for text, message in (
        ("mode: together", "mode 'together': takes one of joint"),
        ("training: {step: 3}", "unknown training key 'step'"),
        ("alignment: {w1: many}", "alignment w1: takes a float"),
        ("policy_preset: large", "takes one of small, paper"),
        ("lam_camera: 3", "lam_camera: takes a text"),
        ("alignment: {stop_step: soon}", "alignment stop_step: takes a int"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=rf"recipe\.yaml: .*{message}"):
            RefineRecipe.load(file)
