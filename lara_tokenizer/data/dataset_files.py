"""The files of a dataset by relative name, on this disk or on the Hub."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lara_tokenizer.errors import EpisodeReadError, first_line


class Files(Hashable, Protocol):
    """A dataset's files. Hashable and picklable: readers carry it to worker processes."""

    def path(self, name: str) -> Path:
        """Where a file lies on this machine, fetched first where need be. Raises EpisodeReadError."""


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Files below a folder.

    >>> LocalFiles("demos").path("meta/info.json")  # doctest: +SKIP
    PosixPath('demos/meta/info.json')
    """

    root: str

    def path(self, name: str) -> Path:
        """Raises EpisodeReadError where there is no such file."""
        path = Path(self.root, name)
        if not path.is_file():
            raise EpisodeReadError(name, "it is missing")
        return path

    def names(self) -> set[str]:
        """All files, relative to the root, links followed."""
        found: set[str] = set()
        for folder, _, names in os.walk(self.root, followlinks=True):
            inside = Path(folder).relative_to(self.root).as_posix()
            found |= {name if inside == "." else f"{inside}/{name}" for name in names}
        return found


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Files of a dataset repository on the Hub, each fetched into the Hub's own cache when it is first needed."""

    repo_id: str
    revision: str  # a commit

    def path(self, name: str) -> Path:
        """Raises EpisodeReadError where the Hub has no such file, or cannot be reached."""
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.repo_id, name, repo_type="dataset", revision=self.revision))
        except Exception as error:  # the hub's errors share no base, and each means: not to be had
            raise EpisodeReadError(name, f"cannot be had from the Hub ({first_line(error)})") from error


def open_hub(name: str) -> tuple[HubFiles, set[str]]:
    """A dataset repository, "user/name" or "user/name@revision", at its present commit, and the names of its files.

    Raises ValueError where there is none, or where the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    repo_id, _, revision = name.partition("@")
    try:
        info = HfApi().dataset_info(repo_id, revision=revision or None)
    except Exception as error:  # as above
        raise ValueError(
            f"dataset {name!r}: no such folder, and not to be had from the Hub ({first_line(error)}). "
            "Name a folder, or a dataset of the Hub as user/name"
        ) from error
    assert info.sha is not None
    return HubFiles(repo_id, info.sha), {sibling.rfilename for sibling in info.siblings or ()}
