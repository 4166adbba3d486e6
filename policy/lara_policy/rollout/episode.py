"""One roll-out: look, predict a chunk of actions, execute its first few, look again.

Everything random in an episode is a function of (seed, environment, episode): the placement, which the environment
draws, and one seed for each prediction, which the policy gets. So episodes can be played in any order by any process.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from lara_policy.simulation.protocol import Environment, ImageSizes, StepResult

SIMULATOR_ERRORS = (RuntimeError, ArithmeticError, AssertionError, IndexError)
"""What a simulator raises when the physics explodes."""


class RolloutPolicy(Protocol):
    """What a policy has to offer to be rolled out."""

    horizon: int  # C, actions of a predicted chunk
    executed_steps: int  # how many of them are executed before the next prediction
    embodiment: str | None  # which of its robots acts, where it knows several
    cameras: tuple[str, ...]  # the images it looks at, e.g. ("observation.images.corner2",)
    image_sizes: ImageSizes  # and how large they are

    def predict(self, observation: Mapping[str, Any], *, seed: int) -> np.ndarray:
        """Actions, float32 (C, A) in the simulator's units, from what is seen; equal seeds give equal actions.

        `observation` holds `images` name -> uint8 (H, W, 3), `state` float32 (S,) and `task`, the instruction.
        """


@dataclass(frozen=True, slots=True)
class PlayedEpisode:
    """What came of one episode. Steps are counted from 1: the outcome of the first action is step 1."""

    environment: str
    episode: int
    steps: int  # executed; an episode ends with success, or at its longest
    predictions: int
    success_step: int | None = None  # the first step after which the goal was met
    stages: dict[str, int | None] = field(default_factory=dict)  # stage -> the first step that reached it
    broken: str | None = None  # why the simulator gave up; counts as no success

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON takes them."""
        return asdict(self)


@dataclass(slots=True)
class Recording:
    """What a video is made of: T steps give T + 1 pictures, one before each action and one at the end."""

    camera: str
    frames: list[np.ndarray] = field(default_factory=list)  # uint8 (H, W, 3)
    chunk_starts: list[int] = field(default_factory=list)  # the frames at which a chunk was predicted


def play_episode(
    policy: RolloutPolicy,
    environment: Environment,
    episode: int,
    *,
    seed: int,
    executed_steps: int | None = None,
    max_steps: int | None = None,
    recording: Recording | None = None,
) -> PlayedEpisode:
    """Let `policy` play one episode until success, or for `max_steps` steps.

    Args:
        policy: Predicts chunks of actions.
        environment: Where it acts; it is reset first.
        episode: The number of the episode.
        seed: Of the roll-outs; decides each prediction's noise.
        executed_steps: Actions of a chunk to execute; None for the policy's own number.
        max_steps: The longest episode; None for the environment's own number.
        recording: Filled with the pictures of its camera; None draws only what the policy looks at.

    Raises:
        ValueError: A chunk of the wrong shape, or with a number that is not finite; the message says where.
    """
    executed, longest = executed_steps or policy.executed_steps, max_steps or environment.max_steps
    if not 1 <= executed <= policy.horizon:
        raise ValueError(f"executed steps {executed}: takes 1 to {policy.horizon}, the actions of a predicted chunk.")
    tally, predictions, broken = _Tally(), 0, None
    environment.reset(episode)
    while tally.success_step is None and tally.steps < longest and broken is None:
        observation = environment.observe()
        noise = _prediction_seed(seed, environment.name, episode, predictions)
        chunk = np.asarray(policy.predict(observation, seed=noise))
        _check(chunk, (policy.horizon, environment.action_size), f"{environment.name}, episode {episode}", tally.steps)
        predictions += 1
        try:
            _execute(environment, chunk[: min(executed, longest - tally.steps)], observation, tally, recording)
        except SIMULATOR_ERRORS as error:
            broken = f"step {tally.steps + 1}: {type(error).__name__}: {error}"
    if recording is not None and broken is None:
        recording.frames.append(environment.observe()["images"][recording.camera])
    return PlayedEpisode(environment.name, episode, tally.steps, predictions, tally.success_step, tally.stages, broken)


@dataclass(slots=True)
class _Tally:
    """What has been reached so far: success and stages are latched, they need not last."""

    steps: int = 0
    success_step: int | None = None
    stages: dict[str, int | None] = field(default_factory=dict)

    def count(self, outcome: StepResult) -> None:
        self.steps += 1
        for stage, reached in outcome.stages.items():
            if self.stages.setdefault(stage, None) is None and reached:
                self.stages[stage] = self.steps
        if outcome.success and self.success_step is None:
            self.success_step = self.steps


def _execute(
    environment: Environment,
    actions: np.ndarray,
    observation: Mapping[str, Any],
    tally: _Tally,
    recording: Recording | None,
) -> None:
    """Execute actions until the goal is met. `observation` is what was seen before the first of them."""
    if recording is not None:
        recording.chunk_starts.append(tally.steps)
    for index, action in enumerate(actions):
        if recording is not None:
            seen = environment.observe() if index else observation
            recording.frames.append(seen["images"][recording.camera])
        tally.count(environment.step(action))
        if tally.success_step is not None:
            return


def _prediction_seed(seed: int, environment: str, episode: int, prediction: int) -> int:
    """One seed for each prediction, 0 to 2 ** 32 - 1, by the rule of `expert.episode_generators`."""
    spawn_key = (zlib.crc32(environment.encode()), episode, prediction)
    return int(np.random.SeedSequence(seed, spawn_key=spawn_key).generate_state(1)[0])


def _check(chunk: np.ndarray, shape: tuple[int, int], where: str, step: int) -> None:
    """Refuse what is no chunk of `shape`: (actions, numbers of an action)."""
    at = f"{where}, step {step + 1}: the policy predicted"
    if chunk.ndim != 2 or chunk.shape[1] != shape[1]:
        raise ValueError(
            f"{at} an array of shape {chunk.shape}; {where.partition(':')[0]} takes {shape[1]} numbers an action, so "
            f"{shape}. Was the policy trained for this robot?"
        )
    if chunk.shape[0] != shape[0]:
        raise ValueError(f"{at} {chunk.shape[0]} actions, its horizon is {shape[0]}: takes {shape}.")
    if not np.isfinite(chunk).all():
        row, column = np.argwhere(~np.isfinite(chunk))[0]
        raise ValueError(
            f"{at} {chunk[row, column]} for number {column} of action {row}: takes finite numbers. A loss that was "
            "not finite in training, or statistics of actions with a deviation of 0, are usual reasons."
        )
