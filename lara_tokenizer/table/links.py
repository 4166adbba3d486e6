"""Links that lead out of a folder: reading follows them, an export refuses or leaves out what they name.

A folder from a stranger may hold a link to a private file, whose content would go into a dataset that is then
published. So whatever is below a folder that the user named must be below it with links resolved, too. In a snapshot of
the Hub's cache every file is a link to a blob of the same repository; these are part of it:

datasets--user--name/snapshots/<commit>/meta/info.json -> ../../../blobs/1f09...
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from lara_tokenizer._files import summarize_names
from lara_tokenizer.table.source import Source, glob_folders, named_paths

_SNAPSHOTS, _BLOBS, _REPOSITORY = "snapshots", "blobs", "datasets--"  # names in the Hub's cache


def hub_blobs(root: Path) -> Path | None:
    """The folder of the blobs that a folder in a snapshot of the Hub's cache consists of; None for another folder.

    >>> hub_blobs(Path("/hub/datasets--me--demos/snapshots/0a1b/videos"))
    PosixPath('/hub/datasets--me--demos/blobs')
    """
    for folder in (root, *root.parents):
        repository = folder.parent.parent
        if folder.parent.name == _SNAPSHOTS and repository.name.startswith(_REPOSITORY):
            return repository / _BLOBS
    return None


def leads_out(root: Path, target: Path) -> bool:
    """Whether a target is neither below `root` nor a blob of its snapshot; both paths have no links in them."""
    return not target.is_relative_to(root) and target.parent != hub_blobs(root)


class NamedFolders:
    """The folders of a source that the user named.

    A file that he named by itself, or in a list of clips, is his choice, wherever it leads; so is a named folder that
    is a link. Episodes that are loaded already have no folder.

    Args:
        source: as given to `load_episodes`.
    """

    def __init__(self, source: Source) -> None:
        named = named_paths(source)
        folders = [*(path for path in named if path.is_dir()), *glob_folders(source)]
        self._roots = {path: Path(os.path.realpath(path)) for path in folders}
        self._files = {*named} - self._roots.keys()
        self._real: dict[Path, str] = {}  # of the folders of files that were looked at

    def outside(self, files: Iterable[Path]) -> Iterator[Path]:
        """Those of the files, as absolute paths, that are below a named folder only by a link that leads out of it."""
        for file in files if self._roots else ():
            path = Path(os.path.abspath(file))
            target = self._resolved(path)
            # What is elsewhere by its name, too, was named by itself, or is in a cache of the Hub.
            is_named = path in self._files or self._around(path) is None
            if not is_named and all(leads_out(root, target) for root in self._roots.values()):
                yield path

    def refusal(self, files: Iterable[Path]) -> ValueError:
        """The error for files that are `outside`."""
        paths = list(dict.fromkeys(files))
        root = self._around(paths[0])
        names = (os.path.relpath(path, root) if self._around(path) == root else str(path) for path in paths)
        return ValueError(
            f"{root}: links lead out of it, and no export follows them: {summarize_names(names)}. Make a copy that has "
            f"files in place of links (cp -rL {root} COPY) and name that, or name the folder that the files are in."
        )

    def _around(self, path: Path) -> Path | None:
        """The named folder that a path is below by its name."""
        return next((each for pair in self._roots.items() for each in pair if path.is_relative_to(each)), None)

    def _resolved(self, path: Path) -> Path:
        """A path without links; each folder is resolved once, since an episode may have thousands of images."""
        try:
            if path.is_symlink():
                return Path(os.path.realpath(path))
            if path.parent not in self._real:
                self._real[path.parent] = os.path.realpath(path.parent)
            return Path(self._real[path.parent], path.name)
        except ValueError:  # a null byte: there is no such file, as reading it will tell
            return path
