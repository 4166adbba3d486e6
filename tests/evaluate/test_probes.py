"""Ridge against its closed form; a planted signal is found, noise is not, and what frame t predicts is not counted."""

from __future__ import annotations

import numpy as np
import pytest

from lara_tokenizer.evaluate.probes import (
    Probe,
    Split,
    cross_fit_splits,
    pooled_r2,
    probe_actions,
)
from lara_tokenizer.evaluate.ridge import Block, Ridge, Sides, Wide, principal_components, scalings, standardize

EPISODES, PAIRS = 100, 8


@pytest.fixture(scope="module")
def world() -> dict[str, np.ndarray]:
    """Frames whose brightness determines a part of the action (4 dimensions); the rest is free."""
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


def ridge(features, targets, penalties):
    """The weights for each penalty."""
    solver = Ridge(features)
    return solver.left @ solver.rotated(targets, penalties)


def _probe(world, **latents):
    named = ("frames_P", "future_frames_P", "actions_PA", "episode_P")
    return probe_actions(latents, **{name: world[name] for name in named})


def test_ridge_is_least_squares_without_a_penalty_and_zero_under_a_huge_one():
    rng = np.random.default_rng(1)
    x, true = rng.normal(size=(50, 3)), rng.normal(size=(3, 2))
    free, huge = ridge(x, x @ true, np.array([0.0, 1e6]))
    assert np.allclose(free, true)
    assert np.abs(huge).max() < 1e-4


def test_ridge_of_one_feature_is_the_textbook_fraction():
    x, y = np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [3.0], [7.0]])
    assert ridge(x, y, np.array([0.5])) == pytest.approx((29 / 3) / (14 / 3 + 0.5))


def test_ridge_solves_its_normal_equations_for_every_penalty_at_once():
    rng = np.random.default_rng(3)
    x, y, penalties = rng.normal(size=(40, 6)), rng.normal(size=(40, 2)), np.array([1e-4, 0.1, 10.0])
    for weights, penalty in zip(ridge(x, y, penalties), penalties, strict=True):
        assert np.allclose((x.T @ x / 40 + penalty * np.eye(6)) @ weights, x.T @ y / 40)


@pytest.mark.parametrize("episodes", [5, 12, 48])
def test_every_episode_tests_once_and_chooses_lambda_once_and_is_never_on_two_sides(episodes):
    episode_P = np.repeat(np.arange(episodes), 3)
    splits = cross_fit_splits(episode_P)
    for split in splits:
        sides = [set(episode_P[mask]) for mask in (split.train, split.validation, split.test)]
        assert all(sides)
        assert sum(map(len, sides)) == len(set.union(*sides)) == episodes
        assert abs(len(sides[2]) - episodes / 5) < 1
    for name in ("test", "validation"):
        assert (np.sum([getattr(split, name) for split in splits], 0) == 1).all()


def test_fewer_episodes_than_folds_are_refused():
    with pytest.raises(ValueError, match="give at least 5"):
        cross_fit_splits(np.arange(4))


def test_the_episodes_of_a_task_are_spread_over_the_folds():
    task_E = [f"task {index % 6}" for index in range(30)]
    for split in cross_fit_splits(np.arange(30), task_E):
        assert sorted(task_E[index] for index in np.flatnonzero(split.test)) == sorted(set(task_E))


def test_folds_are_a_function_of_the_episodes_and_the_seed():
    def tests(seed):
        return np.stack([split.test for split in cross_fit_splits(np.repeat(np.arange(20), 2), seed=seed)])

    assert np.array_equal(tests(0), tests(0))
    assert not np.array_equal(tests(0), tests(1))


def test_standardising_uses_the_training_rows_alone_and_a_constant_column_becomes_zero():
    values = np.array([[1.0, 5.0], [3.0, 5.0], [100.0, 5.0]])
    out = standardize(values, np.array([True, True, False]))
    assert out[:, 0].tolist() == [-1, 1, 98]
    assert not out[:, 1].any()


def test_principal_components_keep_what_varies_in_few_directions():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 40))
    train = np.arange(60) < 40
    scores = principal_components(values, train, 3)
    centered = values - values[train].mean(0)
    assert np.allclose(np.linalg.norm(scores, axis=1), np.linalg.norm(centered, axis=1), rtol=1e-3)
    assert np.abs(np.corrcoef(scores[train].T) - np.eye(3)).max() < 0.01


def test_a_probe_of_the_answer_gives_it_back_in_its_own_units(world):
    split = cross_fit_splits(world["episode_P"])[0]
    answer = 5 + 3 * world["free"]
    predicted, _ = Probe(world["free"], split).predict(answer)
    assert np.allclose(predicted, answer[split.test], atol=0.01)


def test_a_probe_never_reads_the_targets_of_the_test_pairs(world):
    split = cross_fit_splits(world["episode_P"])[0]
    spoiled = np.where(split.test[:, None], 1e9, world["free"])
    given, _ = Probe(world["noise"], split).predict(world["free"])
    assert np.array_equal(Probe(world["noise"], split).predict(spoiled)[0], given)


def test_a_probe_without_features_predicts_the_training_mean():
    split = Split(np.array([0, 0, 1, 2]), np.array([1]), np.array([2]))
    predicted, _ = Probe(np.empty((4, 0)), split).predict(np.array([[1.0], [3.0], [0.0], [50.0]]))
    assert predicted.tolist() == [[2.0]]


