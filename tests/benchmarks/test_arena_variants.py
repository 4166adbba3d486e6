"""The ablation's variants: what each added loss and bottleneck promises, and that each trains."""

from __future__ import annotations

import arena_bottlenecks
import arena_losses
import numpy as np
import pytest
import torch
from arena_losses import (
    LOSSES,
    direction_loss,
    extra_gflop_per_pair,
    feature_loss,
    label_loss,
    labelled_pairs,
    zero_transition_loss,
)
from arena_variants import VARIANTS
from torch import nn

from lara_tokenizer.data import Episode, FrameIndex, Signals
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor, modeling_latent_action
from lara_tokenizer.train import trainer
from lara_tokenizer.train.frames import FrameCache
from lara_tokenizer.train.mixture import find_pairs
from lara_tokenizer.train.recipe import Recipe
from lara_tokenizer.train.train import train_latent_action_model

RECIPE = {
    "steady_pairs": True,
    "model": {
        "image_size": 32,
        "hidden_size": 32,
        "intermediate_size": 64,
        "codebook_dim": 8,
        "codebook_size": 128,
        "num_m_former_layers": 1,
        "num_decoder_layers": 1,
        "continuous_steps": 1,
    },
    "augmentation": {"reverse": 0.5},
    "training": {"steps": 3, "batch_size": 8, "heldout_pairs": 8, "heldout_share": 0.1, "workers": 0},
}


class _Clip:
    """Twelve frames of noise; action row t is (clip, t). `asked` notes whose actions were read."""

    def __init__(self, episode: int, asked: list[int]) -> None:
        self.episode, self.asked = episode, asked

    def index(self, camera: str) -> FrameIndex:
        return FrameIndex(np.arange(12) / 10, 10.0)

    def frames(self, camera: str, indices: np.ndarray) -> np.ndarray:
        whole = np.random.default_rng(self.episode).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
        return whole[np.asarray(indices)]

    def signals(self) -> Signals:
        self.asked.append(self.episode)
        return Signals(actions=np.stack([np.full(12, self.episode), np.arange(12)], 1).astype(np.float32))

    def close(self) -> None:
        pass


def _episodes(count: int, asked: list[int]) -> list[Episode]:
    return [Episode(f"{index:02}", _Clip(index, asked)) for index in range(count)]


