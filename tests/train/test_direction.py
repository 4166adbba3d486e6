"""The direction loss: closed forms, and what a batch in both directions holds."""

from __future__ import annotations

import pytest
import torch

from lara_tokenizer.train.direction import (
    DIRECTION_SPREAD,
    antisymmetric_spread,
    both_directions,
    direction_loss,
)


def test_a_z_that_is_blind_to_time_has_no_antisymmetric_part_and_pays_the_full_loss():
    z = torch.randn(32, 4, 8)
    assert antisymmetric_spread(torch.cat([z, z])).max() < 2e-3
    assert direction_loss(torch.cat([z, z])) == pytest.approx(DIRECTION_SPREAD, abs=2e-3)


def test_an_antisymmetric_z_spreads_by_the_root_of_two_times_its_own_spread_and_pays_nothing():
    z = torch.randn(4096, 2, 3)
    torch.testing.assert_close(antisymmetric_spread(torch.cat([z, -z])), torch.full((2, 3), 2**0.5), rtol=0.05, atol=0)
    assert direction_loss(torch.cat([z, -z])) == 0


def test_the_loss_pulls_the_two_directions_apart():
    z = (torch.randn(16, 2, 3) * 0.01).requires_grad_()
    there, back = torch.zeros(8, 2, 3), z[:8]
    before = direction_loss(torch.cat([there, back]))
    before.backward()
    assert direction_loss(torch.cat([there, (z - 0.5 * z.grad.sign())[:8]])) < before


def test_both_directions_are_the_pairs_and_then_the_pairs_reversed():
    now, future = torch.zeros(3, 2), torch.ones(3, 2)
    first, second = both_directions(now, future)
    assert torch.equal(first, torch.cat([now, future]))
    assert torch.equal(second, torch.cat([future, now]))
