"""Simulated demonstrations: placements from seeds, experts that succeed, upright images, exact arm masks."""

from __future__ import annotations

import os
from importlib.util import find_spec

import numpy as np
import pyarrow.parquet as pq
import pytest
from lara_policy.simulation import TASK_TEXT, UNSEEN_TASKS, rendering, select_tasks, simulate_metaworld
from lara_policy.simulation.metaworld import dataset, expert
from lara_policy.simulation.metaworld.dataset import CAMERAS, SimulationJob
from lara_policy.simulation.metaworld.expert import (
    STEPS_AFTER_SUCCESS,
    episode_generators,
    make_environment,
    record_episode,
)
from lara_policy.simulation.rendering import choose_gl_backend, gl_environment

from lara_tokenizer.data import Signals
from lara_tokenizer.data.actions.meaning import meaning_of
from lara_tokenizer.data.episode import NO_NAMES, SignalNames

JOB = SimulationJob(tasks=("reach-v3", "push-v3"), cameras=("corner2",), size=32, action_noise=0.3, seed=1)


@pytest.fixture(scope="session")
def gl_backend() -> str | OSError:
    """The OpenGL to draw with, settled before anything imports mujoco; or why there is none."""
    if find_spec("mujoco") is None:
        pytest.skip("mujoco is not installed: it comes with the extra 'sim'")
    try:
        backend = choose_gl_backend()
    except OSError as error:
        return error
    os.environ.update(gl_environment(backend))
    return backend


@pytest.fixture(scope="session")
def metaworld(gl_backend):
    return pytest.importorskip("metaworld", reason="needs the extra 'sim'")


@pytest.fixture(scope="session")
def opengl(metaworld, gl_backend):
    if isinstance(gl_backend, OSError):
        pytest.skip(str(gl_backend))


def test_the_task_sets_part_the_tasks():
    train = select_tasks(["train"])
    assert set(train) | set(UNSEEN_TASKS) == set(TASK_TEXT) == set(select_tasks(["all"]))
    assert not set(train) & set(UNSEEN_TASKS)
    assert select_tasks(["push-v3", "unseen", "push-v3"]) == ("push-v3", *UNSEEN_TASKS)


def test_an_unknown_task_gets_a_hint_and_the_list():
    with pytest.raises(ValueError, match=r"unknown task 'push-v2': did you mean 'push-v3'\?.*window-open-v3"):
        select_tasks(["push-v2"])
    with pytest.raises(ValueError, match="no task given"):
        select_tasks([])


def test_every_task_has_its_expert_and_its_text(metaworld):
    from metaworld.policies import ENV_POLICY_MAP

    assert set(TASK_TEXT) == set(ENV_POLICY_MAP)
    assert len(set(TASK_TEXT.values())) == len(TASK_TEXT)


def test_no_two_seeds_share_an_episode():
    # seed + episode would repeat: 1 + 1000 = 1001 + 0.
    draws = {
        tuple(episode_generators(seed, task, episode)[0].uniform(size=3))
        for seed in (0, 1, 2, 1001)
        for task in ("push-v3", "reach-v3")
        for episode in [*range(20), 1000]
    }
    assert len(draws) == 4 * 2 * 21


def test_train_and_held_out_placements_differ_and_repeat_themselves(metaworld):
    for task in ("reach-v3", "drawer-open-v3"):
        first = [make_environment(task, episode_generators(seed, task, 0)[0])[1] for seed in (1, 1001, 1)]
        assert np.array_equal(first[0], first[2])
        assert not np.array_equal(first[0], first[1])


def test_the_expert_is_shown_the_goal(metaworld):
    environment, observation = make_environment("reach-v3", np.random.default_rng(0))
    seen_after_a_step = environment.step(np.zeros(4))[0]
    assert np.allclose(observation[-3:], environment._target_pos)
    assert np.allclose(seen_after_a_step[-3:], environment._target_pos)


class NoRenderer:
    """Stands in where nothing is drawn."""


