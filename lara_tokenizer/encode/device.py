"""The device of a job, found without torch where there is no GPU."""

from __future__ import annotations

import ctypes
import os
import sys

_DRIVERS = {"win32": "nvcuda.dll", "linux": "libcuda.so.1"}  # of CUDA; both come with a GPU's driver, not with torch


def resolve_device(name: str | None) -> str:
    """ "cpu", "cuda" or "cuda:1": the given device if it can be used, or the best there is.

    Imports torch only if there may be a GPU. Raises ValueError for a device that cannot be used.
    """
    if name == "cpu" or (name is None and not _may_have_gpu()):
        return "cpu"
    if name is not None and name.partition(":")[0] == "cuda" and not _may_have_gpu():
        raise ValueError(f"device {name!r} cannot be used here (no GPU was found). Take 'cpu', or leave it out")
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}). Take 'cpu', or leave it out") from None
    return name


def _may_have_gpu() -> bool:
    """False if torch cannot find a GPU: neither CUDA's driver nor that of AMD's GPUs is there."""
    if os.path.exists("/dev/kfd"):
        return True
    if sys.platform not in _DRIVERS:
        return False
    try:
        ctypes.CDLL(_DRIVERS[sys.platform])
    except OSError:
        return False
    return True
