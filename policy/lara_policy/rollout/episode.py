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


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """The result of one episode. Steps are counted from 1, the state after the first action."""

    environment: str
    episode: int
    steps: int  # executed; an episode ends with success or at its length limit
    predictions: int
    success_step: int | None = None  # the first step at which the goal was reached
    stages: dict[str, int | None] = field(default_factory=dict)  # stage -> the first step at which it was reached
    broken: str | None = None  # the simulator's error, which counts as no success

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
    progress, predictions, broken = _Progress(), 0, None
    environment.reset(episode)
    while progress.success_step is None and progress.steps < limit and broken is None:
        observation = environment.observe()
        noise_seed = _prediction_seed(seed, environment.name, episode, predictions)
        chunk = np.asarray(policy.predict(observation, seed=noise_seed))
        shape = (policy.horizon, environment.action_size)
        _check_chunk(chunk, shape, f"{environment.name}, episode {episode}", progress.steps)
        predictions += 1
        # Only the simulator's errors count as a failed episode; those of the policy stop the run.
        try:
            _execute(environment, chunk[: min(executed, limit - progress.steps)], observation, progress, recording)
        except SIMULATOR_ERRORS as error:
            broken = f"step {progress.steps + 1}: {type(error).__name__}: {error}"
    if recording is not None and broken is None:
        recording.frames.append(environment.observe()["images"][recording.camera])
    return EpisodeResult(
        environment.name, episode, progress.steps, predictions, progress.success_step, progress.stages, broken
    )


@dataclass(slots=True)
class _Progress:
    """Executed steps, and success and stages reached so far; both are latched, they need not last."""

    steps: int = 0
    success_step: int | None = None
    stages: dict[str, int | None] = field(default_factory=dict)

    def count(self, result: StepResult) -> None:
        self.steps += 1
        for stage, reached in result.stages.items():
            if self.stages.setdefault(stage, None) is None and reached:
                self.stages[stage] = self.steps
        if result.success and self.success_step is None:
            self.success_step = self.steps


def _execute(
    environment: Environment,
    actions: np.ndarray,
    observation: Mapping[str, Any],
    progress: _Progress,
    recording: Recording | None,
) -> None:
    """Execute actions until the goal is reached. `observation` is the one before the first action."""
    if recording is not None:
        recording.chunk_starts.append(progress.steps)
    for index, action in enumerate(actions):
        if recording is not None:
            current = environment.observe() if index else observation
            recording.frames.append(current["images"][recording.camera])
        progress.count(environment.step(action))
        if progress.success_step is not None:
            return


def _prediction_seed(seed: int, environment: str, episode: int, prediction: int) -> int:
    """The seed of a prediction, 0 to 2 ** 32 - 1, derived as in `expert.episode_generators`."""
    spawn_key = (zlib.crc32(environment.encode()), episode, prediction)
    return int(np.random.SeedSequence(seed, spawn_key=spawn_key).generate_state(1)[0])


def _check_chunk(chunk: np.ndarray, shape: tuple[int, int], where: str, step: int) -> None:
    """Raise ValueError for a chunk that is not of `shape` (actions, action size), or not finite."""
    at = f"{where}, step {step + 1}: the policy predicted"
    if chunk.ndim != 2 or chunk.shape[1] != shape[1]:
        raise ValueError(
            f"{at} an array of shape {chunk.shape}; {where.partition(':')[0]} takes {shape[1]} numbers per action, so "
            f"{shape}. Was the policy trained for this robot?"
        )
    if chunk.shape[0] != shape[0]:
        raise ValueError(f"{at} {chunk.shape[0]} actions, its horizon is {shape[0]}: takes {shape}.")
    if not np.isfinite(chunk).all():
        row, column = np.argwhere(~np.isfinite(chunk))[0]
        raise ValueError(
            f"{at} {chunk[row, column]} for component {column} of action {row}: takes finite values. A loss that was "
            "not finite in training, or statistics of actions with a deviation of 0, are usual reasons."
        )