@pytest.mark.parametrize("task", ["reach-v3", "button-press-v3", "drawer-open-v3"])
def test_an_expert_succeeds_and_the_episode_ends_soon_after(metaworld, task):
    recorded, _ = record_episode(task, 0, seed=0, cameras=(), action_noise=0.0, renderer=NoRenderer(), size=32)
    assert recorded.success.argmax() + 1 + STEPS_AFTER_SUCCESS == len(recorded.success)
    assert recorded.actions.shape == recorded.states.shape == (len(recorded.success), 4)
    assert np.abs(recorded.actions).max() <= 1


def test_the_expert_s_actions_are_changes_and_its_gripper_a_level(metaworld):
    options = {"seed": 0, "cameras": (), "action_noise": 0.0, "renderer": NoRenderer(), "size": 32}
    recorded = [record_episode(task, 0, **options)[0] for task in ("reach-v3", "push-v3", "door-open-v3")]
    names = SignalNames(dataset.ACTION_NAMES, dataset.STATE_NAMES)
    for stated, gripper in ((names, "gripper"), (NO_NAMES, None)):
        meaning = meaning_of([Signals(each.actions, each.states, names=stated) for each in recorded])
        assert [number.kind for number in meaning.numbers[:3]] == ["delta"] * 3
        if gripper:
            # Its command stays at -1 or 1 while the fingers rest: the state has the opening.
            assert (meaning.numbers[3].kind, meaning.numbers[3].state) == ("position", 3)


def test_noise_changes_the_actions_but_not_the_start(metaworld, monkeypatch):
    monkeypatch.setattr(expert, "MAX_STEPS", 5)
    clean, noisy, again = (
        record_episode("reach-v3", 3, seed=0, cameras=(), action_noise=noise, renderer=NoRenderer(), size=32)[0]
        for noise in (0.0, 0.3, 0.3)
    )
    assert np.array_equal(clean.states[0], noisy.states[0])
    assert not np.array_equal(clean.actions, noisy.actions)
    assert np.array_equal(noisy.actions, again.actions)


def test_indices_stay_when_episodes_are_added_and_half_are_noisy():
    indices = [JOB.episode_index(task, episode) for episode in range(3) for task in JOB.tasks]
    assert indices == list(range(6))
    assert [JOB.noise_of(episode) for episode in range(4)] == [0.0, 0.3, 0.0, 0.3]


def test_the_cameras_are_those_of_the_scene(metaworld):
    environment, _ = make_environment("push-v3", np.random.default_rng(0))
    assert tuple(environment.model.camera(index).name for index in range(environment.model.ncam)) == CAMERAS


def project(environment, camera: str, point: np.ndarray, size: int) -> tuple[float, float]:
    """Row and column where a pinhole camera that is held upright sees `point`."""
    model, data = environment.model, environment.data
    index = model.camera(camera).id
    x, y, z = data.cam_xmat[index].reshape(3, 3).T @ (point - data.cam_xpos[index])
    scale = size / 2 / np.tan(np.deg2rad(model.cam_fovy[index]) / 2)
    sign = -1 if data.cam_xmat[index].reshape(3, 3)[2, 1] < -0.1 else 1
    return size / 2 + sign * scale * y / z, size / 2 - sign * scale * x / z


@pytest.mark.parametrize("camera", ["corner2", "corner", "corner3", "topview"])
def test_images_are_upright_and_the_mask_covers_the_hand(opengl, camera):
    from lara_policy.simulation.rendering import SceneRenderer

    environment, _ = make_environment("reach-v3", np.random.default_rng(0))
    with SceneRenderer(environment.model, size=64) as renderer:
        image, mask = renderer.render_with_mask(environment.model, environment.data, camera)
    wrist = environment.data.body("right_hand").xpos
    row, column = (round(value) for value in project(environment, camera, wrist, 64))
    assert mask[row - 1 : row + 2, column - 1 : column + 2].any()
    assert project(environment, camera, wrist + np.array([0, 0, 0.1]), 64)[0] <= row  # what is higher is drawn higher
    red, green, _ = image[mask].mean(0)
    assert red > 2 * green  # the arm is red, and the table in the same image is not
    assert image[~mask].mean(0)[0] < 2 * image[~mask].mean(0)[1]
    assert 0.01 < mask.mean() < 0.5


