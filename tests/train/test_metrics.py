"""metrics.py against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from lara_tokenizer import metrics


def test_perplexity_of_equally_used_codes_is_their_number():
    codes = torch.arange(6).repeat(5).reshape(10, 3)
    assert metrics.perplexity(codes, 128) == pytest.approx(6)
    assert metrics.perplexity(torch.zeros(7, 2, dtype=torch.long), 128) == 1


def test_perplexity_of_a_known_distribution():
    codes = torch.tensor([0, 0, 0, 1])
    assert metrics.perplexity(codes, 4) == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))


def test_positions_that_each_say_one_thing_have_perplexity_one_although_the_pool_does_not():
    codes = torch.tensor([[0, 1, 2]]).repeat(9, 1)
    assert metrics.perplexity_per_position(codes, 3).tolist() == [1, 1, 1]
    assert metrics.perplexity(codes, 3) == pytest.approx(3)


def test_dead_codes_are_those_that_never_occur_and_invalid_codes_do_not_count():
    codes = torch.tensor([[0, 3], [-1, 3]])
    assert metrics.dead_codes(codes, 5) == 3
    assert metrics.code_counts(codes, 5).tolist() == [1, 0, 0, 2, 0]


def test_spread_is_one_for_isotropic_latents_and_zero_for_one_direction():
    generator = torch.Generator().manual_seed(0)
    isotropic = torch.randn(4000, 8, 32, generator=generator)
    assert metrics.spread(isotropic) == pytest.approx(1, abs=0.01)
    one_way = torch.rand(100, 1, generator=generator) * torch.randn(1, 16, generator=generator)
    assert metrics.spread(one_way) == pytest.approx(0, abs=1e-3)


def test_effective_rank_counts_equal_directions():
    directions = torch.eye(12)[:5]
    latents = torch.cat([directions, -directions])
    assert metrics.effective_rank(latents + 3) == pytest.approx(5, rel=1e-4)


def test_gain_over_copying_is_one_for_the_truth_and_zero_for_the_copy():
    now, future = torch.rand(2, 4, 3, 8, 8).unbind(0)
    assert metrics.gain_over_copying(future, now, future) == 1
    assert metrics.gain_over_copying(now, now, future) == 0
    assert metrics.gain_over_copying((now + future) / 2, now, future) == pytest.approx(0.75)


def test_z_gain_compares_own_with_shuffled_codes():
    future = torch.rand(4, 3, 8, 8)
    assert metrics.z_gain(future + 0.1, future + 0.2, future) == pytest.approx(0.75, rel=1e-4)
    assert metrics.z_gain(future + 0.1, future + 0.1, future) == 0


def test_moving_pixels_alone_enter_a_masked_error():
    now = torch.zeros(1, 3, 2, 2)
    future = now.clone()
    future[0, :, 0, 0] = 0.5
    mask = metrics.moving_mask(now, future)
    assert mask.sum() == 1
    assert metrics.squared_error(now, future, mask) == pytest.approx(0.25)
    assert metrics.squared_error(now, future, torch.zeros_like(mask)) == 0


@pytest.mark.parametrize("size", [2, 3, 17])
def test_a_derangement_moves_every_item(size):
    order = metrics.derangement(size, torch.Generator().manual_seed(size))
    assert sorted(order.tolist()) == list(range(size))
    assert not (order == torch.arange(size)).any()


def test_one_pair_cannot_be_shuffled():
    with pytest.raises(ValueError, match="give at least 2"):
        metrics.derangement(1)
