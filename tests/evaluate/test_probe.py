"""Ridge against its closed form; a planted signal is found, noise is not, and what frame t tells is not counted."""

from __future__ import annotations

import numpy as np
import pytest

from lara_tokenizer.evaluate.probe import (
    fit_probe,
    principal_components,
    probe_actions,
    ridge,
    split_by_episode,
    standardise,
)

EPISODES, PAIRS = 100, 8


@pytest.fixture(scope="module")
def world() -> dict[str, np.ndarray]:
    """Frames whose brightness tells a part of the action (4 numbers); the rest is free."""
    rng = np.random.default_rng(0)
    count = EPISODES * PAIRS
    seen, free = rng.normal(size=(count, 4)), rng.normal(size=(count, 4))
    frames = np.zeros((count, 3, 4, 4), np.uint8)
    frames[:, :, :2, :2] = np.clip(128 + 40 * seen, 0, 255).reshape(count, 1, 2, 2)
    noise = rng.integers(0, 255, (count, 3, 4, 4)).astype(np.uint8)
    return {
        "frames_P": frames,
        "future_frames_P": noise,
        "actions_PA": seen + free,
        "episode_P": np.repeat(np.arange(EPISODES), PAIRS),
        "free": free,
        "seen": seen,
        "noise": rng.normal(size=(count, 6)),
    }


def _probe(world, **latents):
    named = ("frames_P", "future_frames_P", "actions_PA", "episode_P")
    return probe_actions(latents, **{name: world[name] for name in named})


def test_ridge_is_least_squares_without_a_penalty_and_zero_under_a_huge_one():
    rng = np.random.default_rng(1)
    x, true = rng.normal(size=(50, 3)), rng.normal(size=(3, 2))
    assert np.allclose(ridge(x, x @ true, 0.0), true)
    assert np.abs(ridge(x, x @ true, 1e6)).max() < 1e-4


def test_ridge_of_one_feature_is_the_textbook_fraction():
    x, y = np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [3.0], [7.0]])
    assert ridge(x, y, 0.5) == pytest.approx((29 / 3) / (14 / 3 + 0.5))


def test_no_episode_is_on_two_sides_of_the_split():
    episodes = np.repeat(np.arange(50), 3)
    split = split_by_episode(episodes)
    sides = [set(episodes[mask]) for mask in (split.train, split.validation, split.test)]
    assert [len(side) for side in sides] == [30, 10, 10]
    assert len(set.union(*sides)) == 50
    with pytest.raises(ValueError, match="give at least 5"):
        split_by_episode(np.arange(4))


def test_standardising_uses_the_training_rows_alone_and_a_constant_column_becomes_zero():
    values = np.array([[1.0, 5.0], [3.0, 5.0], [100.0, 5.0]])
    out = standardise(values, np.array([True, True, False]))
    assert out[:, 0].tolist() == [-1, 1, 98]
    assert not out[:, 1].any()


def test_principal_components_keep_what_lies_in_few_directions():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 40))
    train = np.arange(60) < 40
    scores = principal_components(values, train, 3)
    centred = values - values[train].mean(0)
    assert np.allclose(np.linalg.norm(scores, axis=1), np.linalg.norm(centred, axis=1), rtol=1e-3)
    assert np.abs(np.corrcoef(scores[train].T) - np.eye(3)).max() < 0.01


def test_a_perfect_feature_has_r2_one_and_noise_has_about_none(world):
    split = split_by_episode(world["episode_P"])
    y = standardise(world["free"], split.train)
    assert fit_probe(y, y, world["episode_P"], split).r2()[0] > 0.999
    assert abs(fit_probe(world["noise"], y, world["episode_P"], split).r2()[0]) < 0.05


def test_a_planted_signal_adds_to_frame_t_beyond_every_control(world):
    result = _probe(world, z=world["free"])
    assert result["frame_r2"] == pytest.approx(0.5, abs=0.1)
    assert result["rows"]["z"]["conditional_r2"] == pytest.approx(0.5, abs=0.1)
    assert set(result["margins"]) == {"mean", "shuffled", "pixel_difference"}
    for margin in result["margins"].values():
        low, high = margin["interval"]
        assert 0.3 < low < margin["difference"] < high


def test_noise_adds_nothing(world):
    result = _probe(world, z=world["noise"])
    assert result["rows"]["z"]["conditional_r2"] == pytest.approx(0, abs=0.03)
    low, high = result["margins"]["shuffled"]["interval"]
    assert low < 0 < high


def test_what_frame_t_tells_already_is_not_counted_for_z(world):
    row = _probe(world, z=world["seen"])["rows"]["z"]
    assert row["r2"] > 0.35
    assert row["conditional_r2"] == pytest.approx(0, abs=0.03)


def test_two_calls_give_the_same_numbers(world):
    assert _probe(world, z=world["free"]) == _probe(world, z=world["free"])
