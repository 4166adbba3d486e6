"""The quantizer: nearest codes, both losses, straight-through gradients, counters, revival."""

from __future__ import annotations

import pytest
import torch

from lara_tokenizer.model.bottleneck_vq import VectorQuantizer, perplexity


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(codebook_size=16, codebook_dim=4)
    torch.nn.init.normal_(quantizer.codebook.weight)
    return quantizer.eval()


def test_a_code_is_its_own_nearest_neighbour(quantizer):
    codes_BN = torch.arange(16).reshape(2, 8)
    out = quantizer(quantizer.codebook(codes_BN).detach())
    assert torch.equal(out.codes, codes_BN)
    assert torch.equal(out.quantized_latents, quantizer.codebook(codes_BN))
    assert not out.codebook_loss.any()
    assert not out.commitment_loss.any()


def test_codes_and_margins_are_those_of_a_brute_force_search(quantizer):
    latents_BND = torch.randn(5, 3, 4)
    out = quantizer(latents_BND)
    squares_BNK = (latents_BND.unsqueeze(2) - quantizer.codebook.weight).square().sum(-1)
    ordered = squares_BNK.sort(-1).values
    assert torch.equal(out.codes, squares_BNK.argmin(-1))
    torch.testing.assert_close(out.code_margin, ordered[..., 1] - ordered[..., 0], rtol=1e-4, atol=1e-5)
    assert (out.code_margin >= 0).all()


def test_both_losses_are_the_mean_square_distance_of_each_pair(quantizer):
    latents_BND = torch.randn(5, 3, 4)
    out = quantizer(latents_BND)
    distance_B = (latents_BND - quantizer.codebook(out.codes)).square().mean((1, 2))
    torch.testing.assert_close(out.codebook_loss, distance_B)
    torch.testing.assert_close(out.commitment_loss, distance_B)


def test_the_straight_through_gradient_is_the_identity(quantizer):
    latents_BND = torch.randn(2, 3, 4, requires_grad=True)
    cotangent_BND = torch.randn(2, 3, 4)
    quantizer(latents_BND).quantized_latents.backward(cotangent_BND)
    assert torch.equal(latents_BND.grad, cotangent_BND)
    assert quantizer.codebook.weight.grad is None


def test_the_codebook_loss_moves_codes_only_and_the_commitment_loss_latents_only(quantizer):
    latents_BND = torch.randn(2, 3, 4, requires_grad=True)
    quantizer(latents_BND).codebook_loss.sum().backward()
    assert latents_BND.grad is None
    assert quantizer.codebook.weight.grad.any()
    quantizer.zero_grad()
    quantizer(latents_BND).commitment_loss.sum().backward()
    assert latents_BND.grad.any()
    assert quantizer.codebook.weight.grad is None


def test_a_step_on_the_codebook_loss_brings_codes_closer(quantizer):
    latents_BND = torch.randn(8, 3, 4)
    before = quantizer(latents_BND).codebook_loss.sum()
    before.backward()
    with torch.no_grad():
        quantizer.codebook.weight -= 0.1 * quantizer.codebook.weight.grad
    assert quantizer(latents_BND).codebook_loss.sum() < before


def test_usage_is_counted_in_training_and_only_there(quantizer):
    latents_BND = torch.randn(6, 3, 4)
    codes_BN = quantizer(latents_BND).codes
    assert not quantizer.code_usage.any()
    quantizer.train()
    quantizer(latents_BND)
    quantizer(latents_BND)
    assert torch.equal(quantizer.code_usage, 2 * torch.bincount(codes_BN.flatten(), minlength=16))


def test_while_continuous_latents_pass_unchanged_and_cost_nothing(quantizer):
    latents_BND = torch.randn(2, 3, 4)
    nearest_BN = quantizer(latents_BND).codes
    quantizer.continuous = True
    out = quantizer(latents_BND)
    assert torch.equal(out.quantized_latents, latents_BND)
    assert torch.equal(out.codes, nearest_BN)
    assert not out.codebook_loss.any()
    assert not out.commitment_loss.any()


def test_k_means_finds_separated_clusters(quantizer):
    centers_KD = 10 * torch.eye(4).repeat(4, 1) * torch.arange(1, 17).unsqueeze(1)
    noise_BND = 0.01 * torch.randn(40, 16, 4)
    quantizer.code_usage += 3
    quantizer.start_codebook(centers_KD + noise_BND, iterations=30)
    out = quantizer(centers_KD.unsqueeze(0))
    # A random start may put two centers into one cluster; it never leaves the data, and most clusters get one.
    assert out.codes.unique().numel() >= 9
    assert not quantizer.code_usage.any()


def test_k_means_lowers_the_error_and_is_a_function_of_its_seed(quantizer):
    latents_BND = torch.randn(50, 4, 4)
    before = quantizer(latents_BND).codebook_loss.mean()
    quantizer.start_codebook(latents_BND, seed=1)
    started = quantizer.codebook.weight.clone()
    assert quantizer(latents_BND).codebook_loss.mean() < before
    quantizer.start_codebook(latents_BND, seed=1)
    assert torch.equal(quantizer.codebook.weight, started)


def test_k_means_of_few_latents_says_how_many_it_needs(quantizer):
    with pytest.raises(ValueError, match="16 codes needs at least as many latents, got 6"):
        quantizer.start_codebook(torch.randn(2, 3, 4))


def test_dead_codes_move_onto_latents_and_living_ones_stay(quantizer):
    latents_BND = torch.randn(6, 3, 4)
    before_KD = quantizer.codebook.weight.clone()
    quantizer.code_usage[:5] = 1
    assert quantizer.revive_dead_codes(latents_BND) == 11
    after_KD = quantizer.codebook.weight
    assert torch.equal(after_KD[:5], before_KD[:5])
    points_MD = latents_BND.flatten(0, 1)
    assert all((points_MD == code_D).all(-1).any() for code_D in after_KD[5:])
    assert not quantizer.code_usage.any()


def test_with_every_code_alive_nothing_moves(quantizer):
    before_KD = quantizer.codebook.weight.clone()
    quantizer.code_usage += 1
    assert quantizer.revive_dead_codes(torch.randn(6, 3, 4)) == 0
    assert torch.equal(quantizer.codebook.weight, before_KD)


def test_wrong_width_names_both_widths():
    with pytest.raises(ValueError, match="width 5, the codebook has 4"):
        VectorQuantizer(16, 4)(torch.randn(2, 8, 5))


def test_looking_up_a_code_that_is_not_there_names_the_range(quantizer):
    with pytest.raises(ValueError, match="run from -1 to 16, this codebook has 0 to 15"):
        quantizer.lookup(torch.tensor([[-1, 16]]))


def test_perplexity_counts_codes_in_use():
    assert perplexity(torch.zeros(4, 2, dtype=torch.long), 8) == 1
    torch.testing.assert_close(perplexity(torch.arange(8).reshape(2, 4), 8), torch.tensor(8.0))
    torch.testing.assert_close(perplexity(torch.tensor([0, 0, 3, 3]), 8), torch.tensor(2.0))
