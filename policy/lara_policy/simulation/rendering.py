"""MuJoCo rendering: the OpenGL backend, images with the arm's mask, and jobs in worker processes that render.

The backend must be chosen before `mujoco` is imported, which reads MUJOCO_GL then. Shadows, reflections and
multisampling are off: on software OpenGL they cost ten times what the rest does.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lara_tokenizer._files import available_cores
from lara_tokenizer._parse import shown
from lara_tokenizer.errors import missing_extra, printable

ARM_ROOT = "right_arm_base_link"
"""The first body of the Sawyer arm; the arm is this body and all below it (without the pedestal)."""

_PROBE = "import mujoco; c = mujoco.GLContext(16, 16); c.make_current(); c.free()"
_PROBE_SECONDS = 60


@lru_cache(maxsize=1)
def choose_gl_backend() -> str:
    """A value of MUJOCO_GL that works on this machine: the user's choice, or else the first that opens.

    Each candidate is tried in a process of its own, because a failed OpenGL start cannot be undone in this one.

    Raises:
        OSError: none works; the message says which were tried and what to install.

    >>> choose_gl_backend()  # doctest: +SKIP
    'egl'
    """
    requested = os.environ.get("MUJOCO_GL")
    candidates = (requested,) if requested else ("egl", "osmesa") if sys.platform.startswith("linux") else ("glfw",)
    failures = []
    for backend in candidates:
        failure = _probe(backend)
        if failure is None:
            return backend
        failures.append(f"{backend} ({failure})")
    raise OSError(
        f"MuJoCo cannot render here; tried {', '.join(failures)}. "
        "Install libegl1 and libegl-mesa0 (or libosmesa6), or set MUJOCO_GL to a backend that works."
    )


def _probe(backend: str) -> str | None:
    """The reason that a backend does not work; None if it does."""
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, **gl_environment(backend)},
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_PROBE_SECONDS} s"
    return None if probe.returncode == 0 else (probe.stderr.strip().splitlines() or ["no message"])[-1]


def gl_environment(backend: str) -> dict[str, str]:
    """Environment variables that make MuJoCo and PyOpenGL use `backend`."""
    variables = {"MUJOCO_GL": backend}
    if backend in ("egl", "osmesa"):
        variables["PYOPENGL_PLATFORM"] = backend
    return variables


class SceneRenderer:
    """Renders square images of MuJoCo models that share their meshes and textures with `model`.

    The OpenGL buffers are filled once, from the first model; other instances of the same scene are rendered with them,
    which saves half a second per episode.

    >>> with SceneRenderer(env.model, size=96) as renderer:  # doctest: +SKIP
    ...     image, mask = renderer.render_with_mask(env.model, env.data, "corner2")
    >>> image.shape, mask.dtype  # doctest: +SKIP
    ((96, 96, 3), dtype('bool'))
    """

    def __init__(self, model: Any, size: int) -> None:
        import mujoco

        self._mujoco = mujoco
        self.size = size
        model.vis.quality.shadowsize = 0
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._gl = mujoco.GLContext(size, size)
        self._gl.make_current()
        # The context registers the end of OpenGL at exit; what is registered later runs before it.
        atexit.register(self.close)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        # Room for decorations (sites, contacts) besides the model's geoms.
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 1000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._camera = mujoco.MjvCamera()
        self._options = mujoco.MjvOption()
        self._viewport = mujoco.MjrRect(0, 0, size, size)
        self._pixels = np.empty((size, size, 3), np.uint8)

    def __enter__(self) -> SceneRenderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the OpenGL context. Closing twice is harmless."""
        if self._gl is not None:
            self._context.free()
            self._gl.free()
            self._gl = None
            atexit.unregister(self.close)

    def render_with_mask(self, model: Any, data: Any, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """The image, uint8 (size, size, 3) RGB, and the arm's mask, bool (size, size), of a named camera.

        Raises:
            ValueError: the scene has no such camera; the message lists its cameras.
        """
        upright = self._aim(model, data, camera)
        image = self._read_pixels()[upright].copy()
        return image, self._arm_mask(model)[upright].copy()

    def render(self, model: Any, data: Any, camera: str) -> np.ndarray:
        """Only the image of `render_with_mask`, at about 60 % of the cost."""
        upright = self._aim(model, data, camera)
        return self._read_pixels()[upright].copy()

    def _aim(self, model: Any, data: Any, camera: str) -> tuple[slice, slice]:
        """Update the scene and the camera; returns the slices that turn the rendered image upright."""
        mujoco, camera_id = self._mujoco, camera_index(model, camera)
        self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera_id
        mujoco.mjv_updateScene(model, data, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        # OpenGL's first row is the lowest: flip the rows, and both axes for a camera mounted upside down.
        upside_down = data.cam_xmat[camera_id].reshape(3, 3)[2, 1] < -0.1
        return (slice(None), slice(None, None, -1)) if upside_down else (slice(None, None, -1), slice(None))

    def _read_pixels(self) -> np.ndarray:
        self._mujoco.mjr_render(self._viewport, self._scene, self._context)
        self._mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
        return self._pixels

    def _arm_mask(self, model: Any) -> np.ndarray:
        mujoco, flags = self._mujoco, self._mujoco.mjtRndFlag
        self._scene.flags[flags.mjRND_SEGMENT] = self._scene.flags[flags.mjRND_IDCOLOR] = 1
        colours = self._read_pixels().astype(np.int32)
        self._scene.flags[flags.mjRND_SEGMENT] = self._scene.flags[flags.mjRND_IDCOLOR] = 0
        # Rendered object s has the colour s + 1, least significant byte in red; 0 is the background.
        object_index = colours[..., 0] + (colours[..., 1] << 8) + (colours[..., 2] << 16)
        is_arm = np.zeros(self._scene.ngeom + 1, bool)
        arm = arm_geoms(model)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                is_arm[geom.segid + 1] = arm[geom.objid]
        return is_arm[object_index]


def arm_geoms(model: Any) -> np.ndarray:
    """Mask of the geoms of the robot's arm and hand: bool (ngeom,)."""
    in_arm = np.zeros(model.nbody, bool)
    in_arm[model.body(ARM_ROOT).id] = True
    for body in range(1, model.nbody):  # parents come before their children
        in_arm[body] |= in_arm[model.body_parentid[body]]
    return in_arm[model.geom_bodyid]


def camera_index(model: Any, name: str) -> int:
    """The index of a named camera.

    Raises:
        ValueError: the scene has no such camera; the message lists its cameras.
    """
    names = [model.camera(index).name for index in range(model.ncam)]
    if name not in names:
        raise ValueError(f"unknown camera {name!r}: this scene has {', '.join(names)}")
    return names.index(name)


def require_metaworld() -> None:
    """Raise ImportError, naming the extra to install, if Meta-World or MuJoCo is missing."""
    for package in ("metaworld", "mujoco"):
        if find_spec(package) is None:
            raise missing_extra(package, "sim")


def check_same_job(folder: Path, holds: str, recorded: Any, job: Mapping[str, Any]) -> None:
    """Raise ValueError, listing the differences, if a folder's recorded job is not this one.

    Args:
        folder: the folder of the results.
        holds: the kind of its results, e.g. "episodes".
        recorded, job: everything that decides the results, as JSON types.
    """
    if not isinstance(recorded, Mapping):
        raise ValueError(f"{folder}: the description of its job is damaged: use another folder, or remove it")
    differing = [key for key in {**job, **recorded} if recorded.get(key) != job.get(key)]
    if differing:
        was = "; ".join(
            f"{printable(key)[:40]} was {shown(recorded.get(key))}, is {shown(job.get(key))}" for key in differing
        )
        raise ValueError(f"{folder} holds {holds} of another job ({was}): use another folder, or remove it")


def run_rendering_jobs(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    workers: int | None,
    initializer: Callable[[], None] | None = None,
) -> Generator[Any, None, None]:
    """Yield `function(*job)` of each job, as they end in worker processes that can render; no job, no process.

    Args:
        function: a module-level function.
        workers: processes; None for one per core.
        initializer: called once in each process.

    Raises:
        OSError: no OpenGL backend works, or a process was killed.
    """
    if not jobs:
        return
    # Children read the backend from the environment before they import mujoco.
    os.environ.update(gl_environment(choose_gl_backend()))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    processes = min(workers or available_cores(), len(jobs))
    # Spawned, not forked: a forked child would share the parent's OpenGL state.
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=initializer)
    try:
        for future in as_completed([pool.submit(function, *job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise OSError(
            "a simulation process was killed (too little memory?): run the same command again, with fewer workers if "
            "need be; episodes that are in its output folder (--out) are not repeated"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C: jobs that have not started are dropped
