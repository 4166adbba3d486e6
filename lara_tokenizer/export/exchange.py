"""Two folders exchange their names in one step of the file system: whoever looks sees the one or the other."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_RENAME_SWAP = 2  # sys/stdio.h of macOS


def exchange(one: Path, other: Path) -> None:
    """Exchange the names of two folders of one file system: renameat2 on Linux, renamex_np on macOS.

    Raises:
        OSError: the system, or the file system, cannot do it in one step. There is no fallback: two renames would
            leave no folder of that name for a moment, and for good after a kill in between.
    """
    names = os.fsencode(one), os.fsencode(other)
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        failed = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE))
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(*names, ctypes.c_uint(_RENAME_SWAP))
    else:
        raise OSError(f"{sys.platform} cannot exchange two folders in one step")
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))


def check_exchange(parent: Path) -> None:
    """Try it with two empty folders in `parent`. Raises ValueError where it cannot be done there."""
    try:
        with (
            tempfile.TemporaryDirectory(dir=parent, prefix=".exchange-") as one,
            tempfile.TemporaryDirectory(dir=parent, prefix=".exchange-") as other,
        ):
            exchange(Path(one), Path(other))
    except OSError as error:
        raise ValueError(
            f"{parent}: two folders cannot exchange their names in one step there ({error}), and in two steps a kill "
            "could leave no dataset. Write a new dataset with --out."
        ) from error
