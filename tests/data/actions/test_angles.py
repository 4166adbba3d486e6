"""Angles that wrap are told from all else that jumps."""

from __future__ import annotations

import numpy as np
import pytest

from lara_tokenizer.data.actions.angles import periods, unwrapped

RADIANS, DEGREES = 2 * np.pi, 360.0


def wrapped(angle: np.ndarray, turn: float, start: float) -> np.ndarray:
    return ((angle - start) % turn + start)[:, None]


@pytest.mark.parametrize("turn", [RADIANS, DEGREES])
@pytest.mark.parametrize("low", [-0.5, 0.0])
def test_a_turn_is_followed_through_the_seam_whatever_its_unit(turn, low):
    angle = turn * np.cumsum(np.random.default_rng(0).normal(size=200) * 0.02 + 0.005)
    values = wrapped(angle, turn, low * turn)
    assert np.ptp(angle) > turn
    assert periods(values) == [turn]
    assert np.allclose(np.diff(unwrapped(values)[:, 0]), np.diff(angle))


def test_a_name_is_enough_where_an_angle_moves_by_leaps():
    values = wrapped(np.arange(20) * 2.2, RADIANS, -np.pi)
    assert periods(values) == [0.0]
    assert np.allclose(np.diff(unwrapped(values, ["yaw"])[:, 0]), 2.2)


@pytest.mark.parametrize(
    "values",
    [
        np.where(np.arange(60) % 20 < 10, -3.0, 3.0),  # a hand's command between two ends
        np.where(np.arange(60) % 20 < 10, 0.0, 255.0),  # a gripper's
        np.repeat([0.0, 340.0, 20.0], 20),  # millimetres
        np.random.default_rng(0).uniform(-3.1, 3.1, 60),  # noise
        np.linspace(-3.1, 3.1, 60),  # a joint that sweeps its range
        np.linspace(-400.0, 400.0, 60),
    ],
)
def test_jumps_of_other_things_stay(values):
    assert periods(values[:, None]) == [0.0]
    assert np.array_equal(unwrapped(values[:, None]), values[:, None])


def test_names_in_degrees_or_normalized_units_change_nothing():
    values = np.where(np.arange(60) % 20 < 10, -95.0, 95.0)[:, None]  # an SO-100's wrist, -100 to 100
    assert np.array_equal(unwrapped(values, ["wrist_roll.pos"]), values)


def test_damaged_and_empty_rows_pass_through():
    values = np.array([[3.0], [np.nan], [-3.0]])
    assert np.array_equal(unwrapped(values, ["yaw"]), values, equal_nan=True)
    assert unwrapped(np.zeros((0, 2))).shape == (0, 2)
    assert periods(np.zeros((1, 2))) == [0.0, 0.0]
