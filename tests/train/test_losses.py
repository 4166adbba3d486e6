"""The normal flow as a target for z: signs, symmetry, one scale, every cell once."""

from __future__ import annotations

import pytest
import torch

from lara_tokenizer.model import LatentActionConfig
from lara_tokenizer.motion import normal_flow
from lara_tokenizer.train import losses
from lara_tokenizer.train.losses import NormalFlow

G = 8  # cells per side at the default sizes


def _square(x: int, y: int, inside: float, outside: float) -> torch.Tensor:
    frame = torch.full((1, 3, 64, 64), outside)
    frame[..., y : y + 12, x : x + 12] = inside
    return frame


@pytest.fixture(scope="module")
def pairs():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 16, 3, 64, 64, generator=generator)


@pytest.fixture(scope="module")
def flow(pairs):
    return NormalFlow(LatentActionConfig(), *pairs)


def test_the_flow_back_is_minus_the_flow_there(flow, pairs):
    there, back = flow(pairs[0], pairs[1])[0], flow(pairs[1], pairs[0])[0]
    assert torch.equal(there, -back)
    assert not flow(pairs[0], pairs[0])[0].any()


@pytest.mark.parametrize(("inside", "outside"), [(0.9, 0.2), (0.1, 0.8)])
@pytest.mark.parametrize(("x", "y"), [(3, 0), (-3, 0), (0, 2), (0, -2)])
def test_the_sign_is_that_of_the_motion_whatever_the_contrast(inside, outside, x, y):
    values = normal_flow(_square(26, 26, inside, outside), _square(26 + x, 26 + y, inside, outside), G)[0]
    small, large = values.view(2, 2, G, G)
    for scale in (small, large):
        along, across = scale if x else scale.flip(0)
        assert along.sum() * (x or y) > 0
        assert (along * (x or y) > -1e-6).all()
        assert across.sum().abs() < 1e-4 * along.abs().sum()
        # Zero where nothing moves: the square and a margin are in the middle 4 x 4 cells.
        assert scale[:, :1].abs().max() < 1e-6
        assert scale[:, :, -1:].abs().max() < 1e-6


def test_one_scale_makes_the_mean_square_one(flow, pairs):
    assert float(flow(*pairs)[0].square().mean()) == pytest.approx(1, rel=1e-4)


def test_every_number_of_every_cell_appears_once(flow, pairs):
    targets, dims = flow(*pairs)
    assert targets.shape == (16, 8, 32)
    assert dims.tolist() == list(range(32))
    values = normal_flow(*pairs, G)
    values = flow.scale * values / (values.abs() + flow.softness).sqrt()
    torch.testing.assert_close(targets.flatten(1).sort(1).values, values.flatten(1).sort(1).values)


def test_a_token_has_one_cell_in_each_row_and_column(flow, monkeypatch):
    where = torch.arange(G * G, dtype=torch.float32).view(1, 1, G, G).expand(1, 4, G, G)
    monkeypatch.setattr(losses, "normal_flow", lambda now, future, cells: where)
    targets = flow(*torch.zeros(2, 1, 3, 64, 64))[0]
    squares = (targets / flow.scale) ** 2
    cells = (squares + (squares**2 + 4 * flow.softness * squares).sqrt()) / 2
    for token in cells[0]:
        values = token.round().int().unique()
        assert sorted((values // G).tolist()) == list(range(G))
        assert len((values % G).unique()) == G


def test_the_loss_is_zero_on_its_own_target_and_one_on_zeros(flow, pairs):
    targets = flow(*pairs)[0]
    assert flow.loss(targets, *pairs) == 0
    assert float(flow.loss(torch.zeros_like(targets), *pairs)) == pytest.approx(1, rel=1e-4)


def test_dimensions_without_a_target_do_not_enter_the_loss(pairs):
    flow = NormalFlow(LatentActionConfig(codebook_dim=40), *pairs)
    targets, dims = flow(*pairs)
    latents = torch.randn(16, 8, 40)
    latents[..., dims] = targets
    assert len(dims) == 32
    assert flow.loss(latents, *pairs) == 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_latents": 1, "codebook_dim": 2}, "0 x 0 cells"),
        ({"num_latents": 9, "codebook_dim": 16}, "6 x 6 cells, which must divide image_size"),
        ({"num_latents": 6, "codebook_dim": 12}, "cannot be divided evenly among 6"),
    ],
)
def test_sizes_that_hold_no_flow_are_named(pairs, changes, match):
    with pytest.raises(ValueError, match=match):
        NormalFlow(LatentActionConfig(**changes), *pairs)


def test_pairs_in_which_nothing_moves_give_no_scale(pairs):
    with pytest.raises(ValueError, match="nothing moves"):
        NormalFlow(LatentActionConfig(), pairs[0], pairs[0])
