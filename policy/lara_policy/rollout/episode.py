"""One episode of a roll-out: observe, predict a chunk of actions, execute its first ones, repeat.

All random numbers of an episode depend only on (seed, environment, episode): the initial state, drawn by the
environment, and one seed per prediction, passed to the policy. So episodes can run in any order in any process.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from lara_policy.simulation.protocol import SIMULATOR_ERRORS, Environment, ImageSizes, StepResult


class RolloutPolicy(Protocol):
    """The interface of a policy that can be rolled out."""

    horizon: int  # the chunk size C, actions per prediction
    executed_steps: int  # actions of a chunk executed before the next prediction
    embodiment: str | None  # the robot that acts, if the policy has several
    cameras: tuple[str, ...]  # names of the images it sees, e.g. ("observation.images.corner2",)
    image_sizes: ImageSizes

    def predict(self, observation: Mapping[str, Any], *, seed: int) -> np.ndarray:
        """Actions, float32 (C, A) in the simulator's units; equal seeds give equal actions.

        `observation` holds `images` name -> uint8 (H, W, 3), `state` float32 (S,) and `task`, the instruction.
        """


@dataclass(slots=True)
class EpisodeResult:
    """The result of one episode, which it fills step by step. Steps are counted from 1, the state after an action.

    Success and stages are latched: they need not last.
    """

    environment: str
    episode: int
    steps: int = 0  # executed; an episode ends with success or at its length limit
    predictions: int = 0
    success_step: int | None = None  # the first step at which the goal was reached
    stages: dict[str, int | None] = field(default_factory=dict)  # stage -> the first step at which it was reached
    broken: str | None = None  # the simulator's error, which counts as no success

    def add(self, step: StepResult) -> None:
        """Count an executed step."""
        self.steps += 1
        for stage, reached in step.stages.items():
            if self.stages.setdefault(stage, None) is None and reached:
                self.stages[stage] = self.steps
        if step.success and self.success_step is None:
            self.success_step = self.steps

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)


@dataclass(slots=True)
class Recording:
    """The images of an episode for its video: T steps give T + 1 images, one before each action and one at the end."""

    camera: str
    frames: list[np.ndarray] = field(default_factory=list)  # uint8 (H, W, 3)
    chunk_starts: list[int] = field(default_factory=list)  # indices of the frames at which a chunk was predicted


def run_episode(
    policy: RolloutPolicy,
    environment: Environment,
    episode: int,
    *,
    seed: int,
    executed_steps: int | None = None,
    max_steps: int | None = None,
    recording: Recording | None = None,
) -> EpisodeResult:
    """Run `policy` until success, or for `max_steps` steps.

    Args:
        policy: predicts chunks of actions.
        environment: executes them; it is reset first.
        episode: index of the episode.
        seed: of the roll-outs; decides the noise of each prediction.
        executed_steps: actions executed per chunk; None for the policy's default.
        max_steps: length limit; None for the environment's own.
        recording: filled with the images of its camera; None renders only the policy's observations.

    Raises:
        ValueError: a chunk of the wrong shape, or with NaN or infinity; the message contains the step.
    """
    executed, limit = executed_steps or policy.executed_steps, max_steps or environment.max_steps
    if not 1 <= executed <= policy.horizon:
        raise ValueError(f"executed steps {executed}: takes 1 to {policy.horizon}, the actions of a predicted chunk.")
    result = EpisodeResult(environment.name, episode)
    environment.reset(episode)
    while result.success_step is None and result.steps < limit and result.broken is None:
        observation = environment.observe()
        noise_seed = _prediction_seed(seed, environment.name, episode, result.predictions)
        chunk = np.asarray(policy.predict(observation, seed=noise_seed))
        _check_chunk(chunk, (policy.horizon, environment.action_size), result)
        result.predictions += 1
        # Only the simulator's errors count as a failed episode; those of the policy stop the run.
        try:
            _execute(environment, chunk[: min(executed, limit - result.steps)], observation, result, recording)
        except SIMULATOR_ERRORS as error:
            result.broken = f"step {result.steps + 1}: {type(error).__name__}: {error}"
    if recording is not None and result.broken is None:
        recording.frames.append(environment.observe()["images"][recording.camera])
    return result


def _execute(
    environment: Environment,
    actions: np.ndarray,
    observation: Mapping[str, Any],
    result: EpisodeResult,
    recording: Recording | None,
) -> None:
    """Execute actions until the goal is reached. `observation` is the one before the first action."""
    if recording is not None:
        recording.chunk_starts.append(result.steps)
    for index, action in enumerate(actions):
        if recording is not None:
            current = environment.observe() if index else observation
            recording.frames.append(current["images"][recording.camera])
        result.add(environment.step(action))
        if result.success_step is not None:
            return


def _prediction_seed(seed: int, environment: str, episode: int, prediction: int) -> int:
    """The seed of a prediction, 0 to 2 ** 32 - 1, derived as in `expert.episode_generators`."""
    spawn_key = (zlib.crc32(environment.encode()), episode, prediction)
    return int(np.random.SeedSequence(seed, spawn_key=spawn_key).generate_state(1)[0])


def _check_chunk(chunk: np.ndarray, shape: tuple[int, int], result: EpisodeResult) -> None:
    """Raise ValueError for a chunk that is not of `shape` (actions, action size), or not finite."""
    at = f"{result.environment}, episode {result.episode}, step {result.steps + 1}: the policy predicted"
    if chunk.ndim != 2 or chunk.shape[1] != shape[1]:
        raise ValueError(
            f"{at} an array of shape {chunk.shape}; {result.environment.partition(':')[0]} takes {shape[1]} numbers "
            f"per action, so {shape}. Was the policy trained for this robot?"
        )
    if chunk.shape[0] != shape[0]:
        raise ValueError(f"{at} {chunk.shape[0]} actions, its horizon is {shape[0]}: takes {shape}.")
    if not np.isfinite(chunk).all():
        row, column = np.argwhere(~np.isfinite(chunk))[0]
        raise ValueError(
            f"{at} {chunk[row, column]} for component {column} of action {row}: takes finite values. A loss that was "
            "not finite in training, or statistics of actions with a deviation of 0, are usual reasons."
        )
