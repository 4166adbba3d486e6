"""Meta-World for roll-outs: the pictures, the state and the actions of the demonstrations, and other placements.

Pictures come from the renderer of the demonstrations, at their size; drawing them does not touch the simulation. The
state is the arm's own (hand position, gripper), never where the objects are.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from lara_policy.simulation.metaworld.dataset import CAMERAS, NOMINAL_FPS
from lara_policy.simulation.metaworld.expert import (
    ACTION_NAMES,
    MAX_STEPS,
    STATE_NAMES,
    episode_generators,
    make_environment,
)
from lara_policy.simulation.metaworld.tasks import TASK_TEXT
from lara_policy.simulation.protocol import ImageSizes, StepResult, cameras_of
from lara_policy.simulation.rendering import SceneRenderer

STEP_LIMIT = 500
"""Meta-World refuses to go on after so many steps."""

# Meta-World's `info` holds `near_object` and `grasp_success` for every task, but in many they are no flags: constant,
# a reward between 0 and 1 (near_object of reach-v3 is even a distance), or never reached by the expert. Listed are
# the tasks where six episodes of the expert showed 0 or 1 alone, 0 at first, and 1 by the end of each success.
_NEAR_OBJECT = (
    "basketball bin-picking button-press-topdown button-press-topdown-wall button-press-wall coffee-pull coffee-push "
    "dial-turn door-unlock drawer-open hand-insert handle-press-side handle-pull-side handle-pull peg-insert-side "
    "peg-unplug-side pick-out-of-hole pick-place pick-place-wall plate-slide-back-side push-back push push-wall "
    "shelf-place stick-pull stick-push sweep-into sweep window-close window-open"
)
_GRASP_SUCCESS = (
    "assembly basketball bin-picking hammer hand-insert handle-pull-side lever-pull peg-unplug-side pick-out-of-hole "
    "pick-place pick-place-wall shelf-place stick-pull stick-push sweep-into sweep"
)
STAGES: dict[str, tuple[str, ...]] = {
    task: tuple(
        stage
        for stage, tasks in (("near_object", _NEAR_OBJECT), ("grasp_success", _GRASP_SUCCESS))
        if task.removesuffix("-v3") in tasks.split()
    )
    for task in TASK_TEXT
}
"""Task -> the stages it is known to tell, in Meta-World's words."""


def rollout_seed(seed: int) -> int:
    """The entropy of roll-outs: apart from that of every demonstration, whose seeds are below 2 ** 32.

    So roll-outs of any seed share no placement with demonstrations of any seed, the same number included.

    Raises:
        ValueError: a seed out of range.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed {seed}: takes 0 to 2 ** 32 - 1.")
    return (zlib.crc32(b"rollout") << 32) + seed


class MetaworldEnvironment:
    """One Meta-World task. See `Environment`.

    Args:
        task: A task, e.g. "drawer-open-v3".
        image_sizes: Images named after Meta-World's cameras, square and all of one size, as in the demonstrations.
        seed: Of the roll-outs.

    Raises:
        ValueError: An image that Meta-World's cameras do not take.
    """

    action_size = len(ACTION_NAMES)
    fps: float = NOMINAL_FPS
    max_steps = MAX_STEPS

    def __init__(self, task: str, *, image_sizes: ImageSizes, seed: int) -> None:
        self.name, self.text, self._task, self._entropy = f"metaworld:{task}", TASK_TEXT[task], task, rollout_seed(seed)
        self._cameras = cameras_of(image_sizes, {camera: camera for camera in CAMERAS}, "metaworld")
        self._size = _one_square(image_sizes)
        self._renderer: SceneRenderer | None = None
        self._environment: Any = None
        self._seen: np.ndarray | None = None  # float64 (39,), what experts see

    def reset(self, episode: int) -> None:
        """Place the objects anew. Episode e of a seed is always the same one, whatever was played before."""
        placement, _ = episode_generators(self._entropy, self._task, episode)
        if self._environment is not None:
            self._environment.close()
        self._environment, self._seen = make_environment(self._task, placement)

    def observe(self) -> dict[str, Any]:
        """Draw what the cameras see now; read where the hand is."""
        assert self._seen is not None, "reset first"
        images = {name: self._draw(camera) for name, camera in self._cameras.items()}
        return {"images": images, "state": self._seen[: len(STATE_NAMES)].astype(np.float32), "task": self.text}

    def _draw(self, camera: str) -> np.ndarray:
        model, data = self._environment.model, self._environment.data
        if self._renderer is None:  # kept for all episodes: they share the meshes
            self._renderer = SceneRenderer(model, self._size)
        return self._renderer.draw_image(model, data, camera)

    def step(self, action: np.ndarray) -> StepResult:
        """Move the hand and the gripper."""
        self._seen, _, _, _, info = self._environment.step(np.clip(np.asarray(action, np.float64), -1, 1))
        return StepResult(bool(info["success"]), {stage: bool(info[stage]) for stage in STAGES[self._task]})

    def close(self) -> None:
        """Give the OpenGL context back."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        if self._environment is not None:
            self._environment.close()
            self._environment = None


def _one_square(image_sizes: ImageSizes) -> int:
    sizes = {side for size in image_sizes.values() for side in size}
    if len(sizes) > 1:
        asked = ", ".join(f"{name} {height} x {width}" for name, (height, width) in image_sizes.items())
        raise ValueError(f"the policy wants {asked}: Meta-World's pictures are square and all of one size")
    return sizes.pop() if sizes else 0
