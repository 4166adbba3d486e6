"""Training stops with one sentence when z or the codebook collapses, and not before."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lara_tokenizer.train.watch.monitor import CHECK_COST, CHECK_SHARE, CollapseError, CollapseMonitor, is_check

HEALTHY = {"spread": 0.9, "perplexity": 60.0}


def test_a_healthy_run_is_silent():
    monitor = CollapseMonitor(0)
    for step in range(0, 1000, 50):
        monitor.check(step, HEALTHY, codebook=True)


def test_a_dead_z_stops_the_run_with_a_sentence():
    with pytest.raises(CollapseError, match=r"^stopped at step 500: z collapsed: its spread is 0\.100") as error:
        CollapseMonitor(0, patience=1).check(500, {**HEALTHY, "spread": 0.1}, codebook=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("perplexity", [1.0, 14.9, math.nan])
def test_a_dead_codebook_stops_the_run(perplexity):
    monitor = CollapseMonitor(0, patience=1)
    monitor.check(100, HEALTHY, codebook=True)
    with pytest.raises(CollapseError, match="the codebook collapsed"):
        monitor.check(200, {**HEALTHY, "perplexity": perplexity}, codebook=True)


def test_nothing_stops_the_run_in_its_grace_period():
    CollapseMonitor(300, patience=1).check(299, {"spread": 0.0, "perplexity": 1.0}, codebook=True)


def test_the_codebook_does_not_count_while_z_is_continuous():
    CollapseMonitor(0, patience=1).check(100, {**HEALTHY, "perplexity": 1.0}, codebook=False)


def test_one_bad_check_between_good_ones_is_forgiven():
    monitor = CollapseMonitor(0)
    dead = {**HEALTHY, "spread": 0.0}
    for measured in (dead, dead, HEALTHY, dead, dead):
        monitor.check(100, measured, codebook=True)
    with pytest.raises(CollapseError):
        monitor.check(100, dead, codebook=True)


@pytest.mark.parametrize(("log_steps", "batch_size", "heldout"), [(1, 8, 256), (10, 16, 14), (50, 64, 256), (7, 3, 50)])
def test_checks_cost_at_most_their_share_and_the_last_log_has_one(log_steps, batch_size, heldout):
    steps = range(log_steps, 10_000, log_steps)
    checks = [step for step in steps if is_check(step, log_steps, batch_size, heldout, last=10**9)]
    assert len(checks) * heldout * CHECK_COST <= CHECK_SHARE * steps[-1] * batch_size
    assert len(np.unique(np.diff(checks))) == 1
    assert is_check(9 * log_steps, log_steps, batch_size, heldout, last=10 * log_steps - 1)
