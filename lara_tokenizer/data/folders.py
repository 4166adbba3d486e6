"""Folder trees that somebody else filled: links that loop, folders that cannot be listed, names that are not UTF-8."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from lara_tokenizer.data.episode import is_storable


@dataclass(slots=True)
class LeftOut:
    """Paths that a walk did not enter, for a note: each relative to the folder that was walked."""

    unreadable: list[str] = field(default_factory=list)  # folders, with the system's reason
    dangling: list[str] = field(default_factory=list)  # links to nothing
    looping: list[str] = field(default_factory=list)  # links to a folder that contains them

    def notes(self) -> list[str]:
        """One sentence for each kind."""
        return [
            f"{len(paths)} {what}: {paths[0]}{' ...' * (len(paths) > 1)}"
            for paths, what in (
                (self.unreadable, "folders cannot be listed and are left out"),
                (self.dangling, "links lead nowhere and are left out"),
                (self.looping, "links lead to a folder around them and are not followed"),
            )
            if paths
        ]


def walk_folders(root: Path, left_out: LeftOut) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
    """Each folder from `root` down with its entries sorted by name, hidden ones left out.

    Remove entries from a list to stay out of these subfolders. Links are followed, but each real folder is entered
    once, and none around the link, so that links cannot loop or lead to the siblings of `root`. `left_out` is extended.

    Raises ValueError where `root` itself cannot be listed.
    """
    seen: set[str] = set()
    stack = [root]
    while stack:
        here = stack.pop()
        if (real := os.path.realpath(here)) in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(here) as scanned:
                entries = sorted((e for e in scanned if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            if here == root:
                raise ValueError(f"folder {here} cannot be listed: {error.strerror}. Is it readable?") from error
            left_out.unreadable.append(f"{here.relative_to(root)} ({error.strerror})")
            continue
        entries = [entry for entry in entries if _leads_on(entry, real, root, left_out)]
        yield here, entries
        stack += [Path(entry.path) for entry in entries if is_folder(entry)]


def find_paths(pattern: str, left_out: LeftOut) -> list[str]:
    """The sorted paths that a glob matches, as `glob.glob` with `recursive`, but "**" does not loop over links."""
    parts = pattern.split("/")
    if "**" not in parts:
        return sorted(glob.glob(pattern))
    first = parts.index("**")
    head = "/".join(parts[:first]) or ("/" if pattern.startswith("/") else ".")
    found = []
    for root in map(Path, glob.glob(head)):
        if not root.is_dir():
            continue
        for here, entries in walk_folders(root, left_out):
            inside = here.relative_to(root).parts
            # "**" alone is the folder itself too.
            found += [str(here)] if _matches(inside, parts[first:]) else []
            found += [e.path for e in entries if not is_folder(e) and _matches((*inside, e.name), parts[first:])]
    return sorted(found)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one, that may be entered."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file, or a link to one; a named pipe is none, and would block its reader."""
    try:
        return entry.is_file()
    except OSError:
        return False


def storable(name: str) -> str:
    r"""A name that can be stored as UTF-8: bytes that are not UTF-8, as old archives leave them, are escaped.

    As in `errors.printable`, by Python's stand-in for the byte: 0xe9 is "\udce9".

    >>> print(storable("caf\udce9.mp4"), storable("Tür.mp4"))
    caf\udce9.mp4 Tür.mp4
    """
    return name if is_storable(name) else name.encode("utf-8", "backslashreplace").decode()


def _leads_on(entry: os.DirEntry[str], folder: str, root: Path, left_out: LeftOut) -> bool:
    """Whether an entry of the real path `folder` is no link, or one to something that is not around it."""
    if not entry.is_symlink():
        return True
    if not os.path.exists(entry.path):
        left_out.dangling.append(os.path.relpath(entry.path, root))
        return False
    target = os.path.realpath(entry.path)
    if folder == target or folder.startswith(target.rstrip("/") + "/"):
        left_out.looping.append(os.path.relpath(entry.path, root))
        return False
    return True


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a glob; "**" stands for any number of folders, at the end for all."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return len(patterns) == 1 or any(_matches(names[i:], patterns[1:]) for i in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])
