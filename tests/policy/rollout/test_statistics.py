"""Rates: Wilson's interval from its definition, conditional rates from known outcomes."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import pytest
from lara_policy.rollout.episode import EpisodeResult
from lara_policy.rollout.statistics import rate, summarize, wilson_interval

Z = NormalDist().inv_cdf(0.975)


@pytest.mark.parametrize(("successes", "trials"), [(31, 50), (1, 3), (199, 200)])
def test_the_bounds_are_where_the_score_test_just_rejects(successes, trials):
    # Wilson (1927): the bounds p solve |successes / trials - p| = z sqrt(p (1 - p) / trials).
    for bound in wilson_interval(successes, trials):
        assert abs(successes / trials - bound) == pytest.approx(Z * sqrt(bound * (1 - bound) / trials), rel=1e-9)


def test_the_interval_at_the_ends_has_its_closed_form():
    assert wilson_interval(0, 10) == (0.0, pytest.approx(Z**2 / (10 + Z**2)))
    assert wilson_interval(10, 10) == (pytest.approx(10 / (10 + Z**2)), 1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_failures_have_the_mirrored_interval():
    low, high = wilson_interval(13, 40)
    assert wilson_interval(27, 40) == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_people_read_counts_and_percent():
    assert rate(31, 50)["text"] == "31 of 50, 62 % (48 to 74)"
    assert rate(0, 0) == {"successes": 0, "trials": 0, "rate": None, "interval": [0.0, 1.0], "text": "0 of 0"}


@pytest.mark.parametrize("counts", [(3, 2), (-1, 2)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="takes 0 to all of them"):
        wilson_interval(*counts)


def episode(index: int, success: int | None, near: int | None, **stages: int | None) -> EpisodeResult:
    return EpisodeResult("metaworld:fake", index, 40, 5, success, {"near_object": near, **stages})


def test_conditional_rates_count_the_episodes_that_reached_the_stage():
    # Two reached it and succeeded, one reached it and failed, one succeeded without, one did neither.
    summary = summarize(
        [episode(0, 10, 4), episode(1, 20, 8), episode(2, None, 9), episode(3, 30, None), episode(4, None, None)]
    )
    near = summary["stages"]["near_object"]
    assert (summary["success"]["successes"], summary["success"]["trials"]) == (3, 5)
    assert (near["reached"]["successes"], near["reached"]["trials"]) == (3, 5)
    assert (near["success_given_reached"]["successes"], near["success_given_reached"]["trials"]) == (2, 3)
    assert summary["mean_success_step"] == 20


def test_a_stage_counts_only_for_tasks_that_report_it():
    summary = summarize([episode(0, 10, 4, grasp_success=6), episode(1, None, None)])
    assert summary["stages"]["grasp_success"]["reached"]["trials"] == 1
    assert summary["stages"]["near_object"]["reached"]["trials"] == 2


def test_nothing_reached_gives_no_conditional_rate():
    summary = summarize([episode(0, None, None)])
    assert summary["stages"]["near_object"]["success_given_reached"]["rate"] is None
    assert summary["mean_success_step"] is None
