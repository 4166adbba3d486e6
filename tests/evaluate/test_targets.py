"""The target of the action probes: a z that is the motion is found, and one that is the pose is not."""

from __future__ import annotations

import numpy as np
import pytest
from square_models import SIZE

from lara_tokenizer.data import Episode, FrameIndex, Signals, Stride
from lara_tokenizer.evaluate.dataset import EvaluationDataset, read_pairs
from lara_tokenizer.evaluate.probes import probe_actions

EPISODES, FRAMES, GAP = 12, 30, 5


class Planted:
    """Frames of random grey, 10 per second, beside the signals of a planted set."""

    def __init__(self, signals: Signals) -> None:
        self.given = signals

    def index(self, camera: str) -> FrameIndex:
        return FrameIndex(np.arange(FRAMES) / 10, 10.0)

    def frames(self, camera: str, indices: np.ndarray) -> np.ndarray:
        grey = np.random.default_rng(0).integers(0, 255, FRAMES, dtype=np.uint8)[np.asarray(indices)]
        return np.broadcast_to(grey[:, None, None, None], (len(grey), SIZE, SIZE, 3))

    def signals(self) -> Signals:
        return self.given

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def poses() -> list[np.ndarray]:
    """Joints that wander from where the episode starts: (FRAMES + 1, 3) each."""
    random = np.random.default_rng(0)
    return [random.normal(size=3) * 2 + (random.normal(size=(FRAMES + 1, 3)) * 0.1).cumsum(0) for _ in range(EPISODES)]


def read(processor, all_signals: list[Signals], target: str = "auto") -> EvaluationDataset:
    episodes = [
        Episode(f"{i:02d}", Planted(signals), available_signals=("actions", "states"))
        for i, signals in enumerate(all_signals)
    ]
    return read_pairs(episodes, processor, Stride.parse("0.5s"), 16, target=target)


def conditional_r2(dataset: EvaluationDataset, z_of) -> float:
    pairs = dataset.pairs[""]
    z = np.concatenate([z_of(episode) for episode in range(EPISODES)])
    now, future = pairs.frames[pairs.now], pairs.frames[pairs.future]
    return probe_actions({"z": z}, now, future, pairs.actions, pairs.episodes).rows["z"].conditional_r2.value


@pytest.mark.parametrize(("rule", "of_change", "of_pose"), [("auto", 1, 0), ("sum", 0, 1)])
def test_absolute_joints_ask_for_the_motion_and_not_for_the_pose(plain_processor, poses, rule, of_change, of_pose):
    dataset = read(plain_processor, [Signals(each[1:], each[:-1]) for each in poses], rule)
    anchors = np.linspace(0, FRAMES - GAP - 1, 16).round().astype(int)
    change = conditional_r2(dataset, lambda episode: poses[episode][anchors + GAP] - poses[episode][anchors])
    pose = conditional_r2(dataset, lambda episode: poses[episode][anchors])
    assert change == pytest.approx(of_change, abs=0.01 if of_change else 0.1)
    assert pose == pytest.approx(of_pose, abs=0.1)


def test_an_absolute_set_without_states_asks_for_the_change_of_the_action(plain_processor, poses):
    dataset = read(plain_processor, [Signals(each[1:] + 5) for each in poses])
    assert dataset.target.numbers == {"": {"change of the action": ["0", "1", "2"]}}
    anchors = np.linspace(0, FRAMES - GAP - 1, 16).round().astype(int)
    assert conditional_r2(dataset, lambda i: poses[i][anchors + GAP + 1] - poses[i][anchors + 1]) > 0.99


def test_the_target_of_a_set_of_changes_is_what_it_was(plain_processor, poses):
    signals = [Signals(np.diff(each, axis=0), each[:-1]) for each in poses]
    automatic, summed = (read(plain_processor, signals, rule) for rule in ("auto", "sum"))
    assert np.array_equal(automatic.pairs[""].actions, summed.pairs[""].actions)
    assert np.allclose(summed.pairs[""].actions[0], signals[0].actions[:GAP].sum(0))


def test_an_unknown_rule_is_refused_before_frames_are_read(plain_processor, poses):
    with pytest.raises(ValueError, match="target 'pose': takes auto, sum, change, chunk"):
        read(plain_processor, [Signals(poses[0][1:])], "pose")


def test_an_episode_without_states_is_left_out_where_they_are_the_target(plain_processor, poses):
    signals = [Signals(each[1:], each[:-1]) for each in poses]
    signals[4] = Signals(poses[4][1:])
    dataset = read(plain_processor, signals)
    assert dataset.left_out == {"04": "its states have 0 numbers, those of others 3"}
    assert len(np.unique(dataset.pairs[""].episodes)) == EPISODES - 1
