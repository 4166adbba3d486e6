"""Moments with like codes."""

from __future__ import annotations

import numpy as np
import pytest

from lara_tokenizer.view.nearest import equal_by_chance, nearest_moments


@pytest.fixture(scope="module")
def moments():
    """codes (60, 4) of three clips whose pairs overlap with their four neighbours on either side."""
    rng = np.random.default_rng(0)
    frames = np.tile(np.arange(20), 3)
    return rng.integers(0, 5, (60, 4)), np.repeat(np.arange(3), 20), frames, frames + 5


def test_no_moment_is_nearer_than_the_first_neighbour(moments):
    codes, clips, frames, _ = moments
    for moment, neighbours in enumerate(nearest_moments(*moments)):
        apart = (clips != clips[moment]) | (np.abs(frames - frames[moment]) >= 5)
        equal = (codes == codes[moment]).sum(1)
        assert neighbours[0].equal == equal[apart].max()
        assert [each.equal for each in neighbours] == [equal[each.moment] for each in neighbours]
        assert [each.equal for each in neighbours] == sorted((each.equal for each in neighbours), reverse=True)


def test_neighbours_share_no_time_with_the_moment_or_with_each_other(moments):
    _, clips, frames, _ = moments
    for moment, neighbours in enumerate(nearest_moments(*moments)):
        shown = [moment, *(each.moment for each in neighbours)]
        for one in shown:
            assert sum(clips[one] == clips[each] and abs(frames[one] - frames[each]) < 5 for each in shown) == 1


def test_of_equally_near_moments_those_of_other_clips_come_first():
    clips, frames = np.array([0, 0, 1]), np.array([0, 9, 0])
    (first, second) = nearest_moments(np.ones((3, 2), int), clips, frames, frames + 5)[0]
    assert (first.moment, second.moment) == (2, 1)


def test_moments_without_a_code_in_common_are_no_neighbours():
    codes, frames = np.arange(8).reshape(4, 2), np.arange(0, 40, 10)
    assert nearest_moments(codes, np.zeros(4, int), frames, frames + 5) == [[], [], [], []]


def test_chance_is_the_mean_over_all_pairs_of_moments(moments):
    codes = moments[0]
    assert equal_by_chance(codes) == pytest.approx((codes[:, None] == codes[None]).sum(2).mean())
