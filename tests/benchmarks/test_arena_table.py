"""The arena's statistics and page: planted differences come back, and no sentence says more than its figures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from arena_statistics import best_control, conditional_r2, difference, keep, of_row, of_runs, uses_z, z_gain
from arena_table import (
    ABOVE,
    APART,
    BELOW,
    IDLE,
    against_control,
    against_recipe,
    by_contender,
    chosen,
    page,
    rate_table,
)
from arena_variants import Entry

EPISODES = 40
Z = of_row("z")


def _run(
    recipe: str,
    seed: int,
    left_over: float,
    use: float = 0.5,
    stabilised: bool = True,
    flow: float = 0.95,
    uneven: float = 0.0,
) -> dict:
    """A run whose z leaves `left_over` of the actions' variance, and normal flow `flow`; `use` is its z_gain.

    uneven: how much more is left in some episodes than in others, whatever the row.
    """
    rng = np.random.default_rng(seed)
    size = rng.uniform(1, 2, (EPISODES, 3))
    hard = 1 + uneven * rng.uniform(-1, 1, (EPISODES, 1))
    errors = {"": size, "frame": 0.9 * size, "z": left_over * size, "frame+codes": size}
    for row, left in (("z", left_over), ("quantized", left_over), ("normal_flow", flow), ("shuffled", 1.05)):
        noise = 1 + 0.02 * rng.standard_normal(size.shape)
        errors[f"frame+{row}"] = 0.9 * left * size * hard * noise
    copy = rng.uniform(1, 2, EPISODES)
    of_decoder = np.stack([(1 - use) * 0.9 * copy, 0.9 * copy, copy], 1)
    headline = {figure: {"value": 20.0} for figure in ("perplexity", "perplexity_per_position")}
    nuisance = {row: {"conditional_r2": 0.1, "nuisance_r2": 0.2, "lambdas": [1]} for row in ("z", "normal_flow")}
    part = {
        "headline": headline,
        "rows": {"probe": {"z": {"r2": 0.5}}, "nuisance": nuisance},
        "alarms": [],
        "errors": {key: value.tolist() for key, value in errors.items()},
        "decoder_errors": of_decoder.tolist(),
    }
    check = {"pairs": 32768, "z_gain": use, "gain_over_copying": 0.1, "gain_moving": 0.1}
    return {
        "name": Entry(recipe, stabilised, True).name,
        "recipe": recipe,
        "stabilised": stabilised,
        "steady": True,
        "seed": seed,
        "learning_rate": 1e-3,
        "parameters": 2_000_000,
        "course": {"checks": [], "at_plateau": use > 0.02, "final": check},
        "sets": {"heldout": part, "unseen": part, "real": {**part, "errors": {}}},
    }


def _seeds(recipe: str, *args, count: int = 3, **options) -> dict[int, dict]:
    return {seed: _run(recipe, seed, *args, **options) for seed in range(count)}


def test_conditional_r2_and_z_gain_are_those_planted():
    run, once = _run("lara", 0, left_over=0.6, use=0.3), np.ones((1, EPISODES))
    assert conditional_r2(run, "heldout", "z", once) == pytest.approx([0.9 * 0.4], abs=0.01)
    assert conditional_r2(run, "heldout", "mean", once) == [0.0]
    assert z_gain(run, "real", once) == pytest.approx([0.3])


def test_the_better_recipe_is_above_and_its_opponent_below():
    good, bad = _seeds("lara", 0.6), _seeds("moto", 0.8)
    assert against_recipe(good, bad, "heldout", Z)[1] == ABOVE
    assert against_recipe(bad, good, "heldout", Z)[1] == BELOW
    assert against_recipe(good, good, "heldout", Z) == ([0.0, 0.0, 0.0], APART)


def test_a_decoder_that_does_not_use_z_gets_no_verdict_whatever_its_probe_says():
    idle, bad = _seeds("lara", 0.3, use=0.0), _seeds("moto", 0.8)
    assert not uses_z(idle, "heldout")
    assert against_recipe(idle, bad, "heldout", Z)[1] == IDLE
    assert against_control(idle, "heldout")[2] == IDLE


def test_the_best_control_is_the_one_to_beat():
    weak, strong = _seeds("lara", 0.7, flow=0.95), _seeds("lara", 0.7, flow=0.5)
    assert against_control(weak, "heldout")[::2] == ("normal_flow", ABOVE)
    assert against_control(strong, "heldout")[::2] == ("normal_flow", BELOW)
    assert best_control(_seeds("lara", 0.7, flow=1.2), "heldout") == "mean"  # none tells anything


def test_a_difference_without_clear_intervals_is_no_evidence():
    near = _seeds("lara", 0.80, flow=0.84, uneven=0.5)
    control, result, verdict = against_control(near, "heldout")
    assert control == "normal_flow"
    assert result[1] > 0
    assert verdict == APART


def test_seeds_that_disagree_widen_the_interval():
    def width(left_over: list[float]) -> float:
        runs = {seed: _run("lara", seed, each) for seed, each in enumerate(left_over)}
        _, low, high = difference(runs, _seeds("moto", 0.8), "heldout", Z, Z)
        return high - low

    assert width([0.3, 0.6, 0.9]) > 5 * width([0.6, 0.6, 0.6])


def test_recipes_that_share_no_seed_are_not_compared():
    assert difference({0: _run("lara", 0, 0.6)}, {1: _run("moto", 1, 0.6)}, "heldout", Z, Z) == []


def test_the_best_setting_is_chosen_without_the_test_sets():
    runs = [_run("moto", 0, 0.2, use=0.1), _run("moto", 0, 0.9, use=0.4, stabilised=False), _run("lara", 0, 0.5)]
    assert chosen(by_contender(runs)) == {"lara": "lara-stabilised-steady", "moto": "moto-published-steady"}


def test_the_small_copy_of_a_run_gives_the_same_page():
    runs = [_run(recipe, seed, 0.6) for recipe in ("lara", "moto") for seed in range(2)]
    small = [keep(run) for run in runs]
    assert len(json.dumps(small)) < 0.8 * len(json.dumps(runs))
    assert of_runs({0: small[0]}, "heldout", Z) == pytest.approx(of_runs({0: runs[0]}, "heldout", Z), abs=2e-3)
    assert page(small, [], [], "# head").count("\n") == page(runs, [], [], "# head").count("\n")


def test_the_page_claims_for_ours_only_what_the_figures_say():
    peers = [_run("moto", 0, 0.8), _run("lapa", 0, 0.5), _run("adaworld", 0, 0.6, use=0.0)]
    text = page([_run("lara", 0, 0.65), *peers], [], [], "# head")
    held_out = [line for line in text.splitlines() if line.startswith("- Meta-World, held-out episodes: z of lara")]
    assert any("tells more about the actions than moto's" in line for line in held_out)
    assert any("tells less about the actions than lapa's" in line for line in held_out)
    assert any("not compared" in line and "adaworld's" in line for line in held_out)
    assert len(held_out) == 3
    assert "does not use z, so it is compared with no recipe" in page(
        [_run("lara", 0, 0.3, use=0.0), *peers], [], [], "#"
    )


def test_a_run_that_was_not_measured_is_reported_and_nowhere_else():
    broken = {**_run("lapa", 0, 0.5), "sets": {}}
    text = page([_run("lara", 0, 0.6), broken], [], [], "# head")
    assert [line for line in text.splitlines() if "lapa" in line and "not finite" in line]
    assert text.count("lapa") == 1


def test_a_model_as_it_ships_has_a_row_and_no_comparison():
    shipped = {"name": "as it ships", "seed": 0, "sets": _run("lara", 0, 0.1)["sets"]}
    text = page([_run("lara", 0, 0.6), _run("moto", 0, 0.8)], [], [shipped], "# head")
    assert text.count("| as it ships |") == text.count("as it ships") == 3  # real video and two sets of Meta-World


def test_the_best_rate_of_each_recipe_is_bold():
    rates = [{"form": "moto-published", "rate": rate, "gain_moving": gain} for rate, gain in ((1e-3, 0.2), (3e-4, 0.1))]
    assert "| moto-published | +0.100 | **+0.200** |" in rate_table(
        [*rates, {**rates[0], "form": "x", "gain_moving": -1e9}]
    )
