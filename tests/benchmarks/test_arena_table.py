"""The arena's statistics: planted differences come back, equal recipes do not differ."""

from __future__ import annotations

import numpy as np
import pytest
from arena_table import FAMILIES, FIGURES, MEASURES, Statistics, ablation_sections, difference, keep, margins

EPISODES = 40


def _run(name: str, seed: int, left_over: float, nuisance_r2: float) -> dict:
    """A run whose z leaves `left_over` of the actions' variance and explains `nuisance_r2` of every nuisance's."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(1, 2, (EPISODES, 4))
    actions = {"": size, "frame": 0.9 * size, "z": left_over * size, "frame+z": 0.9 * left_over * size}
    for control in ("pixel_difference", "random_init", "shuffled"):
        actions |= {control: size, f"frame+{control}": 0.9 * size}
    keys = ("frame", "pixel_difference", "random_init", "shuffled")
    family = {"": size[:, :2], "z": (1 - nuisance_r2) * size[:, :2], **dict.fromkeys(keys, size[:, :2])}
    errors = {
        "plain": {"actions": {key: value.tolist() for key, value in actions.items()}},
        "nuisance": {
            "actions": {key: value.tolist() for key, value in actions.items()},
            **{each: {key: value.tolist() for key, value in family.items()} for each in FAMILIES},
        },
    }
    part = {"headline": {"z_gain": {"value": 0.5, "interval": None}}, "alarms": [], "errors": errors}
    return {"name": name, "seed": seed, "heldout": part, "unseen": part}


def test_conditional_r2_and_selectivity_are_those_planted():
    one = Statistics(_run("lara", 0, left_over=0.6, nuisance_r2=0.1), "heldout")
    once = np.ones((1, EPISODES))
    assert one.conditional("plain", "z", once) == pytest.approx([0.9 * 0.4])
    assert one.selectivity("z", once) == pytest.approx([0.4 - 0.1])
    assert one.selectivity("mean", once) == pytest.approx([0.0])


def test_the_better_recipe_is_better_against_every_peer_and_control():
    runs = [_run("lara", seed, 0.6, 0.1) for seed in range(3)] + [_run("moto", seed, 0.8, 0.3) for seed in range(3)]
    compared = list(margins(runs))
    assert {opponent for _, _, opponent, _ in compared} >= {"moto", "shuffled z", "mean predictor"}
    assert all(low > 0 for *_, (_, low, _) in compared)


def test_equal_recipes_do_not_differ():
    pairs = [(Statistics(_run("lara", seed, 0.7, 0.2), "heldout"),) * 2 for seed in range(3)]
    compared = [(one, "z", other, "z") for one, other in pairs]
    for measure in MEASURES.values():
        assert difference(compared, measure) == [0.0, 0.0, 0.0]


def test_seeds_that_disagree_widen_the_interval():
    def interval(left_over: list[float]) -> list[float]:
        ours = [Statistics(_run("lara", seed, each, 0.1), "heldout") for seed, each in enumerate(left_over)]
        peer = Statistics(_run("moto", 0, 0.8, 0.1), "heldout")
        return difference([(one, "z", peer, "z") for one in ours], MEASURES["conditional R2"])

    (_, low, high), (_, wide_low, wide_high) = interval([0.6, 0.6, 0.6]), interval([0.3, 0.6, 0.9])
    assert wide_high - wide_low > 5 * (high - low)


def test_the_small_copy_of_a_run_gives_the_same_statistics():
    runs = [_run(name, seed, 0.6, 0.1) for name in ("lara", "moto") for seed in range(2)]
    small = [keep(run) for run in runs]
    assert "frame+pixel_difference" not in small[2]["heldout"]["errors"]["plain"]["actions"]
    for (*whole, before), (*same, after) in zip(margins(runs), margins(small), strict=True):
        assert whole == same
        assert after == pytest.approx(before, abs=2e-3)


def test_a_variant_that_saw_labels_stands_apart_and_seeds_are_not_mixed():
    def run(name: str, seed: int, value: float) -> dict:
        headline = {figure: {"value": value, "interval": None} for figure in FIGURES}
        return {"name": name, "seed": seed, "heldout": {"headline": headline}}

    runs = [run("lara", 0, 0.1), run("lara", 1, 0.3), run("lara:few-labels", 0, 0.5), run("lara:fsq", 0, 0.2)]
    _, unlabelled, labelled, seeds = "\n".join(ablation_sections(runs)).split("\n## ")
    assert "few-labels" not in unlabelled
    assert "| lara | held-out episodes | 1 | 0.100 |" in unlabelled  # the first seed, as of the variants
    assert "| lara:few-labels | held-out episodes | 1 | 0.500 |" in labelled
    assert "fsq" not in labelled
    assert [line.split("|")[3:5] for line in seeds.splitlines() if "held-out" in line] == [
        [" 0 ", " 0.100 "],
        [" 1 ", " 0.300 "],
    ]
