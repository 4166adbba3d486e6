"""The arena's training: where a run ends, which learning rates are tried, in which order runs are made."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from arena import missing
from arena_train import BATCH, BLOCK, RATE_LIMITS, WARMUP, Loop, is_plateau, next_rate
from arena_variants import ENTRIES, RECIPES
from torch import nn


def test_a_run_ends_after_two_checks_in_a_row_without_gain():
    rising = [0.1, 0.2, 0.25]
    assert not is_plateau(rising)
    assert not is_plateau([*rising, 0.255])
    assert is_plateau([*rising, 0.255, 0.259])  # .009 above the best before them
    assert not is_plateau([*rising, 0.255, 0.27])
    assert not is_plateau([*rising, 0.255, 0.27, 0.271])  # the first of two without gain


def test_a_dip_is_no_gain_and_its_end_neither():
    assert is_plateau([0.1, 0.3, 0.2, 0.3])


def test_a_decoder_that_does_not_use_z_yet_is_at_no_plateau():
    assert not is_plateau([0.001] * 10)
    assert not is_plateau([0.001] * 10 + [0.1, 0.2])


def _tried(gain) -> dict[float, float]:
    """The gains of all rates that are tried under a law of rate -> gain."""
    gains: dict[float, float] = {}
    while (rate := next_rate(gains)) is not None:
        gains[rate] = gain(rate)
    return gains


@pytest.mark.parametrize("optimum", [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2])
def test_the_best_rate_has_a_worse_neighbour_on_each_side(optimum):
    gains = _tried(lambda rate: -abs(torch.log(torch.tensor(rate / optimum))))
    ordered = sorted(gains)
    assert max(gains, key=gains.get) == optimum
    assert ordered[0] < optimum < ordered[-1]
    ratios = [after / before for before, after in itertools.pairwise(ordered)]
    assert max(ratios) < 3.4  # no step between two tried rates is wider than half a decade


def test_a_gain_without_optimum_ends_at_the_limit():
    rates = sorted(_tried(lambda rate: rate))
    assert rates[-1] == RATE_LIMITS[1]
    assert sorted(_tried(lambda rate: -rate))[0] == RATE_LIMITS[0]


class _Pairs:
    """A dataset whose batch is the indices that were asked for."""

    def __getitems__(self, indices):
        return {"frames": list(indices)}


class _Learner:
    """One weight, whose gradient is 1; what it was shown and the rates it learned at are noted."""

    max_grad_norm = None

    def __init__(self):
        self.model = nn.Linear(1, 1, bias=False)
        self.seen, self.rates = [], []

    def optimizer(self, rate):
        self.made = torch.optim.SGD(self.model.parameters(), lr=rate)
        return self.made

    def loss(self, batch):
        self.seen += batch["frames"]
        return self.model.weight.sum()

    def after_step(self, step, total_steps):
        self.rates.append(self.made.param_groups[0]["lr"])


def test_pairs_are_consecutive_and_the_rate_rises_stays_and_falls():
    learner = _Learner()
    loop = Loop(learner, _Pairs(), 1e-2, 2 * BLOCK // BATCH)
    assert loop.run(BLOCK)
    assert loop.run(BLOCK, fall=True)
    assert learner.seen == list(range(2 * BLOCK))
    steps = BLOCK // BATCH
    assert learner.rates[WARMUP - 1 : steps + 1] == [1e-2] * (steps + 2 - WARMUP)
    assert learner.rates[0] == pytest.approx(1e-2 / WARMUP)
    assert learner.rates[-1] == pytest.approx(1e-2 / steps)


def test_a_run_ends_where_its_loss_is_not_finite():
    learner = _Learner()
    learner.loss = lambda batch: learner.model.weight.sum() * float("nan")
    before = learner.model.weight.detach().clone()
    assert not Loop(learner, _Pairs(), 1e-2, 10).run(BLOCK)
    assert torch.equal(learner.model.weight, before)


def test_the_codebook_starts_when_its_warm_up_ends():
    class Bottleneck(SimpleNamespace):
        def start_codebook(self, latents):
            self.started.append(len(learner.rates))

        def revive_dead_codes(self, latents, seed, share):
            self.revived.append(len(learner.rates))
            return 0

    learner = _Learner()
    learner.model.bottleneck = Bottleneck(continuous=False, started=[], revived=[])
    learner.model.config = SimpleNamespace(continuous_steps=3, dead_code_steps=4, dead_code_share=0.4)
    learner.draw_latents = lambda batches, step: None
    loop = Loop(learner, _Pairs(), 1e-2, 10)
    assert loop.continuous
    loop.run(10 * BATCH)
    assert not loop.continuous
    assert (learner.model.bottleneck.started, learner.model.bottleneck.revived) == ([3], [4, 8])


def test_every_prefix_of_the_runs_compares_all_recipes(tmp_path):
    order = list(missing(tmp_path, 2))
    assert len(order) == len({file for *_, file in order}) == 2 * len(ENTRIES)
    assert [entry.recipe for entry, *_ in order[: len(RECIPES)]] == list(RECIPES)
    assert {(entry.stabilised, entry.steady) for entry, *_ in order[: len(RECIPES)]} == {(True, True)}
    assert [seed for _, seed, _ in order] == [0] * len(ENTRIES) + [1] * len(ENTRIES)
    order[0][2].touch()
    assert list(missing(tmp_path, 2)) == order[1:]
