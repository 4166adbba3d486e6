"""Files of a dataset by relative name, in a local folder or in a Hub repository."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lara_tokenizer.errors import EpisodeReadError, first_line


class DatasetFiles(Hashable, Protocol):
    """The files of a dataset. Hashable and picklable: readers carry it to worker processes."""

    def path(self, name: str) -> Path:
        """Local path of a file, downloaded first if necessary. Raises EpisodeReadError."""


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Files below a folder.

    >>> LocalFiles("demos").path("meta/info.json")  # doctest: +SKIP
    PosixPath('demos/meta/info.json')
    """

    root: str

    def path(self, name: str) -> Path:
        """Path of an existing file. Raises EpisodeReadError where there is none."""
        path = Path(self.root, name)
        if not path.is_file():
            raise EpisodeReadError(name, "it is missing")
        return path

    def names(self) -> set[str]:
        """Names of all files, relative to the root; symbolic links are followed."""
        files: set[str] = set()
        for folder, _, names in os.walk(self.root, followlinks=True):
            inside = Path(folder).relative_to(self.root).as_posix()
            files |= {name if inside == "." else f"{inside}/{name}" for name in names}
        return files


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Files of a dataset repository on the Hub, each downloaded into the Hub's cache when first needed."""

    repo_id: str
    revision: str  # a commit

    def path(self, name: str) -> Path:
        """Path in the Hub's cache. Raises EpisodeReadError for an unknown file or an unreachable Hub."""
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.repo_id, name, repo_type="dataset", revision=self.revision))
        except Exception as error:  # the Hub client's errors share no base class
            raise EpisodeReadError(name, f"cannot be downloaded from the Hub ({first_line(error)})") from error


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
