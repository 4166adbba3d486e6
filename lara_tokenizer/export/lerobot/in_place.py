"""Labelling in place: an atomic swap of the labelled dataset with the old one, and the swap back.

In place, for a dataset `demos`:

    demos.before-labels.partial/   the labelled dataset while it is built
    demos.before-labels/           the labelled dataset, complete, until the swap; from then on the old one
    demos.labels.lock              while a run works on it, in place or back
    .demos.labels-undone-*/        a labelled dataset that was taken back, while it is removed

So at any moment `demos` is the old dataset or the labelled one, complete.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lara_tokenizer._files import check_swap, exclusive, file_sha256, replace, summarize_names, swap_folders
from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.export.job import read_manifest
from lara_tokenizer.export.lerobot.files import is_snapshot, list_files
from lara_tokenizer.export.lerobot.folder import is_same

LABEL_MANIFEST, BACKUP = "label_manifest.json", ".before-labels"

# The differences of a manifest from what a job would write, one line per entry; see `ExportJob.differences`.
Differences = Callable[[Mapping[str, Any]], list[str]]


class InPlaceSwap:
    """A dataset that gets, or got, labels in place.

    Attributes:
        dataset: its folder.
        backup: the other folder of the swap.
    """

    def __init__(self, dataset: Path) -> None:
        self.dataset = dataset.resolve()
        self.backup = self.dataset.with_name(self.dataset.name + BACKUP)
        self._undone_prefix = f".{self.dataset.name}.labels-undone-"  # of folders that are being removed
        self._was_undone = False  # by a run that was killed while it removed the labelled dataset

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Lock the dataset while the block runs: two runs that both pass their checks would swap twice.

        Raises ValueError where there is no such folder, OSError where another process holds the lock.
        """
        if not self.dataset.is_dir():
            raise ValueError(f"{self.dataset}: there is no such folder")
        lock = self.dataset.with_name(self.dataset.name + ".labels.lock")
        lock.touch()
        with exclusive(lock, str(self.dataset)):
            try:
                for folder in self.dataset.parent.iterdir():
                    if folder.name.startswith(self._undone_prefix):  # left by a killed run
                        shutil.rmtree(folder)
                        self._was_undone = True
                yield
            finally:
                with suppress(OSError):
                    if not lock.stat().st_size:  # otherwise a user's file of that name
                        lock.unlink()

    def check(self) -> None:
        """Raises ValueError where the swap is impossible or harms others, or another folder has the backup's name."""
        if is_snapshot(self.dataset):
            raise ValueError(
                f"{self.dataset} is in the Hub's cache, where other programs expect the dataset as it was published. "
                "Write a new dataset with --out."
            )
        check_swap(self.dataset.parent)
        if self.backup.exists() and not self.is_built():
            raise ValueError(
                f"{self.backup} is where the dataset without labels would be kept, and it exists. Move it away."
            )

    def is_built(self, differences: Differences | None = None) -> bool:
        """Check whether a complete labelled dataset waits for the swap.

        Raises JobMismatchError for a dataset of another job.
        """
        if read_label_manifest(self.dataset) is not None:
            return False
        manifest = read_label_manifest(self.backup)
        if manifest is None:
            return False
        if differences is not None and (changed := differences(manifest)):
            raise JobMismatchError(f"{self.backup} was made by another job: {'; '.join(changed)}. Delete it.")
        return True

    def built_at(self) -> int:
        """The time when the labelled dataset that waits was finished, st_mtime_ns."""
        return (self.backup / LABEL_MANIFEST).stat().st_mtime_ns

    def apply(self) -> None:
        """Swap the labelled dataset with the old one, unless that is done already."""
        if self.is_built():
            swap_folders(self.dataset, self.backup)

    def undo(self) -> None:
        """Put the old dataset back, to the last byte, and remove the labelled one.

        Raises:
            ValueError: there are no labels to undo; the old dataset is missing; the labelled one was changed since.
        """
        labelled = read_label_manifest(self.dataset)
        if labelled is None and not self.is_built():
            if self._was_undone:
                return
            raise ValueError(f"{self.dataset} was not labelled in place: there is no {LABEL_MANIFEST} in it")
        if labelled is not None:
            if not self.backup.is_dir():
                raise ValueError(f"{self.backup}, the dataset without labels, is missing: nothing to go back to")
            if changed := _changed_files(self.dataset, self.backup, labelled):
                raise ValueError(
                    f"{self.dataset} was changed since it was labelled ({summarize_names(changed, 3)}), and undoing "
                    f"would lose that. The dataset without labels is {self.backup}: swap the two yourself."
                )
            swap_folders(self.dataset, self.backup)
        # The backup is the labelled dataset now. Removing its files takes time: rename it first, so that a kill leaves
        # no half of it under the backup's name.
        removed = tempfile.mkdtemp(prefix=self._undone_prefix, dir=self.dataset.parent)
        replace(self.backup, Path(removed))
        shutil.rmtree(removed)


def read_label_manifest(dataset: Path) -> dict[str, Any] | None:
    """The manifest of a labelled dataset; None for one without labels."""
    file = dataset / LABEL_MANIFEST
    return read_manifest(file) if file.is_file() else None


def _changed_files(labelled: Path, old: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Files of a labelled dataset that differ from those it was made with."""
    written: dict[str, str] = manifest["files"]
    files, before = list_files(labelled), list_files(old).names
    names = files.names
    changed = sorted({*names, *files.left_out} ^ (before | set(written) | {LABEL_MANIFEST}))
    changed += [name for name in sorted(written) if name in names and file_sha256(labelled / name) != written[name]]
    linked_or_copied = sorted((names & before) - set(written) - {LABEL_MANIFEST})
    return changed + [name for name in linked_or_copied if not is_same(labelled / name, old / name)]
