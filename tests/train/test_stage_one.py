"""Thirty steps on moving squares: the loss falls, a restart changes nothing, a dying codebook stops the run."""

from __future__ import annotations

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.train import Recipe, train_latent_action_model
from lara_tokenizer.train.monitor import CollapseError, CollapseWatch


def _lines(folder) -> list[dict]:
    text = (folder / "training_log.jsonl").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if "loss" in line]


@pytest.fixture(scope="module")
def recipe(tiny_recipe_values) -> Recipe:
    return Recipe.parse(tiny_recipe_values)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return tmp_path_factory.mktemp("frames")


@pytest.fixture(scope="module")
def run(tmp_path_factory, squares, recipe, frames):
    """A whole run with a checkpoint every 10 steps."""
    out = tmp_path_factory.mktemp("run")
    summary = train_latent_action_model(squares(10), recipe.override(save_steps=10), out=out, frames=frames)
    return out, summary


def test_the_loss_falls_and_every_term_is_logged(run):
    lines = _lines(run[0])
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert lines[-1]["train_reconstruction"] < 0.8 * lines[0]["train_reconstruction"]
    named = ("reconstruction", "codebook", "commitment", "perplexity")
    assert all(f"train_{name}" in line for name in named for line in lines)
    held = ("spread", "effective_rank", "perplexity", "perplexity_per_position", "gain_over_copying", "z_gain")
    assert all(f"heldout_{name}" in line for name in held for line in lines)


def test_quantization_starts_after_the_continuous_steps(run):
    lines = _lines(run[0])
    assert lines[1]["train_codebook"] > 0
    assert run[1]["steps"] == 30


def test_the_checkpoint_is_whole_folded_and_float32(run, squares):
    out, summary = run
    model = LatentActionModel.from_pretrained(out).eval()
    processor = LatentActionProcessor.from_pretrained(out)
    assert not model.config.standardize_latents
    assert model.config.strides == ["0.5s"]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    frames = squares(1)[0].frames("", range(20))
    codes = model.encode(**processor(frames[:15], frames[5:])).codes
    assert codes.shape == (15, 4)
    log = json.loads((out / "training_log.json").read_text(encoding="utf-8"))
    assert log["summary"] == summary
    assert Recipe.parse(log["recipe"]).training.save_steps == 10


def test_a_restart_from_a_checkpoint_ends_in_the_same_weights(tmp_path, squares, recipe, frames, run):
    # Killed after 12 steps: in the middle of a log window, after the k-means start and a revival.
    out = tmp_path / "killed"

    def kill(phase, done, total, logs):
        if phase == "steps" and done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_latent_action_model(squares(10), recipe.override(save_steps=10), out=out, frames=frames, progress=kill)
    train_latent_action_model(squares(10), recipe.override(save_steps=10), out=out, frames=frames, resume=True)
    resumed, whole = (LatentActionModel.from_pretrained(folder).state_dict() for folder in (out, run[0]))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert [line["step"] for line in _lines(out)] == [10, 20, 30]


def test_the_k_means_start_survives_a_restart_on_its_very_step(tmp_path, squares, recipe, frames, run):
    values = recipe.to_dict()
    values["model"] = {**values["model"], "continuous_steps": 10}
    edge, out = Recipe.parse(values).override(save_steps=10, steps=12, log_steps=1), tmp_path / "edge"

    def kill(phase, done, total, logs):
        if phase == "steps" and done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_latent_action_model(squares(10), edge, out=out, frames=frames, progress=kill)
    first = _lines(out)[-1]
    train_latent_action_model(squares(10), edge, out=out, frames=frames, resume=True)
    again = next(line for line in _lines(out) if line["step"] == 11)
    assert first["train_codebook"] == again["train_codebook"] > 0


def test_a_dying_codebook_stops_the_run_with_the_sentence(tmp_path, squares, recipe, frames, monkeypatch):
    def one_code(self, step, measured, codebook):
        return check(self, step, {"spread": 1.0, "perplexity": 1.0}, codebook)

    check = CollapseWatch.check
    monkeypatch.setattr(CollapseWatch, "check", one_code)
    with pytest.raises(CollapseError, match=r"stopped at step \d+: the codebook died: perplexity 1.0"):
        train_latent_action_model(
            squares(10), recipe.override(grace_steps=0, log_steps=4), out=tmp_path / "run", frames=frames
        )


def test_a_run_is_neither_overwritten_nor_resumed_from_nothing(tmp_path, squares, recipe, run):
    with pytest.raises(ValueError, match="holds a training run already"):
        train_latent_action_model(squares(10), recipe, out=run[0])
    with pytest.raises(ValueError, match="no checkpoint to resume"):
        train_latent_action_model(squares(10), recipe, out=tmp_path / "new", resume=True)


def test_a_frozen_encoder_without_weights_is_refused(tmp_path, squares, recipe, frames):
    values = recipe.to_dict()
    values["model"] = {**values["model"], "freeze_vision_encoder": True}
    with pytest.raises(ValueError, match="name pretrained ones as vision_encoder"):
        train_latent_action_model(squares(10), Recipe.parse(values), out=tmp_path / "run", frames=frames)


@pytest.fixture
def invoke():
    from lara_tok.train import train

    app = typer.Typer()
    app.command()(train)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_says_what_a_dry_run_would_train(tmp_path, invoke):
    path = tmp_path / "recipe.yaml"
    path.write_text("training: {steps: 10, batch_size: 4}", encoding="utf-8")
    result = invoke("--recipe", path, "--dry-run", "--json", "--steps", 5)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["pairs"] == 20


def test_the_command_without_a_source_says_what_it_needs(tmp_path, invoke):
    path = tmp_path / "recipe.yaml"
    path.write_text("{}", encoding="utf-8")
    result = invoke("--recipe", path)
    assert "SOURCE and --out" in str(result.exception)
