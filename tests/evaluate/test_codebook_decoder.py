"""Intervals, codebook, decoder and image figures against their closed forms."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lara_tokenizer import evaluate, metrics
from lara_tokenizer.evaluate.codebook import codebook_figures
from lara_tokenizer.evaluate.decoder import COPY, OWN, SHUFFLED, decoder_figures, squared_errors
from lara_tokenizer.evaluate.figures import RESAMPLES, Estimate, estimate, resamples, rounded, sums_by_episode
from lara_tokenizer.evaluate.probes import Split, cross_fit_splits
from lara_tokenizer.evaluate.ridge import Ridge


def test_resamples_draw_as_many_episodes_as_there_are_and_the_first_each_once():
    weights_RE = resamples(7, seed=0)
    assert weights_RE.shape == (1 + RESAMPLES, 7)
    assert (weights_RE[0] == 1).all()
    assert (weights_RE.sum(1) == 7).all()
    assert np.array_equal(weights_RE, resamples(7, seed=0))


def test_an_interval_of_a_mean_is_about_two_standard_errors_wide():
    values_E = np.random.default_rng(0).normal(size=400)
    low, high = estimate(resamples(400, 0) @ values_E / 400).interval
    assert (high - low) / 2 == pytest.approx(1.96 / 400**0.5, rel=0.1)


def test_what_is_no_number_is_null_and_a_count_stays_whole():
    assert rounded(float("nan")) is None
    assert str(rounded(-1e-9)) == "0.0"
    assert json.dumps(Estimate(3).to_dict()) == '{"value": 3, "interval": null}'
    assert estimate(np.full(9, np.nan)) == Estimate(None, [None, None])
    assert estimate(np.full(9, np.nan)).bounds is None


def test_sums_go_to_the_episodes_of_the_pairs():
    sums = sums_by_episode(np.array([[1.0], [2.0], [4.0]]), np.array([9, 5, 9]), np.array([5, 9]))
    assert sums.tolist() == [[2.0], [5.0]]


def test_more_features_than_pairs_give_the_same_ridge_as_its_normal_equations():
    rng = np.random.default_rng(4)
    x, y, penalty = rng.normal(size=(10, 30)), rng.normal(size=(10, 2)), 0.1
    solver = Ridge(x)
    (weights,) = solver.left @ solver.rotated(y, np.array([penalty]))
    assert np.allclose((x.T @ x / 10 + penalty * np.eye(30)) @ weights, x.T @ y / 10)


def test_a_split_is_made_of_episodes_and_can_take_no_episode_apart():
    episode_P = np.random.default_rng(0).integers(0, 11, 300)
    for split in cross_fit_splits(episode_P):
        for episode in np.unique(episode_P):
            mine = episode_P == episode
            sides = [side[mine] for side in (split.train, split.validation, split.test)]
            assert sum(bool(side.any()) for side in sides) == 1
            assert sum(bool(side.all()) for side in sides) == 1
    with pytest.raises(TypeError):
        Split(train=np.array([True]), validation=np.array([False]), test=np.array([False]))
    assert "Split" not in evaluate.__all__


def test_a_codebook_of_constant_positions_is_dead_however_many_codes_are_used():
    codes = torch.arange(4).expand(50, 4)
    figures = codebook_figures(codes, 8)
    assert figures.perplexity == pytest.approx(4)
    assert figures.perplexity_per_position == [1, 1, 1, 1]
    assert (figures.dead_positions, figures.dead_codes, figures.used_share) == (4, 4, 0.5)
    assert figures.dead_codes_per_position == [7, 7, 7, 7]
    assert figures.counts[2] == [0, 0, 50, 0, 0, 0, 0, 0]
    assert codebook_figures(torch.tensor([[0]]), 8).possible == 1


def test_gains_pool_errors_over_episodes_before_they_divide():
    errors = np.zeros((2, 3, 2))
    errors[:, OWN] = [[1, 1], [3, 0]]
    errors[:, SHUFFLED] = [[2, 2], [6, 2]]
    errors[:, COPY] = [[4, 1], [12, 1]]
    figures = decoder_figures(errors, {"all": None, "moving": None}, 0)
    assert figures.z_gain == Estimate(0.5, [0.5, 0.5])
    assert figures.gain_over_copying.value == 0.75
    assert figures.z_gain_moving.value == 0.75
    assert figures.gain_over_copying_moving.value == 0.5


def test_squared_errors_count_all_and_moving_pixels():
    now, future = torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    future[0, :, 0, 0] = 255
    half = torch.full((1, 3, 2, 2), 0.5)
    assert squared_errors([half, now.float()], now, future).tolist() == [[[3.0, 0.75], [3.0, 3.0]]]


def test_mean_cosine_is_the_mean_over_all_pairs_of_two():
    z = torch.randn(20, 2, 3, generator=torch.Generator().manual_seed(0))
    u = torch.nn.functional.normalize(z.flatten(1), dim=1)
    cosines = (u @ u.T)[~torch.eye(20, dtype=torch.bool)]
    assert float(metrics.mean_cosine(z)) == pytest.approx(float(cosines.mean()), abs=1e-6)
    assert float(metrics.mean_cosine(torch.ones(5, 4))) == pytest.approx(1)


def test_ssim_is_one_for_equal_images_and_has_its_closed_form_for_flat_ones():
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert metrics.ssim(image, image).tolist() == pytest.approx([1, 1], abs=1e-5)
    light, dark = torch.full((1, 3, 16, 16), 0.8), torch.full((1, 3, 16, 16), 0.4)
    expected = (2 * 0.8 * 0.4 + 1e-4) / (0.8**2 + 0.4**2 + 1e-4)
    assert float(metrics.ssim(light, dark)) == pytest.approx(expected, abs=1e-3)


def test_psnr_is_a_logarithm_of_the_mean_squared_error():
    error = torch.full((2, 3, 4, 4), 0.1)
    error[1] = 0.01
    assert metrics.psnr(error, torch.zeros_like(error)).tolist() == pytest.approx([20, 40], abs=1e-3)
