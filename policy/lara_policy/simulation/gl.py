"""Which OpenGL to render with. Must be settled before `mujoco` is imported: it reads MUJOCO_GL then."""

from __future__ import annotations

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
