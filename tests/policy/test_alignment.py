"""The LARA loss: closed forms, gradients of each option, errors."""

from __future__ import annotations

import copy

import pytest
import torch
from lara_policy.alignment import AlignmentOptions, LaraAlignment, scale_gradient

BATCH, TOKENS, HIDDEN, LATENTS, DIM = 12, 5, 16, 4, 3


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(BATCH, TOKENS, HIDDEN, generator=generator, requires_grad=True)
    latents = torch.randn(BATCH, LATENTS, DIM, generator=generator, requires_grad=True)
    return hidden, latents


def alignment(**options) -> LaraAlignment:
    torch.manual_seed(0)
    return LaraAlignment(HIDDEN, LATENTS, DIM, AlignmentOptions(**options))


def test_the_papers_loss_is_one_minus_the_flattened_cosine_at_the_last_token():
    torch.manual_seed(0)
    paper = LaraAlignment(HIDDEN, LATENTS, DIM, AlignmentOptions.paper_exact())
    hidden, latents = pair()
    predicted = hidden[:, -1] @ paper.projector[0].weight.T + paper.projector[0].bias
    expected = 1 - torch.nn.functional.cosine_similarity(predicted, latents.flatten(1), dim=1).mean()
    assert torch.allclose(paper(hidden, latents).loss, expected)
    assert (AlignmentOptions.paper_exact().w1, AlignmentOptions.paper_exact().w2) == (0.01, 0.01)


def test_a_perfect_prediction_costs_nothing():
    aligned = LaraAlignment(LATENTS * DIM, LATENTS, DIM, AlignmentOptions())
    torch.nn.init.eye_(aligned.projector[0].weight)
    torch.nn.init.zeros_(aligned.projector[0].bias)
    _, latents = pair()
    out = aligned(3 * latents.flatten(1) + 5, latents)  # any scale, any common mean
    assert out.loss.item() == pytest.approx(0, abs=1e-6)
    assert out.monitors["retrieval"] == 1
    assert out.monitors["centered_cosine"].item() == pytest.approx(1, abs=1e-6)


def test_a_constant_z_satisfies_the_plain_cosine_and_not_the_centred_one():
    constant = torch.ones(BATCH, LATENTS, DIM)
    plain = alignment(center=False)
    torch.nn.init.zeros_(plain.projector[0].weight)
    torch.nn.init.ones_(plain.projector[0].bias)
    centered = copy.deepcopy(plain)
    centered.options = AlignmentOptions(center=True)
    hidden, _ = pair()
    assert plain(hidden, constant).loss.item() == pytest.approx(0, abs=1e-6)
    assert centered(hidden, constant).loss.item() == pytest.approx(1)


def test_centring_makes_the_loss_blind_to_a_common_mean():
    hidden, latents = pair()
    centered = alignment(center=True)
    assert torch.allclose(centered(hidden, latents).loss, centered(hidden, latents + 7).loss, atol=1e-5)


def test_per_token_is_the_mean_of_each_tokens_cosine():
    hidden, latents = pair()
    each = alignment(per_token=True, center=False)
    predicted = each.projector(hidden[:, -1]).unflatten(-1, (LATENTS, DIM))
    expected = 1 - torch.nn.functional.cosine_similarity(predicted, latents, dim=-1).mean()
    assert torch.allclose(each(hidden, latents).loss, expected)


def test_tokens_are_the_last_their_mean_or_all():
    hidden, latents = pair()
    last = alignment(token="last", center=False)
    assert torch.equal(last(hidden, latents).loss, last(hidden[:, -1], latents).loss)
    mean = alignment(token="mean", center=False)
    assert torch.equal(mean(hidden, latents).loss, mean(hidden.mean(1), latents).loss)
    every = alignment(token="all", center=False)
    singly = torch.stack([every(hidden[:, token], latents).loss for token in range(TOKENS)])
    assert torch.allclose(every(hidden, latents).loss, singly.mean())


