"""The card's page says what was measured: every bar with its figure, and each miss by name."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "lara_lam_card.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("lara_lam_card", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _measured(z_gain: float, low: float) -> dict:
    """One set's figures; z is above each control by 0.1, from `low` to 0.2."""
    controls = ("mean", "shuffled", "pixel_difference", "random_init")
    row = {"r2": 0.5, "r2_interval": [0.4, 0.6], "conditional_r2": 0.25, "interval": [0.2, 0.3]}
    margin = {"difference": 0.1, "interval": [low, 0.2]}
    simulation = {"simulator": "metaworld", "tasks": ["push-v3"], "size": 96, "seed": 7, "action_noise": 0.3}
    return {
        "data": [{"folder": "runs/mw", "total_episodes": 70, "simulation": simulation}],
        **dict.fromkeys(("z_gain_moving", "gain_over_copying", "gain_over_copying_moving"), 0.6),
        "z_gain": z_gain,
        "perplexity": 110.0,
        "perplexity_per_position": 50.0,
        **dict.fromkeys(("conditional_r2_nuisance", "nuisance_r2", "selectivity"), 0.1),
        "dead_positions": 0,
        "alarms": [],
        "dead_codes": 0,
        "used_codes_share": 1.0,
        "spread": 1.0,
        "effective_rank": 40.0,
        "episodes": 70,
        "frames": 7000,
        "pairs": 4480,
        "seed": 0,
        "probe": {
            "camera": "observation.images.corner2",
            "test_episodes": 70,
            "pairs": 2240,
            "frame_r2": 0.3,
            "rows": dict.fromkeys(("z", "quantized", *controls), row),
            "margins": dict.fromkeys(("quantized", *controls), margin),
        },
    }


def _card(script, heldout: dict, unseen: dict) -> dict:
    card = {
        "command": "python benchmarks/lara_lam_card.py lara-lam",
        "model": {"weights_sha256": {"model.safetensors": "abc123"}, "weights_bytes": 7_500_000, "parameters": 1.9e6},
        "versions": {"torch": "2.9"},
        "heldout": heldout,
        "unseen": unseen,
    }
    return card | {"bars": script.judge(card)}


def test_all_bars_reached_is_said_and_nothing_else(script):
    page = script.page(_card(script, _measured(0.75, 0.01), _measured(0.60, 0.01)))
    assert "All 20 bars reached." in page
    assert "MISS" not in page


def test_a_miss_is_named_in_the_table_and_in_a_sentence(script):
    card = _card(script, _measured(0.7499, 0.01), _measured(0.60, 0.0))
    assert [(bar["figure"], bar["set"]) for bar in card["bars"] if not bar["passed"]] == [
        ("z_gain", "heldout"),
        *((figure, "unseen") for figure in script.CONTROLS.values()),
    ]
    page = script.page(card)
    assert "| z_gain | 0.7499 | 0.75 | MISS | 0.6 | 0.6 | pass |" in page
    assert page.count("MISS") == 5
    assert "5 of 20 bars missed: z_gain (held-out episodes); z above the mean predictor (unseen tasks)" in page


def test_the_page_names_weights_versions_and_the_commands_that_made_it(script):
    page = script.page(_card(script, _measured(0.6, 0.01), _measured(0.6, 0.01)))
    assert page.startswith("---\nlicense: apache-2.0\nlibrary_name: lara-tokenizer\n")
    assert "sha256 `abc123`" in page
    assert "torch 2.9" in page
    assert "python benchmarks/lara_lam_card.py lara-lam\n" in page
    made = "simulate metaworld --out runs/mw --task push-v3 --episodes 70 --size 96 --seed 7 --action-noise 0.3"
    assert made in page


def test_a_task_set_is_named_by_its_name(script):
    from lara_policy.simulation.metaworld.tasks import TASK_SETS

    simulation = {"simulator": "metaworld", "size": 96, "seed": 1, "action_noise": 0.0}
    data = {"folder": "x", "total_episodes": 80, "simulation": simulation | {"tasks": list(TASK_SETS["unseen"])}}
    assert "--task unseen --episodes 40 " in script.simulate_command(data)


def test_the_published_page_is_made_from_its_card_and_speaks_of_the_bundled_weights(script):
    folder = SCRIPT.parents[1] / "hub_configs" / "lara-lam"
    if not (folder / "card.json").exists():
        pytest.skip("lara-lam has no card.json yet: benchmarks/lara_lam_card.py writes it")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["model"]["weights_sha256"] == script.Checkpoint.open(folder).weights_sha256
    assert card["bars"] == script.judge(card)
    assert (folder / "README.md").read_text(encoding="utf-8") == script.page(card)
