"""Thirty steps on moving squares: the loss falls, a restart changes nothing, a collapsing codebook stops the run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.train import PairDataset, ReaderFrames, Recipe, find_pairs, train_latent_action_model
from lara_tokenizer.train.trainer import LatentActionTrainer
from lara_tokenizer.train.watch.monitor import CollapseError, CollapseMonitor
from lara_tokenizer.verdict.card import Card


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
    assert lines[-1]["train_reconstruction"] < 0.9 * lines[0]["train_reconstruction"]
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


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory, write_video, moving_square) -> list[str]:
    """Folders of videos: four at 10 Hz, two at 3 Hz."""
    root = tmp_path_factory.mktemp("sources")
    for name, clips, length, fps in (("kitchen", 4, 20, 10), ("lab", 2, 12, 3)):
        for index in range(clips):
            write_video(root / name / f"{index}.mp4", moving_square(length, size=48, seed=index), fps=fps)
    return [str(root / "kitchen"), str(root / "lab")]


def test_two_sources_train_alike_from_the_cache_and_from_the_readers(tmp_path, recipe, two_sources):
    values = recipe.to_dict()
    values["model"] = {**values["model"], "strides": ["0.6s", "0.2s"]}
    short = Recipe.parse({**values, "sources": two_sources}).override(steps=12, log_steps=4, save_steps=10)
    cached = train_latent_action_model(two_sources, short, out=tmp_path / "cached")
    read = train_latent_action_model(None, short.override(cache_frames=False), out=tmp_path / "read")
    assert cached == read
    assert not (tmp_path / "read" / "frames").exists()
    one, two = (LatentActionModel.from_pretrained(tmp_path / name).state_dict() for name in ("cached", "read"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    lines = [
        [{name: value for name, value in line.items() if "runtime" not in name} for line in _lines(tmp_path / name)]
        for name in ("cached", "read")
    ]
    assert lines[0] == lines[1]
    assert (cached["episodes"], cached["heldout_episodes"]) == (4, 2)
    # 20 frames at 10 Hz, gaps of 6 and 2; 12 frames at 3 Hz, where 0.6 s is two frames and 0.2 s is no gap.
    assert cached["datasets"] == {
        "kitchen": {"episodes": 3, "streams": 3, "pairs": 3 * (14 + 18), "strides": ["0.6s", "0.2s"]},
        "lab": {"episodes": 1, "streams": 1, "pairs": 10, "strides": ["0.6s"]},
    }
    cards = [Card.read(tmp_path / name) for name in ("cached", "read")]
    assert cards[0] == cards[1]
    assert cards[0].trained_on == "106 pairs of kitchen, lab"
    assert cards[0].headline["held-out pairs"]["z_gain"] == cached["heldout_z_gain"]
    assert 0 < cards[0].ranges["motion"][0] <= cards[0].ranges["motion"][1] < 1


def test_the_codebook_draws_are_a_function_of_the_step_and_no_training_draws(tmp_path, squares, recipe, tiny_config):
    processor = LatentActionProcessor(size={"height": 32, "width": 32})
    frames = ReaderFrames(squares(3), processor)
    pairs = PairDataset(frames, find_pairs(frames.sequences, ["0.5s"]))
    options = recipe.override(workers=1).training
    trainer = LatentActionTrainer(
        LatentActionModel(tiny_config), processor, options, recipe.augmentation, pairs, None, tmp_path
    )
    asked: list[np.ndarray] = []
    draw = pairs.mixture.draw
    pairs.mixture.draw = lambda indices: asked.append(np.asarray(indices)) or draw(indices)
    first = trainer.draw_latents(2, 7)
    assert torch.equal(first, trainer.draw_latents(2, 7))
    assert not torch.equal(first, trainer.draw_latents(2, 8))
    assert min(indices.min() for indices in asked) >= 2**40
    assert len(np.unique(np.concatenate(asked))) == 4 * options.batch_size
    # Readers must not share open files with loader processes; a cache may.
    assert trainer.get_train_dataloader().multiprocessing_context.get_start_method() == "spawn"
    pairs.frames.start_method = None
    assert trainer.get_train_dataloader().multiprocessing_context is None


def test_a_cache_folder_without_cache_and_a_run_without_source_are_refused(tmp_path, squares, recipe):
    with pytest.raises(ValueError, match="cache_frames: false"):
        train_latent_action_model(
            squares(2), recipe.override(cache_frames=False), out=tmp_path / "run", frames=tmp_path / "frames"
        )
    with pytest.raises(ValueError, match="name `sources` in the recipe"):
        train_latent_action_model(None, recipe, out=tmp_path / "run")


def test_a_collapsing_codebook_stops_the_run_with_the_sentence(tmp_path, squares, recipe, frames, monkeypatch):
    def one_code(self, step, measured, codebook):
        return check(self, step, {"spread": 1.0, "perplexity": 1.0}, codebook)

    check = CollapseMonitor.check
    monkeypatch.setattr(CollapseMonitor, "check", one_code)
    with pytest.raises(CollapseError, match=r"stopped at step \d+: the codebook collapsed: perplexity 1.0"):
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


def test_the_command_prints_the_plan_of_a_dry_run(tmp_path, invoke):
    path = tmp_path / "recipe.yaml"
    path.write_text("training: {steps: 10, batch_size: 4}", encoding="utf-8")
    result = invoke("--recipe", path, "--dry-run", "--json", "--steps", 5)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["pairs"] == 20


def test_the_command_without_a_source_says_what_it_needs(tmp_path, invoke):
    path = tmp_path / "recipe.yaml"
    path.write_text("{}", encoding="utf-8")
    result = invoke("--recipe", path)
    assert str(result.exception) == "No source: name SOURCE, or `sources` in the recipe. Missing --out."
