"""Motion compensation, cross augmentation, normal flow and difference initialization: together, with a restart."""

from __future__ import annotations

import json

import pytest
import torch

from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.train import Recipe, train_latent_action_model
from lara_tokenizer.train.augment import jitter_encoder_inputs, stabilize_pairs, to_unit_range
from lara_tokenizer.train.recipe import AugmentationOptions


@pytest.fixture(scope="module")
def recipe(tiny_recipe_values) -> Recipe:
    vision = tiny_recipe_values["model"]["vision_config"]
    return Recipe.parse(
        {
            "steady_pairs": True,
            "model": {
                **tiny_recipe_values["model"],
                "vision_config": vision,
                "num_m_former_layers": 2,
                "decoder_warp": True,
            },
            "augmentation": {"view_shift": 0.02, "view_light": 0.03, "reverse": 0.5},
            "training": {
                **tiny_recipe_values["training"],
                "save_steps": 10,
                "flow_weight": 1.0,
                "start_at_change": True,
            },
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, squares, recipe):
    out = tmp_path_factory.mktemp("run")
    return out, train_latent_action_model(squares(10), recipe, out=out, frames=out / "frames")


def _lines(folder) -> list[dict]:
    text = (folder / "training_log.jsonl").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if "loss" in line]


def test_the_loss_falls_and_the_new_terms_are_logged(run):
    lines = _lines(run[0])
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["train_flow"] < lines[0]["train_flow"]


def test_a_restart_ends_in_the_same_weights(tmp_path, squares, recipe, run):
    def kill(phase, done, total, logs):
        if phase == "steps" and done == 20:
            raise KeyboardInterrupt

    cache = run[0] / "frames"
    with pytest.raises(KeyboardInterrupt):
        train_latent_action_model(squares(10), recipe, out=tmp_path, frames=cache, progress=kill)
    train_latent_action_model(squares(10), recipe, out=tmp_path, frames=cache, resume=True)
    resumed, whole = (LatentActionModel.from_pretrained(folder).state_dict() for folder in (tmp_path, run[0]))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_the_checkpoint_s_processor_steadies_and_its_decoder_warps(run):
    assert LatentActionProcessor.from_pretrained(run[0]).steady_pairs
    assert LatentActionModel.from_pretrained(run[0]).config.decoder_warp


def test_cached_frames_serve_runs_with_and_without_steady_pairs(tmp_path, squares, recipe, run):
    phases = []
    plain = Recipe.parse({**recipe.to_dict(), "steady_pairs": False}).override(steps=1)
    before = {file: file.stat().st_mtime_ns for file in (run[0] / "frames").iterdir()}
    train_latent_action_model(
        squares(10), plain, out=tmp_path, frames=run[0] / "frames", progress=lambda *args: phases.append(args[0])
    )
    assert {file: file.stat().st_mtime_ns for file in (run[0] / "frames").iterdir()} == before


def test_views_are_drawn_frame_by_frame_and_off_means_untouched():
    frames = torch.rand(6, 2, 3, 16, 16) / 2  # far from white, where light would be cut
    off = jitter_encoder_inputs(frames, AugmentationOptions())
    torch.testing.assert_close(off, frames, atol=1e-5, rtol=0)
    same = frames[:, :1].expand(-1, 2, -1, -1, -1)
    lit = jitter_encoder_inputs(same, AugmentationOptions(view_light=0.1))
    gain = (lit / same).flatten(3).amin(3)
    assert (gain[:, 0] != gain[:, 1]).all()
    moved = jitter_encoder_inputs(same, AugmentationOptions(view_shift=0.2))
    assert ((moved[:, 0] - moved[:, 1]).abs().flatten(1).amax(1) > 0.01).all()
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_pairs_are_steadied_as_the_processor_does():
    frames = torch.randint(0, 256, (3, 2, 3, 32, 32), dtype=torch.uint8)
    frames[:, 1] = frames[:, 0].roll((2, -1), (-1, -2))
    plain, steady = (LatentActionProcessor(steady_pairs=on) for on in (False, True))
    pairs = to_unit_range(frames)
    assert torch.equal(stabilize_pairs(pairs, plain), pairs)
    out = stabilize_pairs(pairs, steady)
    assert torch.equal(out[:, 0], pairs[:, 0])
    assert torch.equal(out[:, 1], to_unit_range(steady.steady_future(frames[:, 0], frames[:, 1])))
    assert not torch.equal(out[:, 1], pairs[:, 1])
