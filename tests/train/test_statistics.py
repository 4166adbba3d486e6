"""Statistics of actions: numpy's on the concatenation, invertible, one set per dataset."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lara_tokenizer.data import Episode, FrameIndex, Signals
from lara_tokenizer.data.statistics import ActionStatistics, action_statistics
from lara_tokenizer.errors import EpisodeReadError


class ActionsReader:
    """Actions, and frames that nobody asks for."""

    def __init__(self, actions: np.ndarray | None, broken: bool = False) -> None:
        self.actions, self.broken = actions, broken

    def index(self, camera: str) -> FrameIndex:
        return FrameIndex(np.arange(9) / 10, 10.0)

    def frames(self, camera: str, indices) -> np.ndarray:
        raise AssertionError

    def signals(self) -> Signals:
        if self.broken:
            raise EpisodeReadError("data.parquet", "damaged")
        return Signals(actions=self.actions)

    def close(self) -> None:
        pass


def _episodes(dataset: str, *actions: np.ndarray | None) -> list[Episode]:
    return [Episode(f"{dataset}{i}", ActionsReader(rows), dataset=dataset) for i, rows in enumerate(actions)]


@pytest.fixture
def parts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(1e3 + rng.normal(size=(n, 4)) * [1e-3, 1, 50, 0]).astype(np.float32) for n in (7, 1, 300)]


def test_they_are_numpys_on_the_concatenation(parts):
    found = action_statistics(_episodes("a", *parts))["a"]
    rows = np.concatenate(parts).astype(np.float64)
    assert found.count == 308
    assert np.array_equal(found.mean, rows.mean(0))
    assert np.array_equal(found.std[:3], rows.std(0)[:3])
    assert np.array_equal(found.min, rows.min(0))
    assert np.array_equal(found.max, rows.max(0))
    assert np.array_equal(found.q01, np.quantile(rows, 0.01, axis=0))
    assert np.array_equal(found.q99, np.quantile(rows, 0.99, axis=0))


def test_a_constant_dimension_is_centred_and_left_at_its_scale(parts):
    found = action_statistics(_episodes("a", *parts))["a"]
    assert found.std[3] == 1
    assert not found.standardise(parts[0])[:, 3].any()


def test_restoring_is_the_inverse_and_standardised_actions_have_mean_0_and_std_1(parts):
    found, rows = ActionStatistics.of(np.concatenate(parts)), np.concatenate(parts)
    standardized = found.standardise(rows)
    assert standardized.mean(0) == pytest.approx(np.zeros(4), abs=1e-6)
    assert standardized.std(0)[:3] == pytest.approx(np.ones(3))
    assert np.array_equal(found.restore(standardized).astype(np.float32), rows)
    assert found.standardise(rows[0]).shape == (4,)


def test_json_gives_the_same_numbers_back(parts):
    found = ActionStatistics.of(parts[2])
    again = ActionStatistics.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.to_dict() == found.to_dict()
    assert np.array_equal(again.standardise(parts[0]), found.standardise(parts[0]))


def test_each_dataset_has_its_own_and_one_without_actions_has_none(parts, caplog):
    episodes = _episodes("a", parts[0], None) + _episodes("b", parts[2][:, :2]) + _episodes("film", None)
    episodes.append(Episode("a9", ActionsReader(None, broken=True), dataset="a"))
    found = action_statistics(episodes)
    assert {name: (each.count, each.mean.size) for name, each in found.items()} == {"a": (7, 4), "b": (300, 2)}
    assert "actions left out: data.parquet: damaged" in caplog.text
    assert action_statistics([]) == {}


def test_what_makes_no_statistics_is_named(parts):
    with pytest.raises(ValueError, match="dataset 'a': 'a1' has actions of 2 numbers, 'a0' of 4"):
        action_statistics(_episodes("a", parts[0], parts[0][:, :2]))
    with pytest.raises(ValueError, match="dataset 'a': 1 numbers of the actions are NaN or infinite"):
        action_statistics(_episodes("a", np.array([[0.0, np.nan]])))
    with pytest.raises(ValueError, match=r"shape \(0, 3\)"):
        ActionStatistics.of(np.zeros((0, 3)))