def _latents(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# A light KL


def test_the_kl_of_the_standard_normal_is_zero_and_of_others_its_closed_form():
    zeros = torch.zeros(2, 8, 32)
    assert arena_bottlenecks.kl(zeros, zeros).tolist() == [0.0, 0.0]
    one = (0.3**2 + 0.5 - 1 - np.log(0.5)) / 2
    divergence = arena_bottlenecks.kl(torch.full((2, 8, 32), 0.3), torch.full((2, 8, 32), float(np.log(0.5))))
    assert divergence.tolist() == pytest.approx([256 * one] * 2, rel=1e-5)


def test_a_kl_bottleneck_samples_in_training_and_gives_z_itself_in_evaluation():
    bottleneck, latents = arena_bottlenecks.LightKL(16, 8), _latents(64, 4, 8)
    torch.manual_seed(0)
    first, second = (bottleneck.train()(latents).quantized_latents for _ in range(2))
    assert not torch.equal(first, second)
    assert 0.05 < (first - latents).std() < 0.5  # noise starts small
    assert torch.equal(bottleneck.eval()(latents).quantized_latents, latents)


def test_the_kl_teaches_mean_and_variance():
    bottleneck, latents = arena_bottlenecks.LightKL(16, 8).train(), _latents(4, 4, 8).requires_grad_()
    bottleneck(latents).codebook_loss.mean().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    assert bottleneck.to_log_variance.weight.grad.abs().sum() > 0


# The zero-transition margin


def test_a_short_z_of_no_motion_is_free_and_a_long_one_costs_its_squared_excess():
    latents = torch.ones(4, 8, 32)
    assert zero_transition_loss(0.05 * latents, latents) == pytest.approx(0.0, abs=1e-9)
    assert zero_transition_loss(0.55 * latents, latents) == pytest.approx(0.25, rel=1e-4)


def test_no_motion_is_measured_relative_to_z_which_cannot_grow_to_please_it():
    still, latents = _latents(4, 8, 32).requires_grad_(), _latents(4, 8, 32).mul(3).requires_grad_()
    loss = zero_transition_loss(still, latents)
    assert torch.allclose(zero_transition_loss(7 * still, 7 * latents), loss, rtol=1e-4)
    loss.backward()
    assert latents.grad is None
    assert still.grad.abs().sum() > 0


# The target in feature space


def test_the_right_frame_has_the_right_features_and_a_wrong_one_is_pulled_there():
    teacher = arena_losses.frozen_teacher()
    future, wrong = _latents(2, 2, 3, 64, 64)
    assert feature_loss(teacher, future, future) == 0
    loss = feature_loss(teacher, wrong.requires_grad_(), future.requires_grad_())
    loss.backward()
    assert wrong.grad.abs().sum() > 0
    assert future.grad is None
    assert all(not parameter.requires_grad for parameter in teacher.parameters())


# A few labels


def test_actions_of_unlabelled_episodes_are_never_read(tmp_path):
    asked: list[int] = []
    episodes = _episodes(40, asked)
    processor = LatentActionProcessor(size={"height": 32, "width": 32})
    cache = FrameCache.build(episodes, processor, tmp_path)
    asked.clear()
    sequences = find_pairs(cache.sequences, ["0.5s"])[10:]  # the first ten are held out
    pairs = labelled_pairs(cache, sequences, episodes, seed=0)
    labelled = {int(each.episode) for each in cache.sequences if each.index in pairs.mixture._sequence_index}
    assert len(labelled) == 2  # 5 % of 30, rounded
    assert set(asked) == labelled
    assert min(labelled) >= 10
    batch = pairs.__getitems__(range(64))
    assert batch["action_mask"].all()
    assert batch["actions"].shape == (64, 5, 2)


def test_a_label_that_is_not_there_teaches_nothing():
    head, latents = nn.Linear(32, 6), _latents(4, 4, 8).requires_grad_()
    actions, mask = torch.zeros(4, 3, 2), torch.zeros(4, 3, 2, dtype=torch.bool)
    mask[0, 0] = True
    label_loss(head, latents, actions, mask).backward()
    assert latents.grad[0].abs().sum() > 0
    assert latents.grad[1:].abs().sum() == 0
    assert label_loss(head, latents, actions, torch.zeros_like(mask)) == 0


# Both directions of time


def test_the_direction_loss_is_zero_for_antisymmetric_z_and_largest_for_symmetric_z():
    latents = _latents(64, 8, 32)
    assert direction_loss(torch.cat([latents, -latents])) == 0
    assert direction_loss(torch.cat([latents, latents])) == pytest.approx(0.9 - 1e-3)


# All of them


@pytest.mark.parametrize("name", ["zero-transition", "few-labels", "no-flow-target", "kl", "fsq"])
def test_a_variant_trains_and_its_checkpoint_loads_without_leftovers(name, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "LatentActionTrainer", trainer.LatentActionTrainer)
    monkeypatch.setattr(modeling_latent_action, "VectorQuantizer", modeling_latent_action.VectorQuantizer)
    episodes = _episodes(20, [])
    if name in LOSSES:
        arena_losses.use(name, episodes)
    else:
        arena_bottlenecks.use(name)
    train_latent_action_model(episodes, VARIANTS[name](Recipe.parse(RECIPE)), out=tmp_path / "run")
    _, report = LatentActionModel.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not any(report.values())


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_loss_costs_is_counted(name):
    config = Recipe.parse({}).build_config()
    state = torch.get_rng_state()
    assert 0.01 < extra_gflop_per_pair(name, config, 32) < 1
    assert torch.equal(torch.get_rng_state(), state)
    if name == "few-labels":
        assert extra_gflop_per_pair(name, config, 16) == pytest.approx(2 * extra_gflop_per_pair(name, config, 32))
