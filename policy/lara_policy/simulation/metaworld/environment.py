"""The Meta-World environment of roll-outs: images, state and actions of the demonstrations, other initial placements.

Images come from the renderer of the demonstrations, at their size. The state is the arm's own (hand position, gripper),
never where the objects are.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from lara_policy.simulation.metaworld.expert import (
    ACTION_NAMES,
    CAMERAS,
    MAX_STEPS,
    NOMINAL_FPS,
    STATE_NAMES,
    episode_generators,
    make_environment,
)
from lara_policy.simulation.metaworld.tasks import STAGES, TASK_TEXT
from lara_policy.simulation.protocol import ImageSizes, StepResult, select_cameras
from lara_policy.simulation.rendering import SceneRenderer

STEP_LIMIT = 500
"""Meta-World refuses further steps after these."""


def rollout_seed(seed: int) -> int:
    """The entropy of roll-outs, which differs from that of every demonstration (whose seeds are below 2 ** 32).

    So roll-outs share no placement with demonstrations, whatever the two seeds are.

    Raises:
        ValueError: a seed out of range.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed {seed}: takes 0 to 2 ** 32 - 1.")
    return (zlib.crc32(b"rollout") << 32) + seed


class MetaworldEnvironment:
    """One Meta-World task, an `Environment`.

    Args:
        task: a task, e.g. "drawer-open-v3".
        image_sizes: images named after Meta-World's cameras, square and all of one size, as in the demonstrations.
        seed: of the roll-outs.

    Raises:
        ValueError: an image that no camera of Meta-World takes.
    """

    action_size = len(ACTION_NAMES)
    fps: float = NOMINAL_FPS
    max_steps = MAX_STEPS

    def __init__(self, task: str, *, image_sizes: ImageSizes, seed: int) -> None:
        self.name = f"metaworld:{task}"
        self.text = TASK_TEXT[task]
        self._task = task
        self._entropy = rollout_seed(seed)
        self._cameras = select_cameras(image_sizes, {camera: camera for camera in CAMERAS}, "metaworld")
        self._size = _one_square(image_sizes)
        self._renderer: SceneRenderer | None = None
        self._environment: Any = None
        self._observation: np.ndarray | None = None  # float64 (39,), the full state

    def reset(self, episode: int) -> None:
        """Place the objects. Episode e of a seed is always the same, whatever ran before."""
        placement, _ = episode_generators(self._entropy, self._task, episode)
        if self._environment is not None:
            self._environment.close()
        self._environment, self._observation = make_environment(self._task, placement)

    def observe(self) -> dict[str, Any]:
        """Render the cameras and read the hand's state."""
        assert self._observation is not None, "reset first"
        images = {name: self._render(camera) for name, camera in self._cameras.items()}
        return {"images": images, "state": self._observation[: len(STATE_NAMES)].astype(np.float32), "task": self.text}

    def _render(self, camera: str) -> np.ndarray:
        model, data = self._environment.model, self._environment.data
        if self._renderer is None:  # one for all episodes: they share the meshes
            self._renderer = SceneRenderer(model, self._size)
        return self._renderer.render(model, data, camera)

    def step(self, action: np.ndarray) -> StepResult:
        """Move the hand and the gripper."""
        self._observation, _, _, _, info = self._environment.step(np.clip(np.asarray(action, np.float64), -1, 1))
        return StepResult(bool(info["success"]), {stage: bool(info[stage]) for stage in STAGES[self._task]})

    def close(self) -> None:
        """Release the OpenGL context and the simulator."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        if self._environment is not None:
            self._environment.close()
            self._environment = None


def _one_square(image_sizes: ImageSizes) -> int:
    sizes = {side for size in image_sizes.values() for side in size}
    if len(sizes) > 1:
        requested = ", ".join(f"{name} {height} x {width}" for name, (height, width) in image_sizes.items())
        raise ValueError(f"the policy requires {requested}: Meta-World's images are square and all of one size")
    return sizes.pop() if sizes else 0
