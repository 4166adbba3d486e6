"""Files of a dataset by relative name, in a local folder or in a Hub repository."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Protocol

from lara_tokenizer.errors import EpisodeReadError, first_line


class DatasetFiles(Hashable, Protocol):
    """The files of a dataset. Hashable and picklable: readers carry it to worker processes."""

    def path(self, name: str) -> Path:
        """Local path of a file, downloaded first if necessary.

        Raises EpisodeReadError for a missing file and for a name that leads out of the dataset.
        """

    def names(self) -> set[str]:
        """Names of all files, relative to the root. Raises EpisodeReadError."""

    def local(self, name: str) -> Path | None:
        """Path of a file that may change between two runs, existing or not; None for a file pinned by a commit."""


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Files below a folder.

    >>> LocalFiles("demos").path("meta/info.json")  # doctest: +SKIP
    PosixPath('demos/meta/info.json')
    """

    root: str

    def path(self, name: str) -> Path:
        """Path of an existing file. Raises EpisodeReadError where there is none, and for a name that leads out."""
        path = Path(self.root, self._checked(name))
        try:
            exists = path.is_file()
        except (OSError, ValueError):  # a name that is too long, or holds a zero byte
            exists = False
        if not exists:
            raise EpisodeReadError(name, "it is missing")
        return path

    def names(self) -> set[str]:
        """Names of all files, relative to the root; symbolic links are followed, except those in a circle."""
        return set(_walk(self.root))

    def local(self, name: str) -> Path | None:
        """Path of a file below the root, existing or not; None for a name that leads out."""
        try:
            return Path(self.root, self._checked(name))
        except EpisodeReadError:
            return None

    def _checked(self, name: str) -> str:
        # LeRobot writes the absolute path of an image at recording time: good as long as it is below the root.
        inside = os.path.join(self.root, "")
        return checked_name(name.removeprefix(inside) if os.path.isabs(self.root) else name)


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Files of a dataset repository on the Hub, each downloaded into the Hub's cache when first needed."""

    repo_id: str
    revision: str  # a commit

    def path(self, name: str) -> Path:
        """Path in the Hub's cache. Raises EpisodeReadError for an unknown file or an unreachable Hub."""
        from huggingface_hub import hf_hub_download

        name = checked_name(name)
        try:
            return Path(hf_hub_download(self.repo_id, name, repo_type="dataset", revision=self.revision))
        except Exception as error:  # the Hub client's errors share no base class
            raise EpisodeReadError(name, f"cannot be downloaded from the Hub ({first_line(error)})") from error

    def names(self) -> set[str]:
        """Names of all files of the repository. Raises EpisodeReadError for an unreachable Hub."""
        return set(_hub_names(self.repo_id, self.revision))

    def local(self, name: str) -> None:
        """None: a commit does not change."""


def checked_name(name: str) -> str:
    """A file name that metadata gives, if it stays below the dataset's root whatever links there are.

    Links in a dataset are its owner's choice: caches and version control keep large files elsewhere. A name is not:
    whoever wrote the metadata chose it. Raises EpisodeReadError for an absolute name and for one with "..".

    >>> checked_name("videos/top/file-000.mp4")
    'videos/top/file-000.mp4'
    >>> checked_name("videos/../../secret.mp4")
    Traceback (most recent call last):
    lara_tokenizer.errors.EpisodeReadError: videos/../../secret.mp4: the name leads out of the dataset
    """
    parts = name.replace("\\", "/").split("/")
    if not name or PurePosixPath(name).is_absolute() or os.path.isabs(name) or ".." in parts or "\0" in name:
        raise EpisodeReadError(name or "''", "the name leads out of the dataset")
    return name


def open_hub(name: str) -> tuple[HubFiles, set[str]]:
    """A dataset repository, "user/name" or "user/name@revision", pinned to its current commit; and its file names.

    Raises ValueError where there is no such repository, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    repo_id, _, revision = name.partition("@")
    try:
        info = HfApi().dataset_info(repo_id, revision=revision or None)
    except Exception as error:  # the Hub client's errors share no base class
        raise ValueError(
            f"dataset {name!r}: neither a local folder nor a Hub repository ({first_line(error)}). "
            "Name a folder, or a dataset on the Hub as user/name"
        ) from error
    assert info.sha is not None
    return HubFiles(repo_id, info.sha), {sibling.rfilename for sibling in info.siblings or ()}


@lru_cache(maxsize=4)
def _hub_names(repo_id: str, revision: str) -> frozenset[str]:
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(repo_id, revision=revision)
    except Exception as error:  # the Hub client's errors share no base class
        raise EpisodeReadError(repo_id, f"cannot be listed on the Hub ({first_line(error)})") from error
    return frozenset(sibling.rfilename for sibling in info.siblings or ())


def _walk(root: str) -> Iterator[str]:
    """Relative names of the files below a folder, each at most once for every link in its real folders.

    The real folders come first. Then each link among them is followed in a walk of its own that enters no folder twice
    and none that the link is in, so two names for one folder both count and neither `latest -> .` nor links that
    point at each other go on for ever.
    """
    links: list[tuple[str, str]] = []  # (link, name relative to the root) of linked folders
    yield from _walk_tree(root, "", set(), links)
    for link, inside in links:
        above = {_identity(folder) for folder in _folders_above(link)}
        pending, visited = deque([(link, inside)]), set(above)
        while pending:
            folder, name = pending.popleft()
            if (identity := _identity(folder)) is None or identity in visited:
                continue
            nested: list[tuple[str, str]] = []
            yield from _walk_tree(folder, f"{name}/", visited, nested)
            pending.extend(nested)


def _walk_tree(folder: str, prefix: str, visited: set, links: list[tuple[str, str]]) -> Iterator[str]:
    """Names of files in a folder and its real subfolders; adds entered folders to `visited`, links to `links`."""
    pending = [(folder, prefix)]
    while pending:
        current, inside = pending.pop()
        identity = _identity(current)
        if identity is None or identity in visited:
            continue
        visited.add(identity)
        try:
            with os.scandir(current) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError:  # as `os.walk`: a folder that cannot be listed has no files for us
            continue
        for entry in entries:
            name = inside + entry.name
            if not _is_folder(entry):
                yield name
            elif entry.is_symlink():
                links.append((entry.path, name))
            else:
                pending.append((entry.path, f"{name}/"))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: str) -> tuple[int, int] | None:
    """Device and inode of a folder; None where it cannot be looked at."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _folders_above(link: str) -> Iterator[str]:
    """The folders that contain a link, up to the top of the file system."""
    yield from map(str, Path(os.path.realpath(os.path.dirname(link)), "x").parents)
