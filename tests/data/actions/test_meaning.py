"""Meanings of actions: planted sets of changes, positions, angles and grippers, and the real sets that are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lara_tokenizer.data import Episode, FrameIndex, Signals, load_episodes
from lara_tokenizer.data.actions.describe import dimensions, sentence
from lara_tokenizer.data.actions.meaning import DELTA, POSITION, find_meanings, meaning_of
from lara_tokenizer.data.actions.motion import MotionTarget, action_sums
from lara_tokenizer.data.episode import SignalNames
from lara_tokenizer.errors import EpisodeReadError

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
EPISODES, FRAMES = 8, 60


def smooth_walks(seed: int, width: int, scale: float = 0.05) -> list[np.ndarray]:
    """Joints that move smoothly, from another pose in each episode: (EPISODES, FRAMES + 1, width)."""
    random = np.random.default_rng(seed)
    steps = random.normal(size=(EPISODES, FRAMES + 4, width)) * scale
    smooth = np.mean([steps[:, lag : FRAMES + lag] for lag in range(4)], 0)
    start = random.normal(size=(EPISODES, 1, width)) * 0.3
    return list(np.concatenate([start, start + smooth.cumsum(1)], 1))


def absolute_set(seed: int = 0, width: int = 3, names: SignalNames | None = None) -> list[Signals]:
    """Action t is the pose that the robot has at frame t + 1."""
    keywords = {} if names is None else {"names": names}
    return [Signals(each[1:], each[:-1], **keywords) for each in smooth_walks(seed, width)]


def delta_set(seed: int = 1, width: int = 3) -> list[Signals]:
    """Action t is the change of the pose from frame t to t + 1."""
    return [Signals(np.diff(each, axis=0), each[:-1]) for each in smooth_walks(seed, width)]


def open_close(seed: int) -> list[np.ndarray]:
    """Commands of a gripper, 0 or 1, that hold for a while: EPISODES of (FRAMES, 1)."""
    random = np.random.default_rng(seed)
    return [(np.arange(FRAMES)[:, None] // random.integers(15, 25) + random.integers(2)) % 2.0 for _ in range(EPISODES)]


def kinds(read: list[Signals]) -> list[tuple[str, int | None]]:
    return [(number.kind, number.state) for number in meaning_of(read).numbers]


def target_of(read: list[Signals], episode: int, rule: str = "auto") -> np.ndarray:
    now = np.arange(FRAMES - 7)
    return MotionTarget(meaning_of(read), rule).of(read[episode], now, now + 7, "e")


def test_absolute_joints_are_the_change_of_the_state():
    read = absolute_set()
    assert kinds(read) == [(POSITION, 0), (POSITION, 1), (POSITION, 2)]
    assert np.allclose(target_of(read, 2), read[2].states[7:] - read[2].states[:-7])


def test_absolute_joints_in_lag_and_noise_are_still_positions():
    random = np.random.default_rng(5)
    late = [Signals(each[3:] + random.normal(size=each[3:].shape) * 0.01, each[:-3]) for each in smooth_walks(3, 4)]
    assert kinds(late) == [(POSITION, place) for place in range(4)]


def test_changes_are_summed_as_ever():
    read = delta_set()
    assert kinds(read) == [(DELTA, 0), (DELTA, 1), (DELTA, 2)]
    now = np.arange(FRAMES - 7)
    assert np.array_equal(target_of(read, 0), action_sums(read[0].actions, now, now + 7))


def test_the_state_may_have_another_width_and_order():
    poses = smooth_walks(4, 3)
    speeds = [np.diff(each, axis=0) for each in poses]
    read = [
        Signals(pose[1:], np.concatenate([speed, pose[:-1, ::-1]], 1))
        for pose, speed in zip(poses, speeds, strict=True)
    ]
    assert kinds(read) == [(POSITION, 5), (POSITION, 4), (POSITION, 3)]


def test_names_find_the_state_where_places_do_not():
    names = SignalNames(("a.pos", "b.pos"), ("b.pos", "a.pos"))
    read = [Signals(each[1:], each[:-1, ::-1], names=names) for each in smooth_walks(6, 2)]
    assert kinds(read) == [(POSITION, 1), (POSITION, 0)]


def test_an_absolute_set_without_states_is_the_change_of_the_action():
    read = [Signals(each.actions + 1.0) for each in absolute_set(7)]
    assert kinds(read) == [(POSITION, None)] * 3
    assert np.allclose(target_of(read, 1), read[1].actions[7:] - read[1].actions[:-7])
    assert (
        sentence(MotionTarget(meaning_of(read)))
    ) == "change of the action in all 3 numbers (positions: far steadier than changes are; there is no state)"


def test_a_gripper_of_two_levels_beside_changes_is_its_change():
    gripper = open_close(9)
    read = [
        Signals(np.concatenate([each.actions, command], 1), np.concatenate([each.states, 0.8 * command], 1))
        for each, command in zip(delta_set(8), gripper, strict=True)
    ]
    assert kinds(read) == [(DELTA, 0), (DELTA, 1), (DELTA, 2), (POSITION, 3)]
    now = np.arange(FRAMES - 7)
    target = target_of(read, 3)
    assert np.allclose(target[:, :3], action_sums(read[3].actions, now, now + 7)[:, :3])
    assert np.allclose(target[:, 3], read[3].states[7:, 3] - read[3].states[:-7, 3])


def test_a_gripper_in_pulses_is_summed():
    pulses = np.zeros((FRAMES, 1))
    pulses[[10, 11, 30, 31]] = [[1], [1], [-1], [-1]]
    read = [
        Signals(np.concatenate([each.actions, pulses], 1), names=_named("x", "y", "z", "gripper"))
        for each in delta_set()
    ]
    assert meaning_of(read).numbers[3].kind == DELTA


def _named(*names: str) -> SignalNames:
    return SignalNames(names)


def test_a_name_decides_before_statistics():
    numbers = meaning_of(absolute_set(names=_named("delta_x", "delta_y", "elbow"))).numbers
    assert [(number.kind, number.why) for number in numbers] == [
        (DELTA, "named"),
        (DELTA, "named"),
        (POSITION, "follows"),
    ]


def test_where_nothing_decides_the_sentence_says_so():
    # Neither small nor large steps, about 0: a slow change, or a fast position.
    read = [Signals(np.sin(np.arange(FRAMES)[:, None] / 4 + phase)) for phase in range(EPISODES)]
    assert kinds(read) == [(DELTA, None)]
    assert "nothing decides, so they count as changes" in sentence(MotionTarget(meaning_of(read)))


def test_a_joint_that_hardly_moves_is_what_the_others_are():
    random = np.random.default_rng(0)
    read = [
        Signals(*(np.c_[side, random.normal(size=FRAMES) * 1e-3] for side in (each.actions, each.states)))
        for each in absolute_set(10, 4)
    ]
    number = meaning_of(read).numbers[4]
    assert (number.kind, number.why, number.state) == (POSITION, "others", 4)


def test_a_state_that_is_a_speed_measures_no_position():
    random = np.random.default_rng(3)
    speeds = random.normal(size=(EPISODES, FRAMES + 1, 2))
    read = [Signals(each[:-1], 0.9 * np.concatenate([each[:1], each[:-2]])) for each in speeds]
    number = meaning_of(read).numbers[0]
    assert (number.kind, number.why) == (DELTA, "speeds")


def test_turning_on_past_pi_is_a_small_change():
    angle = np.linspace(2.0, 5.0, FRAMES + 1)[:, None]
    wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
    others = absolute_set(11, 2)
    read = [
        Signals(np.concatenate([wrapped[1:], each.actions], 1), np.concatenate([wrapped[:-1], each.states], 1))
        for each in others
    ]
    assert kinds(read) == [(POSITION, 0), (POSITION, 1), (POSITION, 2)]
    assert np.allclose(target_of(read, 0)[:, 0], 7 * 3.0 / FRAMES)
    assert "an angle that wraps" in sentence(MotionTarget(meaning_of(read)))


def test_each_rule_can_be_asked_for():
    read = absolute_set()
    now = np.arange(FRAMES - 7)
    assert np.array_equal(target_of(read, 0, "sum"), action_sums(read[0].actions, now, now + 7))
    assert np.allclose(target_of(delta_set(), 0, "change"), action_sums(delta_set()[0].actions, now, now + 7))
    chunk = target_of(read, 0, "chunk")
    assert np.array_equal(chunk[5], read[0].actions[5:12].reshape(-1))


def test_chunks_of_other_lengths_are_read_at_as_many_frames():
    read = absolute_set()
    target = MotionTarget(meaning_of(read), "chunk")
    target.of(read[0], np.array([0, 1, 2]), np.array([4, 5, 6]), "a")
    other = target.of(read[1], np.array([10]), np.array([18]), "b")
    assert np.array_equal(other[0], read[1].actions[[10, 12, 14, 16]].reshape(-1))
    assert "of pairs with another gap (1) as many, evenly spaced" in sentence(target)


def test_an_episode_without_the_states_of_the_others_is_refused():
    read = absolute_set()
    with pytest.raises(EpisodeReadError, match="its states have 0 numbers, those of others 3"):
        MotionTarget(meaning_of(read)).of(Signals(read[0].actions), np.array([0]), np.array([7]), "bare")


class Unreadable:
    """A reader whose signals raise, or are those given."""

    def __init__(self, signals: Signals | None) -> None:
        self.given = signals

    def index(self, camera: str) -> FrameIndex:
        raise AssertionError("no frame is needed")

    def frames(self, camera: str, indices: np.ndarray) -> np.ndarray:
        raise AssertionError("no frame is needed")

    def signals(self) -> Signals:
        if self.given is None:
            raise EpisodeReadError("e", "it is missing")
        return self.given

    def close(self) -> None:
        pass


def test_damaged_episodes_are_passed_over_and_datasets_kept_apart():
    sets = {"absolute": absolute_set(), "delta": delta_set()}
    episodes = [
        Episode(f"{name}{i}", Unreadable(None if i < 3 else each), available_signals=("actions",), dataset=name)
        for name, read in sets.items()
        for i, each in enumerate(read)
    ]
    meanings = find_meanings(episodes)
    assert {name: meaning.numbers[0].kind for name, meaning in meanings.items()} == {
        "absolute": POSITION,
        "delta": DELTA,
    }
    assert meanings["delta"].episodes == EPISODES - 3


def test_states_that_are_not_finite_leave_the_actions_to_themselves():
    read = [Signals(each.actions + 2.0, np.full_like(each.states, np.nan)) for each in absolute_set(7)]
    episodes = [Episode(f"{i}", Unreadable(each), available_signals=("actions",)) for i, each in enumerate(read)]
    numbers = find_meanings(episodes)[""].numbers
    assert [(number.kind, number.state) for number in numbers] == [(POSITION, None)] * 3


def real(name: str, **options) -> MotionTarget:
    if not (SHARED / name).is_dir():
        pytest.skip(f"no {SHARED / name}: real sets are at hand for developers only")
    return MotionTarget(
        find_meanings(load_episodes(SHARED / name, **options))[name.replace("bridge_rlds", "bridge_dataset")]
    )


def test_a_real_humanoid_with_absolute_joints_is_the_change_of_its_state():
    assert {kind: len(names) for kind, names in dimensions(real("g1_real")).items()} == {"change of the state": 26}


def test_a_simulated_humanoid_with_absolute_joints_is_the_change_of_its_state():
    target = real("gr1_sim")
    # One thumb is commanded past its end, and its state does not follow.
    assert dimensions(target)["change of the action"] == ["motor_33"]
    assert len(dimensions(target)["change of the state"]) == 18
    assert "25 constant numbers are left out" in sentence(target)


def test_bridge_sums_its_changes_and_takes_the_opening_of_its_gripper():
    target = real("bridge_rlds")
    assert dimensions(target) == {
        "sum of the actions": ["x", "y", "z", "roll", "pitch", "yaw"],
        "change of the state": ["gripper"],
    }
    assert target.meaning.numbers[6].state == 6
