"""Signs of a run: curves as a picture, the verdict, events for TensorBoard, the sources in the log."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from lara_tokenizer.train import Recipe, train_latent_action_model
from lara_tokenizer.train.watch.plot import COLOURS, draw_curves, draw_run, ticks
from lara_tokenizer.train.watch.trackers import check_tracker
from lara_tokenizer.verdict.grades import DO_NOT_TRAIN, NO_EVIDENCE
from lara_tokenizer.verdict.heldout import heldout_verdict

HEALTHY = {"heldout_spread": 0.9, "heldout_perplexity": 40.0, "heldout_z_gain": 0.3, "heldout_gain_over_copying": 0.2}


@pytest.fixture(scope="module")
def run(tmp_path_factory, squares, tiny_recipe_values, write_video, moving_square):
    """Six steps on videos, reported to TensorBoard; the recipe names other sources."""
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    root = tmp_path_factory.mktemp("watched")
    for index in range(3):
        write_video(root / "clips" / f"{index}.mp4", moving_square(12, size=32, seed=index))
    recipe = Recipe.parse({**tiny_recipe_values, "sources": ["elsewhere"]}).override(steps=6, log_steps=2)
    phases = []
    train_latent_action_model(
        [str(root / "clips")],
        recipe,
        out=root / "run",
        tracker="tensorboard",
        progress=lambda phase, done, total, logs: phases.append((phase, done)),
    )
    return root, phases


def test_the_log_names_the_sources_that_were_read(run):
    log = json.loads((run[0] / "run" / "training_log.json").read_text(encoding="utf-8"))
    assert log["recipe"]["sources"] == [str(run[0] / "clips")]
    assert log["summary"]["datasets"].keys() == {"clips"}


def test_tensorboards_own_reader_reads_every_logged_figure(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run[0] / "run" / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (run[0] / "run" / "training_log.jsonl").read_text().splitlines()]
    for name in ("loss", "heldout_spread", "heldout_z_gain"):
        read = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        assert read
        assert read == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line]


def test_progress_tells_phases_in_order_and_each_log(run):
    phases = [phase for phase, _ in run[1]]
    assert list(dict.fromkeys(phases)) == ["frames", "start", "step", "steps"]
    assert [done for phase, done in run[1] if phase == "steps"][:3] == [2, 4, 6]


def test_a_finished_run_has_its_curves(run):
    with Image.open(run[0] / "run" / "curves.png") as picture:
        assert picture.width >= 900


def test_an_unknown_or_absent_tracker_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="--report-to wand: takes one of tensorboard, trackio, wandb"):
        train_latent_action_model("nowhere", Recipe(), out=tmp_path, tracker="wand")
    check_tracker(None)


def test_a_tracker_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setattr("lara_tokenizer.train.watch.trackers.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=re.escape("pip install 'lara-tokenizer[wandb]'")):
        check_tracker("wandb")


def _curve(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels that have, nearly, a colour."""
    return np.argwhere(np.abs(picture.astype(int) - colour).sum(-1) < 30)


def test_a_rising_measure_is_drawn_from_low_left_to_high_right(tmp_path):
    draw_curves({"": [{"step": 1 + k, "loss": float(k)} for k in range(5)]}, tmp_path / "c.png")
    rows, columns = _curve(np.asarray(Image.open(tmp_path / "c.png").convert("RGB")), COLOURS[0]).T
    assert np.corrcoef(rows, columns)[0, 1] < -0.99


def test_what_is_not_finite_is_left_out_and_a_run_without_a_log_has_no_picture(tmp_path):
    draw_curves({"": [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": float("inf")}]}, tmp_path / "nan.png")
    assert not len(_curve(np.asarray(Image.open(tmp_path / "nan.png").convert("RGB")), COLOURS[0]))
    assert not draw_run(tmp_path / "none.jsonl", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(("low", "high"), [(0, 1e-4), (-3, 4), (0.1, 1.3), (0, 350_000), (17.1, 17.2)])
def test_ticks_are_even_and_within(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert low <= found[0] + 1e-9 * high
    assert found[-1] <= high * (1 + 1e-9)
    np.testing.assert_allclose(np.diff(found), found[1] - found[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("sick", "words"),
    [
        ({"heldout_spread": 0.1}, "z is nearly the same whatever happens between the two frames (spread 0.100"),
        ({"heldout_spread": float("nan")}, "z is nearly the same"),
        ({"heldout_perplexity": 3.0}, "the codebook has collapsed: few of the 64 codes are in use (perplexity 3.0)"),
        ({"heldout_z_gain": 0.0}, "the decoder ignores z"),
    ],
)
def test_one_sick_measure_makes_the_grade_and_is_named(sick, words):
    outcome = heldout_verdict(HEALTHY | sick, 64)
    assert outcome.grade == DO_NOT_TRAIN
    assert outcome.reason.startswith(words)


def test_a_healthy_run_without_actions_is_no_evidence():
    assert heldout_verdict(HEALTHY, 64).grade == NO_EVIDENCE
    assert "not probed" in heldout_verdict(HEALTHY, 64).reason
    assert "gain over copying -0.500" in heldout_verdict(HEALTHY | {"heldout_gain_over_copying": -0.5}, 64).reason


def test_a_target_encoder_that_is_nowhere_is_refused_before_anything_is_decoded(tmp_path, squares, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    episodes = squares(2)
    with pytest.raises(
        ValueError, match=r"target_encoder runs/mobilenet: neither a folder here nor .* lam > mine.yaml"
    ):
        train_latent_action_model(episodes, Recipe.load("lam"), out=tmp_path / "run")
    assert not any(episode.reader.calls for episode in episodes)
