"""What a policy is rolled out in: the protocol of an environment, and the names by which people ask for one.

metaworld:drawer-open-v3    a task        metaworld:train, :unseen, :all    a set of tasks
libero:spatial/3            a task        libero:spatial                    all ten of the suite
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

SIMULATORS = ("metaworld", "libero")
IMAGE_PREFIX = "observation.images."

ImageSizes = Mapping[str, tuple[int, int]]
"""Name of an image, e.g. "observation.images.corner2" -> its height and width in pixels."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step led to. A stage is a part of the task, e.g. near_object; it has to be reached once, not kept."""

    success: bool
    stages: Mapping[str, bool] = field(default_factory=dict)


class Environment(Protocol):
    """One task of a simulator. Looking costs a picture, so it is apart from stepping, and changes nothing."""

    name: str  # "metaworld:push-v3"
    text: str  # what a policy is told
    action_size: int
    fps: float  # nominal; the demonstrations' rate
    max_steps: int  # the longest episode, unless somebody asks for another

    def reset(self, episode: int) -> None:
        """Start episode `episode`, which is a function of the seed, the task and this number alone."""

    def observe(self) -> dict[str, Any]:
        """Look: `images` name -> uint8 (H, W, 3) RGB, upright; `state` float32 (S,); `task` str."""

    def step(self, action: np.ndarray) -> Outcome:
        """Execute one action, float (action_size,), clipped to -1..1 as it was in the demonstrations."""

    def close(self) -> None:
        """Give back what the simulator holds. Closing twice is harmless."""


def select_environments(names: Sequence[str]) -> tuple[str, ...]:
    """Environments by name, each once and in the order given; sets of tasks become their tasks.

    Raises:
        ValueError: No name, an unknown simulator or task; the message lists what there is.
        ImportError: LIBERO is asked for and not installed.

    >>> select_environments(["metaworld:push-v3", "metaworld:unseen"])
    ('metaworld:push-v3', 'metaworld:door-open-v3', 'metaworld:sweep-into-v3')
    """
    if not names:
        raise ValueError(f"no environment given: write SIMULATOR:TASK, the simulator one of {', '.join(SIMULATORS)}")
    chosen: dict[str, None] = {}
    for name in names:
        simulator, task = _split(name)
        if simulator == "metaworld":
            from lara_policy.simulation.metaworld.tasks import select_tasks

            tasks = select_tasks([task])
        else:
            from lara_policy.simulation.libero import select_libero_tasks

            tasks = select_libero_tasks(task)
        chosen.update(dict.fromkeys(f"{simulator}:{task}" for task in tasks))
    return tuple(chosen)


def open_environment(name: str, *, image_sizes: ImageSizes, seed: int) -> Environment:
    """The environment of that name, not yet reset.

    Args:
        name: One of those that `select_environments` gives.
        image_sizes: The images to draw, and how large.
        seed: Decides the placements together with the task and the number of the episode. See `reset`.

    Raises:
        ValueError: An image that the simulator cannot draw.
        ImportError: The simulator is not installed.
    """
    simulator, task = _split(name)
    if simulator == "metaworld":
        from lara_policy.simulation.metaworld.environment import MetaworldEnvironment

        return MetaworldEnvironment(task, image_sizes=image_sizes, seed=seed)
    from lara_policy.simulation.libero import LiberoEnvironment

    return LiberoEnvironment(task, image_sizes=image_sizes, seed=seed)


def _split(name: str) -> tuple[str, str]:
    simulator, colon, task = name.partition(":")
    if not colon or not task or simulator not in SIMULATORS:
        raise ValueError(
            f"environment {name!r}: takes SIMULATOR:TASK, e.g. metaworld:drawer-open-v3 or libero:spatial/0; "
            f"simulators are {', '.join(SIMULATORS)}"
        )
    return simulator, task


def cameras_of(image_sizes: ImageSizes, known: Mapping[str, str], simulator: str) -> dict[str, str]:
    """Name of an image -> the simulator's camera, where `known` maps the last part of the name to the camera.

    Raises:
        ValueError: An image that no camera takes; the message lists those there are.

    >>> cameras_of({"observation.images.corner2": (96, 96)}, {"corner2": "corner2"}, "metaworld")
    {'observation.images.corner2': 'corner2'}
    """
    cameras = {}
    for name in image_sizes:
        camera = known.get(name.removeprefix(IMAGE_PREFIX))
        if camera is None:
            there = ", ".join(IMAGE_PREFIX + part for part in known)
            raise ValueError(f"the policy looks at {name!r}, which {simulator} does not have: there are {there}")
        cameras[name] = camera
    return cameras
