"""Pictures of a MuJoCo scene and the arm's mask in them, drawn fast and upright.

Shadows, reflections and multisampling are off: on software OpenGL they cost ten times what the rest does.
"""

from __future__ import annotations

from typing import Any

import numpy as np


import os
import subprocess
import sys
from functools import lru_cache

_PROBE = "import mujoco; c = mujoco.GLContext(16, 16); c.make_current(); c.free()"
_SECONDS = 60


@lru_cache(maxsize=1)
def choose_gl_backend() -> str:
    """The value for MUJOCO_GL that works on this machine: the user's own choice, or else the first that opens.

    Each candidate is tried in a process of its own, because a failed OpenGL start cannot be undone in this one.

    Raises:
        OSError: None works; the message says which were tried and what to install.

    >>> choose_gl_backend()  # doctest: +SKIP
    'egl'
    """
    asked = os.environ.get("MUJOCO_GL")
    candidates = (asked,) if asked else ("egl", "osmesa") if sys.platform.startswith("linux") else ("glfw",)
    reasons = []
    for backend in candidates:
        reason = _reason_not_to_use(backend)
        if reason is None:
            return backend
        reasons.append(f"{backend} ({reason})")
    raise OSError(
        f"MuJoCo cannot render here; tried {', '.join(reasons)}. "
        "Install libegl1 and libegl-mesa0 (or libosmesa6), or set MUJOCO_GL to a backend that works."
    )


def _reason_not_to_use(backend: str) -> str | None:
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, **gl_environment(backend)},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_SECONDS} s"
    return None if probe.returncode == 0 else (probe.stderr.strip().splitlines() or ["no message"])[-1]


def gl_environment(backend: str) -> dict[str, str]:
    """The environment variables that make MuJoCo and PyOpenGL use `backend`."""
    variables = {"MUJOCO_GL": backend}
    if backend in ("egl", "osmesa"):
        variables["PYOPENGL_PLATFORM"] = backend
    return variables


ARM_ROOT = "right_arm_base_link"
"""The first body of the Sawyer arm: it and all bodies below it are the arm (the pedestal is not)."""


class SceneRenderer:
    """Draws square pictures of models that share their meshes and textures with `model`.

    The OpenGL buffers are filled once, from the first model; other instances of the same scene can be drawn with
    them, which saves half a second an episode.

    >>> with SceneRenderer(env.model, size=96) as renderer:  # doctest: +SKIP
    ...     image, mask = renderer.draw(env.model, env.data, "corner2")
    >>> image.shape, mask.dtype  # doctest: +SKIP
    ((96, 96, 3), dtype('bool'))
    """

    def __init__(self, model: Any, size: int) -> None:
        import mujoco

        self._mujoco, self.size = mujoco, size
        model.vis.quality.shadowsize = 0
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._gl = mujoco.GLContext(size, size)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 1000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._camera, self._options = mujoco.MjvCamera(), mujoco.MjvOption()
        self._viewport = mujoco.MjrRect(0, 0, size, size)
        self._pixels = np.empty((size, size, 3), np.uint8)

    def __enter__(self) -> SceneRenderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the OpenGL context back. Closing twice is harmless."""
        if self._gl is not None:
            self._context.free()
            self._gl.free()
            self._gl = None

    def draw(self, model: Any, data: Any, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """The picture, uint8 (size, size, 3) RGB, and the arm's mask, bool (size, size), seen by a named camera.

        Raises:
            ValueError: The scene has no such camera; the message lists those it has.
        """
        upright = self._look(model, data, camera)
        image = self._render()[upright].copy()
        return image, self._arm_mask(model)[upright].copy()

    def draw_image(self, model: Any, data: Any, camera: str) -> np.ndarray:
        """The picture alone, the same as `draw` gives, at about 60 % of the cost.

        Raises:
            ValueError: The scene has no such camera; the message lists those it has.
        """
        upright = self._look(model, data, camera)
        return self._render()[upright].copy()

    def _look(self, model: Any, data: Any, camera: str) -> tuple[slice, slice]:
        """Aim at the scene as it is now; returns how to turn what is rendered upright."""
        mujoco, camera_id = self._mujoco, camera_index(model, camera)
        self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera_id
        mujoco.mjv_updateScene(model, data, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        # OpenGL's first row is the lowest: turn the rows over, and both axes for a camera mounted upside down.
        upside_down = data.cam_xmat[camera_id].reshape(3, 3)[2, 1] < -0.1
        return (slice(None), slice(None, None, -1)) if upside_down else (slice(None, None, -1), slice(None))

    def _render(self) -> np.ndarray:
        self._mujoco.mjr_render(self._viewport, self._scene, self._context)
        self._mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
        return self._pixels

    def _arm_mask(self, model: Any) -> np.ndarray:
        mujoco, flags = self._mujoco, self._mujoco.mjtRndFlag
        self._scene.flags[flags.mjRND_SEGMENT] = self._scene.flags[flags.mjRND_IDCOLOR] = 1
        colours = self._render().astype(np.int32)
        self._scene.flags[flags.mjRND_SEGMENT] = self._scene.flags[flags.mjRND_IDCOLOR] = 0
        # Drawn object s has the colour s + 1, least significant byte in red; 0 is the background.
        drawn = colours[..., 0] + (colours[..., 1] << 8) + (colours[..., 2] << 16)
        is_arm = np.zeros(self._scene.ngeom + 1, bool)
        arm = arm_geoms(model)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                is_arm[geom.segid + 1] = arm[geom.objid]
        return is_arm[drawn]


def arm_geoms(model: Any) -> np.ndarray:
    """Which geoms belong to the robot's arm and hand: bool (ngeom,)."""
    in_arm = np.zeros(model.nbody, bool)
    in_arm[model.body(ARM_ROOT).id] = True
    for body in range(1, model.nbody):  # parents come before their children
        in_arm[body] |= in_arm[model.body_parentid[body]]
    return in_arm[model.geom_bodyid]


def camera_index(model: Any, name: str) -> int:
    """The number of a named camera.

    Raises:
        ValueError: There is none of that name; the message lists those there are.
    """
    names = [model.camera(index).name for index in range(model.ncam)]
    if name not in names:
        raise ValueError(f"unknown camera {name!r}: this scene has {', '.join(names)}")
    return names.index(name)
