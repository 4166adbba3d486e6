"""The files of a LeRobotDataset that a copy of it carries: none that a link would fetch from elsewhere.

A link to a file within the dataset is carried as a file, and so is one to a blob of the same repository in the Hub's
cache (`table/links.py`).

Every other link that leads out of the dataset is left out, whatever it names: a dataset from a stranger could fetch a
private key into the copy, which is then uploaded. Its owner replaces links by files (`cp -rL`) if they belong there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lara_tokenizer.table.links import hub_blobs, leads_out

OUTSIDE, BROKEN, LOOP, NESTED, SPECIAL = (
    "a link that leads out of the dataset",
    "a link to nothing",
    "a link to a folder that contains it",
    "a link to a folder, in a folder that is one",
    "no regular file",
)


@dataclass(frozen=True, slots=True)
class CarriedFiles:
    """The files below a folder, by name relative to it.

    Attributes:
        names: of regular files, and of links to such within the folder.
        left_out: what else is there, with the reason; a link to a folder is one entry.
    """

    names: frozenset[str]
    left_out: Mapping[str, str]


def list_files(root: Path) -> CarriedFiles:
    """All files below `root`, an absolute path without links.

    Links to folders within it are followed, but not to a folder that contains the link, nor within a folder that was
    reached by one: so no loop is endless, and a few links do not name a billion files.

    Raises OSError for a folder that cannot be listed.
    """
    names: set[str] = set()
    left_out: dict[str, str] = {}
    folders = [(root, "", False)]
    while folders:
        folder, inside, is_linked = folders.pop()
        for entry in _entries(folder):
            name = inside + entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append((folder / entry.name, f"{name}/", is_linked))
                continue
            if entry.is_file(follow_symlinks=False):
                names.add(name)
                continue
            path, reason = _target(root, folder / entry.name)
            if reason is None and path.is_dir():
                reason = LOOP if folder.is_relative_to(path) else NESTED if is_linked else None
                if reason is None:
                    folders.append((path, f"{name}/", True))
            elif reason is None:
                names.add(name)
            if reason is not None:
                left_out[name] = reason
    return CarriedFiles(frozenset(names), left_out)


def carried_path(root: Path, name: str) -> Path:
    """The path of a carried file, with links resolved. Raises ValueError where it is none (any more)."""
    path, reason = _target(root, root / name)
    if reason is not None:
        raise ValueError(f"{root.name}: {name} is {reason}; it was not when the export began.")
    return path


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from entries


def _target(root: Path, path: Path) -> tuple[Path, str | None]:
    """The path with links resolved, and the reason why it is not carried; None if it is."""
    target = Path(os.path.realpath(path))
    if leads_out(root, target):
        return target, OUTSIDE
    if not target.exists():
        return target, BROKEN
    if not target.is_file() and not target.is_dir():
        return target, SPECIAL
    return target, None


def is_snapshot(root: Path) -> bool:
    """Whether a folder is in a snapshot in the Hub's cache, which all programs of this user share."""
    return hub_blobs(root) is not None
