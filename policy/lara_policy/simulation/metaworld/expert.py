"""Meta-World's scripted experts: one episode of a task, as a demonstration.

All random numbers of an episode depend only on (seed, task, episode): the seed is the entropy of a numpy
`SeedSequence`, the task and the episode's index are its spawn key. So episodes can be made in any order by any process,
and no episode of one seed repeats one of another seed (with `seed + episode`, 1 + 1000 = 1001 + 0 would).
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lara_policy.simulation.rendering import SceneRenderer
from lara_tokenizer.errors import missing_extra

CAMERAS = ("topview", "corner", "corner2", "corner3", "corner4", "behindGripper", "gripperPOV")
NOMINAL_FPS = 10
"""Frame rate of the demonstrations. The experts move about eight times faster than real arms are driven; at this rate
the motion between two frames is about as large as in real data of 10 fps."""
MAX_STEPS = 200
"""Length limit of an episode. Nearly all successes come within 150 steps."""
STEPS_AFTER_SUCCESS = 10
STATE_NAMES = ("hand_x", "hand_y", "hand_z", "gripper")
ACTION_NAMES = ("delta_x", "delta_y", "delta_z", "gripper")


@dataclass(slots=True)
class SimulatedEpisode:
    """One recorded episode of T steps. Row t holds the observation before action t, the action, and its success."""

    images: dict[str, np.ndarray]  # camera -> uint8 (T, S, S, 3), RGB, upright
    masks: dict[str, np.ndarray]  # camera -> bool (T, S, S), True on the arm
    states: np.ndarray  # float32 (T, 4): hand position in metres, gripper opening 0..1
    actions: np.ndarray  # float32 (T, 4) in -1..1, as executed, noise included
    success: np.ndarray  # bool (T,), whether the goal is reached after action t


def episode_generators(seed: int, task: str, episode: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Independent generators of the objects' placement and of the action noise."""
    spawn_key = (zlib.crc32(task.encode()), episode)
    placement, noise = np.random.SeedSequence(seed, spawn_key=spawn_key).spawn(2)
    return np.random.default_rng(placement), np.random.default_rng(noise)


def make_environment(task: str, generator: np.random.Generator) -> tuple[Any, np.ndarray]:
    """A new environment of `task`, placed at random by `generator`, and its first observation (39,).

    New for each episode: Meta-World writes placements into the model itself, so a used one could carry traces.

    Raises:
        ImportError: metaworld is not installed.
    """
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    except ImportError as error:
        raise missing_extra("metaworld", "sim") from error
    environment = ALL_V3_ENVIRONMENTS[task]()
    # As metaworld.MT1 does through a pickled task of 50 fixed placements, with our placement instead.
    environment._partially_observable = False
    # The cached space was built with the goal hidden, and observations are clipped to it.
    environment.__dict__.pop("sawyer_observation_space", None)
    environment._set_task_called = True
    environment._freeze_rand_vec, environment.seeded_rand_vec = False, True
    environment.np_random = generator
    observation, _ = environment.reset()
    return environment, observation


def record_episode(
    task: str,
    episode: int,
    *,
    seed: int,
    cameras: Sequence[str],
    action_noise: float,
    renderer: SceneRenderer | None,
    size: int,
) -> tuple[SimulatedEpisode, SceneRenderer]:
    """Record one episode of the expert until a few steps after success, at most `MAX_STEPS`.

    Args:
        task: a Meta-World name, e.g. "drawer-open-v3".
        episode: its index; with `seed` and `task` it decides the placement and the noise.
        seed: of the dataset.
        cameras: names of the scene's cameras.
        action_noise: standard deviation of the gaussian noise on each action component, in units of the action range
            -1..1.
        renderer: a renderer of the same task, or None to make one.
        size: side of the images in pixels.

    Returns:
        The episode, and the renderer for the next one of this task.

    Raises:
        ValueError: the scene has no such camera.
        ImportError: metaworld is not installed.
    """
    placement, noise = episode_generators(seed, task, episode)
    environment, observation = make_environment(task, placement)
    from metaworld.policies import ENV_POLICY_MAP

    experts: dict[str, Any] = ENV_POLICY_MAP
    expert = experts[task]()
    renderer = renderer or SceneRenderer(environment.model, size)
    views: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {camera: [] for camera in cameras}
    states: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    success: list[bool] = []
    while len(actions) < MAX_STEPS and not any(success[:-STEPS_AFTER_SUCCESS]):
        for camera in cameras:
            views[camera].append(renderer.render_with_mask(environment.model, environment.data, camera))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the experts' "constants may be too high": clipping is intended
            action = np.clip(expert.get_action(observation) + action_noise * noise.standard_normal(4), -1, 1)
        states.append(observation[: len(STATE_NAMES)])
        actions.append(action)
        observation, _, _, _, info = environment.step(action)
        success.append(bool(info["success"]))
    environment.close()
    recorded = SimulatedEpisode(
        images={camera: np.stack([image for image, _ in seen]) for camera, seen in views.items()},
        masks={camera: np.stack([mask for _, mask in seen]) for camera, seen in views.items()},
        states=np.asarray(states, np.float32),
        actions=np.asarray(actions, np.float32),
        success=np.asarray(success, bool),
    )
    return recorded, renderer