def gradients(options: dict, **call) -> tuple[bool, bool, bool]:
    """Whether hidden, latents and projector get a gradient."""
    hidden, latents = pair()
    module = alignment(**options)
    module(hidden, latents, **call).loss.backward()

    def moved(tensor: torch.Tensor) -> bool:
        return tensor.grad is not None and bool(tensor.grad.abs().sum() > 0)

    return moved(hidden), moved(latents), moved(module.projector[0].weight)


def test_each_detachment_moves_exactly_the_rest():
    assert gradients({}) == (True, True, True)
    assert gradients({"latent_gradient_scale": 0.0}) == (True, False, True)
    assert gradients({"detach_hidden": True}) == (False, True, True)
    assert gradients({}, unlabeled=True) == (True, False, True)


def test_a_scaled_gradient_is_that_share_of_it():
    values = torch.randn(5, requires_grad=True)
    scaled = scale_gradient(values, 0.25)
    assert torch.equal(scaled, values)
    scaled.sum().backward()
    assert torch.allclose(values.grad, torch.full((5,), 0.25))


def test_masked_pairs_change_nothing_not_even_as_nan():
    mask = torch.arange(BATCH) < 7
    hidden, latents = pair()
    for center in (True, False):
        module = alignment(center=center)
        wrong_hidden, wrong_latents = hidden.detach().clone(), latents.detach().clone()
        wrong_hidden[~mask], wrong_latents[~mask] = float("nan"), float("nan")
        expected = module(hidden[mask], latents[mask]).loss
        assert torch.allclose(module(wrong_hidden, wrong_latents, mask=mask).loss, expected, atol=1e-6)


def test_masked_nan_gives_no_nan_gradient():
    mask = torch.arange(BATCH) < 7
    hidden, latents = (values.detach().clone() for values in pair())
    latents[~mask] = float("nan")
    hidden.requires_grad_(True)
    latents.requires_grad_(True)
    alignment()(hidden, latents, mask=mask).loss.backward()
    assert hidden.grad.isfinite().all()
    assert hidden.grad[~mask].abs().sum() == 0
    assert latents.grad.isfinite().all()


def test_no_pair_is_no_loss_and_no_monitor():
    hidden, latents = pair()
    out = alignment()(hidden, latents, mask=torch.zeros(BATCH, dtype=torch.bool))
    assert out.loss == 0
    assert out.monitors == {}


def test_tau_min_leaves_noisy_samples_out_and_stop_step_all():
    hidden, latents = pair()
    tau = torch.linspace(0, 1, BATCH)
    module = alignment(tau_min=0.5)
    expected = module(hidden, latents, mask=tau >= 0.5, tau=torch.ones(BATCH)).loss
    assert torch.allclose(module(hidden, latents, tau=tau).loss, expected)
    stopped = alignment(stop_step=100)
    assert stopped(hidden, latents, step=99).loss > 0
    assert stopped(hidden, latents, step=100).loss == 0


def test_any_embedding_can_be_the_target():
    module = LaraAlignment(HIDDEN, 1, 7, AlignmentOptions())
    assert module(pair()[0], torch.randn(BATCH, 7)).loss.isfinite()


def test_shapes_that_do_not_fit_are_named():
    hidden, latents = pair()
    with pytest.raises(ValueError, match=r"projector takes \(B, T, 16\)"):
        alignment()(hidden[..., :8], latents)
    with pytest.raises(ValueError, match=r"built for z of \(B, 4, 3\)"):
        alignment()(hidden, latents[:, :2])
    with pytest.raises(ValueError, match="12 hidden states and 3 latents"):
        alignment()(hidden, latents[:3])
    with pytest.raises(ValueError, match="give tau"):
        alignment(tau_min=0.5)(hidden, latents)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": "first"}, "takes one of last, mean, all"),
        ({"projector": "deep"}, "takes one of linear, mlp"),
        ({"w1": -1.0}, "takes 0"),
        ({"tau_min": 1.0}, "flow time"),
        ({"stop_step": -1}, "optimizer step"),
    ],
)
def test_options_are_validated_on_construction(options, message):
    with pytest.raises(ValueError, match=message):
        AlignmentOptions(**options)