def test_pooled_r2_weighs_episodes_by_their_squared_targets_and_action_dimensions_alike():
    errors, mean_errors = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 5.0], [3.0, 5.0]])
    assert pooled_r2(errors, mean_errors) == pytest.approx([1 - (2 / 4 + 0) / 2])
    assert pooled_r2(errors, mean_errors, np.array([[2.0, 0.0]])) == pytest.approx([1 - (1 + 0) / 2])
    assert pooled_r2(mean_errors, mean_errors) == 0


def test_a_planted_signal_adds_to_frame_t_beyond_every_control(world):
    result = _probe(world, z=world["free"])
    assert result.frame_r2 == pytest.approx(0.5, abs=0.1)
    assert result.rows["z"].conditional_r2.value == pytest.approx(0.5, abs=0.1)
    assert (result.test_episodes, result.pairs) == (EPISODES, EPISODES * PAIRS)
    assert set(result.margins["conditional_r2"]) == {"mean", "shuffled", "pixel_difference"}
    for margin in result.margins["conditional_r2"].values():
        low, high = margin.bounds
        assert 0.3 < low < margin.value < high


def test_noise_adds_nothing(world):
    result = _probe(world, z=world["noise"])
    assert result.rows["z"].conditional_r2.value == pytest.approx(0, abs=0.03)
    assert result.margins["conditional_r2"]["shuffled"].value == pytest.approx(0, abs=0.01)


def test_what_frame_t_predicts_already_is_not_counted_for_z(world):
    row = _probe(world, z=world["seen"]).rows["z"]
    assert row.r2.value > 0.35
    assert row.conditional_r2.value == pytest.approx(0, abs=0.03)


def test_two_calls_give_the_same_numbers(world):
    assert _probe(world, z=world["free"]) == _probe(world, z=world["free"])


def test_an_action_dimension_that_never_changes_is_left_out(world):
    still = np.concatenate([world["actions_PA"], np.ones((EPISODES * PAIRS, 1))], 1)
    assert _probe({**world, "actions_PA": still}, z=world["free"]) == _probe(world, z=world["free"])


def _fold(features, targets):
    """A probe in the first of the folds of 60 episodes, and the R2 of its predictions."""
    split = cross_fit_splits(np.repeat(np.arange(60), len(features) // 60))[0]
    probe = Probe(features, split)
    residual = targets[split.test] - probe.predict(targets)[0]
    return probe.fit(targets).scaling, 1 - (residual**2).sum() / (targets[split.test] ** 2).sum()


def test_many_small_dimensions_of_noise_are_not_blown_up_and_small_dimensions_with_the_answer_are():
    rng = np.random.default_rng(0)
    answer, noise = rng.normal(size=(120, 2)), rng.normal(size=(120, 60))
    y = answer + 0.3 * rng.normal(size=(120, 2))
    # As in a PCA: few large components with the answer, many small ones without.
    scaling, r2 = _fold(np.concatenate([answer, 0.02 * noise], 1), y)
    assert (scaling, r2 > 0.85) == ("per block", True)
    # Unlike units: the answer is in the smallest.
    scaling, r2 = _fold(np.concatenate([0.02 * answer, noise[:, :5]], 1), y)
    assert (scaling, r2 > 0.85) == ("per dimension", True)


def test_the_unit_of_the_features_does_not_matter():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(120, 4)), rng.normal(size=(120, 2))
    assert _fold(1e-9 * x, x[:, :2] + y)[1] == pytest.approx(_fold(x, x[:, :2] + y)[1])


def test_a_test_pair_far_outside_of_what_was_trained_on_does_not_spoil_the_others():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(120, 4))
    y = x[:, :2] + 0.1 * rng.normal(size=(120, 2))
    split = cross_fit_splits(np.repeat(np.arange(60), 2))[0]
    x[np.flatnonzero(split.test)[0]] = 1e4
    assert _fold(x, y)[1] > 0.3
    for values in scalings(x, split.train).values():
        assert np.abs(values).max() < 5


@pytest.mark.parametrize("width", [5, 40])  # fewer and more features than training pairs
def test_two_blocks_are_one_ridge_with_a_penalty_for_each(width):
    rng = np.random.default_rng(3)
    first, second, y = rng.normal(size=(30, 4)), rng.normal(size=(30, width)), rng.normal(size=(30, 2))

    def sides(values):
        return Sides(values[:20], values[20:25], values[25:])

    alone = Block({"as it is": sides(first)}).fit(sides(y))
    together = Block({"as it is": sides(second)}).beside(alone).fit(alone.without(sides(y)))
    # The same by the normal equations of both blocks side by side.
    x = np.concatenate([first, second], 1)
    penalties = np.repeat([alone.penalty, together.penalty], [4, width])
    weights = np.linalg.solve(x[:20].T @ x[:20] / 20 + np.diag(penalties), x[:20].T @ y[:20] / 20)
    assert np.allclose(alone.predictions.test + together.predictions.test, x[25:] @ weights)


def test_a_wide_block_in_as_many_dimensions_as_pairs_has_the_same_components():
    rng = np.random.default_rng(4)
    values = rng.normal(size=(20, 4)) @ rng.normal(size=(4, 90)) + 5
    train = np.arange(20) < 15
    short, full = Wide.of(values, 4), principal_components(values, train, 4)
    assert short.values_PF.shape == (20, 20)
    assert np.allclose(np.abs(short.reduced(train)), np.abs(full), atol=1e-3)
