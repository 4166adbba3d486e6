"""The interface of a simulated environment, in which a policy is rolled out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

IMAGE_PREFIX = "observation.images."

SIMULATOR_ERRORS = (RuntimeError, ArithmeticError, AssertionError, IndexError)
"""Raised by simulators when the physics diverges."""

ImageSizes = Mapping[str, tuple[int, int]]
"""Name of an image, e.g. "observation.images.corner2" -> its height and width in pixels."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one action."""

    success: bool
    stages: Mapping[str, bool] = field(default_factory=dict)
    """Parts of the task, e.g. near_object, and whether the state after the action satisfies each."""


class Environment(Protocol):
    """One task of a simulator. Rendering is expensive, so `observe` is separate from `step`; it changes nothing."""

    name: str  # "metaworld:push-v3"
    text: str  # the instruction for the policy
    action_size: int
    fps: float  # nominal frame rate, that of the demonstrations
    max_steps: int  # default length limit of an episode

    def reset(self, episode: int) -> None:
        """Start an episode; its initial state depends only on the seed, the task and the episode's index."""

    def observe(self) -> dict[str, Any]:
        """Render the cameras: `images` name -> uint8 (H, W, 3) RGB, upright; `state` float32 (S,); `task` str."""

    def step(self, action: np.ndarray) -> StepResult:
        """Execute one action, float (action_size,), clipped to -1..1 as in the demonstrations."""

    def close(self) -> None:
        """Release the simulator. Closing twice is harmless."""


def select_cameras(image_sizes: ImageSizes, known: Mapping[str, str], simulator: str) -> dict[str, str]:
    """Name of an image -> the simulator's camera; `known` maps the last part of the name to the camera.

    Raises:
        ValueError: an image without a camera; the message lists the known ones.

    >>> select_cameras({"observation.images.corner2": (96, 96)}, {"corner2": "corner2"}, "metaworld")
    {'observation.images.corner2': 'corner2'}
    """
    cameras = {}
    for name in image_sizes:
        camera = known.get(name.removeprefix(IMAGE_PREFIX))
        if camera is None:
            available = ", ".join(IMAGE_PREFIX + part for part in known)
            raise ValueError(f"the policy needs image {name!r}, not rendered by {simulator}: there are {available}")
        cameras[name] = camera
    return cameras