def test_an_unknown_camera_names_those_of_the_scene(metaworld):
    from lara_policy.simulation.rendering import camera_index

    environment, _ = make_environment("reach-v3", np.random.default_rng(0))
    with pytest.raises(ValueError, match="unknown camera 'front': this scene has topview"):
        camera_index(environment.model, "front")


def test_a_unit_made_twice_or_in_parts_gives_the_same_bytes(opengl, tmp_path, monkeypatch):
    monkeypatch.setattr(expert, "MAX_STEPS", 6)
    for part in ("once", "again"):
        dataset._writer(tmp_path / part, JOB)
    assert dataset.make_unit(str(tmp_path / "once"), JOB, "reach-v3", [0, 1]) == (2, [])
    for episode in (1, 0):
        assert dataset.make_unit(str(tmp_path / "again"), JOB, "reach-v3", [episode]) == (1, [])
    once, again = (
        {
            str(path.relative_to(tmp_path / part)): path.read_bytes()
            for path in (tmp_path / part).rglob("*.*")
            if path.is_file()
        }
        for part in ("once", "again")
    )
    assert len(once) == 6
    assert once == again


def test_an_episode_that_breaks_the_simulator_is_listed_and_the_next_is_made(tmp_path, monkeypatch):
    def break_down(task, episode, **_):
        raise RuntimeError(f"the arm fell off in {episode}")

    monkeypatch.setattr(dataset, "record_episode", break_down)
    writer = dataset._writer(tmp_path, JOB)
    made, failed = dataset.make_unit(str(tmp_path), JOB, "push-v3", [0, 1])
    assert made == 0
    assert failed == [("push-v3", episode, f"RuntimeError: the arm fell off in {episode}") for episode in (0, 1)]
    with pytest.raises(ValueError, match="none of 2 episodes could be made; the first, push-v3 0: RuntimeError"):
        dataset._finish(writer, failed)


def test_a_second_run_adds_what_is_missing_and_touches_nothing_else(opengl, tmp_path):
    options = {"tasks": ["handle-press-v3"], "cameras": ["corner2"], "size": 32, "seed": 7, "workers": 1}
    seen: list[tuple[int, int]] = []
    first = simulate_metaworld(tmp_path, episodes=1, **options)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    second = simulate_metaworld(
        tmp_path, episodes=2, progress=lambda done, total: seen.append((done, total)), **options
    )
    assert (first["episodes"], second["episodes"], second["successes"], second["failed"]) == (1, 2, 2, [])
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert seen == [(1, 2), (2, 2)]
    rows = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(row["task_name"], row["task_episode"], row["seed"]) for row in rows] == [
        ("handle-press-v3", 0, 7),
        ("handle-press-v3", 1, 7),
    ]
    with pytest.raises(ValueError, match="seed was 7, is 8"):
        simulate_metaworld(tmp_path, episodes=2, **(options | {"seed": 8}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cameras": ["front"]}, "unknown camera 'front': there are topview"),
        ({"cameras": []}, "no camera given"),
        ({"episodes": 0}, "at least 1 of each task"),
        ({"size": 65}, "an even number of pixels"),
        ({"action_noise": -1}, "a standard deviation in 0..2"),
        ({"seed": -1}, "0 or more"),
    ],
)
def test_numbers_and_names_out_of_range_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        simulate_metaworld(tmp_path / "new", **({"tasks": ["push-v3"]} | options))
    assert not (tmp_path / "new").exists()


def test_without_the_simulator_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(rendering, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs the 'sim' extra: pip install 'lara-tokenizer\[sim\]'"):
        simulate_metaworld(tmp_path / "new", tasks=["push-v3"])
    assert not (tmp_path / "new").exists()


def test_no_working_opengl_says_what_was_tried(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    choose_gl_backend.cache_clear()
    with pytest.raises(OSError, match="cannot render here; tried nonsense"):
        choose_gl_backend()
    choose_gl_backend.cache_clear()
