"""Which code a comparison runs: a checkout is checked before anything of it is imported.

By the bytes of the files that are run, so that a checkout without its .git, or with a line changed, is told as well.
"""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Peer:
    """
    Fields:
        name: of the project, for people.
        commit: that the comparison was made with.
        files: patterns of the files that are run, from the root of a checkout.
        sha256: of those files at that commit, see `digest`.
    """

    name: str
    commit: str
    files: tuple[str, ...]
    sha256: str


def check(checkout: Path, peer: Peer) -> dict[str, str]:
    """What was found, for the metadata of golden values. SystemExit where it is not the peer at its commit."""
    found = digest(checkout, peer.files)
    head = _head(checkout)
    if found != peer.sha256 or (head is not None and head != peer.commit):
        what = f"at {head}" if head else "without .git"
        raise SystemExit(
            f"{checkout} ({what}; {', '.join(peer.files)} have sha256 {found}) is not {peer.name} at {peer.commit} "
            f"({peer.sha256}). Check that commit out."
        )
    print(f"{peer.name} {peer.commit[:7]}: {', '.join(peer.files)} are those of the commit")
    return {"commit": peer.commit, "sha256": found}


def digest(checkout: Path, patterns: tuple[str, ...]) -> str:
    """SHA-256 of names and bytes of the files that match, in the order of their names."""
    files = sorted({file for pattern in patterns for file in checkout.glob(pattern)})
    total = hashlib.sha256()
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(checkout).as_posix()} {content}\n".encode())
    return total.hexdigest()


def _head(checkout: Path) -> str | None:
    if not (checkout / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None
