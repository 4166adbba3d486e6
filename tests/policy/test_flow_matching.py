"""Flow matching: straight paths, their velocity, and a sampler that is exact on them."""

from __future__ import annotations

import pytest
import torch
from lara_policy.flow_matching import FlowMatching

SHAPE = (3, 4, 2)


def test_euler_is_exact_on_a_constant_field():
    noise, action = torch.randn(SHAPE), torch.randn(SHAPE)
    for steps in (1, 4, 10):
        flow = FlowMatching(num_steps=steps)
        reached = flow.sample(lambda noisy, tau: action - noise, noise)
        assert torch.allclose(reached, action, atol=1e-6)


def test_euler_asks_at_the_times_of_the_released_policy():
    asked: list[float] = []

    def velocity(noisy: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        asked.append(float(tau[0]))
        return torch.zeros_like(noisy)

    FlowMatching(num_steps=4).sample(velocity, torch.randn(SHAPE))
    assert asked == [0.0, 0.25, 0.5, 0.75]


def test_the_path_runs_from_noise_to_action_at_the_velocity_a_minus_eps():
    flow, noise, action = FlowMatching(), torch.randn(SHAPE), torch.randn(SHAPE)
    assert torch.equal(flow.path(action, noise, torch.zeros(3)), noise)
    assert torch.equal(flow.path(action, noise, torch.ones(3)), action)
    assert torch.equal(flow.velocity(action, noise), action - noise)
    step = (flow.path(action, noise, torch.full((3,), 0.75)) - flow.path(action, noise, torch.full((3,), 0.25))) / 0.5
    assert torch.allclose(step, action - noise, atol=1e-6)


def test_times_favour_noise_as_beta_one_and_a_half_does():
    torch.manual_seed(0)
    tau = FlowMatching().sample_time(200_000)
    assert tau.min() >= 0
    assert tau.max() <= 1
    assert tau.mean().item() == pytest.approx(1 - 0.6 / 0.999, abs=0.003)  # the mean of Beta(1.5, 1) is .6
    quarter = (tau < 0.25).float().mean().item()
    assert quarter == pytest.approx(1 - (0.999 * 0.75) ** 1.5, abs=0.005)


def test_the_loss_is_the_mean_over_real_numbers_only():
    flow = FlowMatching()
    action, noise, predicted = torch.randn(SHAPE), torch.randn(SHAPE), torch.randn(SHAPE)
    mask = torch.rand(SHAPE) < 0.5
    expected = (predicted - (action - noise))[mask].square().mean()
    assert torch.allclose(flow.loss(predicted, action, noise, mask), expected)
    predicted[~mask] = float("nan")
    assert torch.allclose(flow.loss(predicted, action, noise, mask), expected)
    assert flow.loss(predicted, action, noise, torch.zeros(SHAPE, dtype=torch.bool)) == 0
