"""Checks of a peer's checkout before it is imported, and stand-ins for modules that its imports name.

The files that run are compared by their bytes, so a checkout without .git, or with an edited line, is recognized too.
"""

from __future__ import annotations

import hashlib
import inspect
import subprocess
import sys
import types
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Peer:
    """A public project at one commit."""

    name: str
    commit: str
    files: tuple[str, ...]
    """Glob patterns of the files that run, from the root of a checkout."""
    sha256: str
    """Of those files at that commit, see `digest`."""


def check(checkout: Path, peer: Peer) -> dict[str, str]:
    """Verify a checkout; returns commit and sha256 for the metadata of golden values. SystemExit where they differ."""
    sha256 = digest(checkout, peer.files)
    head = head_commit(checkout)
    if sha256 != peer.sha256 or (head is not None and head != peer.commit):
        state = f"at {head}" if head else "without .git"
        raise SystemExit(
            f"{checkout} ({state}; {', '.join(peer.files)} have sha256 {sha256}) is not {peer.name} at {peer.commit} "
            f"({peer.sha256}). Check that commit out."
        )
    print(f"{peer.name} {peer.commit[:7]}: {', '.join(peer.files)} are those of the commit")
    return {"commit": peer.commit, "sha256": sha256}


def digest(checkout: Path, patterns: tuple[str, ...]) -> str:
    """SHA-256 of the names and bytes of the files that match, sorted by name."""
    files = sorted({file for pattern in patterns for file in checkout.glob(pattern)})
    total = hashlib.sha256()
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(checkout).as_posix()} {content}\n".encode())
    return total.hexdigest()


def head_commit(checkout: Path) -> str | None:
    """The commit that is checked out, or None for a folder without a .git of its own."""
    # Git would otherwise answer for the repository that the folder happens to be in.
    if not (checkout / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None


def describe_file(checkout: Path, name: str, blob: str) -> str:
    """`name`, and whether its bytes are those of the commit that was read; `blob` is git's hash of the file there."""
    content = (checkout / name).read_bytes()
    is_same = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == blob
    return f"{name} ({'as in that commit' if is_same else 'NOT as in that commit'})"


def stand_in(name: str, path: Path | None = None, **attributes: Any) -> Any:
    """Put a module of that name in place of the real one: its attributes, or a package without its `__init__`.

    path: the folder of a package whose submodules are the peer's own. Its `__init__`, which does not run then, often
    imports whole models.
    """
    module: Any = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)  # libraries look for it when they ask whether a package is installed
    if path is not None:
        module.__path__ = [str(path)]
    vars(module).update(attributes)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)
    return module


def stand_in_tux() -> None:
    """The two functions that LAPA's files use of tux, a library that does not import with a current jax."""
    from ml_collections import ConfigDict

    def function_args_to_config(function: Any) -> ConfigDict:
        parameters = inspect.signature(function).parameters.items()
        return ConfigDict({name: given.default for name, given in parameters if given.default is not given.empty})

    stand_in("tux", open_file=open, function_args_to_config=function_args_to_config)
