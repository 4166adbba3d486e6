"""Fake policies and a fake environment for roll-outs. A module of its own: worker processes import it by name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lara_policy.simulation.protocol import ImageSizes, StepResult


class FakePolicy:
    """Predicts noise determined by the seed, and records its observations."""

    def __init__(self, horizon: int = 16, executed_steps: int = 8, action_size: int = 4, size: int | None = 32) -> None:
        self.horizon, self.executed_steps, self.action_size = horizon, executed_steps, action_size
        self.image_sizes: ImageSizes = {} if size is None else {"observation.images.corner2": (size, size)}
        self.cameras = tuple(self.image_sizes)
        self.seen: list[Mapping[str, Any]] = []
        self.seeds: list[int] = []

    def predict(self, observation: Mapping[str, Any], *, seed: int) -> np.ndarray:
        self.seen.append(observation)
        self.seeds.append(seed)
        noise = np.random.default_rng(seed).uniform(-1, 1, (self.horizon, self.action_size))
        return noise.astype(np.float32)


class Expert(FakePolicy):
    """Meta-World's scripted expert, which reads the full state from the environment."""

    def __init__(self, environment: Any, task: str) -> None:
        from metaworld.policies import ENV_POLICY_MAP

        super().__init__(horizon=1, executed_steps=1, size=None)
        self._environment, self._expert = environment, ENV_POLICY_MAP[task]()

    def predict(self, observation: Mapping[str, Any], *, seed: int) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._expert.get_action(self._environment._observation)[None].astype(np.float32)


class FakeEnvironment:
    """Succeeds at a given step, and records the actions."""

    name, text, action_size, fps, max_steps = "metaworld:fake", "do it", 4, 10.0, 40

    def __init__(self, success_step: int = 0, near_step: int = 0) -> None:
        self.success_step, self.near_step, self.observe_calls = success_step, near_step, 0
        self.actions: list[np.ndarray] = []

    def reset(self, episode: int) -> None:
        self.actions.clear()

    def observe(self) -> dict[str, Any]:
        self.observe_calls += 1
        image = np.full((32, 32, 3), len(self.actions), np.uint8)
        images = {"observation.images.corner2": image}
        return {"images": images, "state": np.zeros(4, np.float32), "task": self.text}

    def step(self, action: np.ndarray) -> StepResult:
        self.actions.append(action)
        step = len(self.actions)
        return StepResult(step == self.success_step, {"near_object": step == self.near_step})

    def close(self) -> None: ...


def write_policy(folder: Path) -> Path:
    """A folder with a file of weights, as a policy's has."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"no weights")
    return folder


def load_random(folder: str) -> FakePolicy:
    return FakePolicy()


def load_wide(folder: str) -> FakePolicy:
    return FakePolicy(action_size=7)


def load_libero(folder: str) -> FakePolicy:
    policy = FakePolicy(action_size=7)
    policy.image_sizes = {"observation.images.image": (64, 64), "observation.images.wrist_image": (64, 64)}
    policy.cameras = tuple(policy.image_sizes)
    return policy


def load_and_die(folder: str) -> FakePolicy:
    os._exit(9)
