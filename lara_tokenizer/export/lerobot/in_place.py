"""Where a labelled dataset lies: beside the old one, or in its place by one exchange of folder names, and back.

In place, for a dataset `demos`:

    demos.before-labels.partial/   the labelled dataset while it is built
    demos.before-labels/           that dataset, whole, for the moment before the exchange; from then on the old one

    demos.labels.lock              while a run is at it, in place or back
    .demos.labels-undone-*/        a labelled dataset that is taken back, while it is removed

So at any moment `demos` is the old dataset or the labelled one, whole.
"""

from __future__ import annotations

import errno
import filecmp
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lara_tokenizer.checkpoint import file_sha256
from lara_tokenizer.data.files import LocalFiles
from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.export.exchange import check_exchange, exchange
from lara_tokenizer.export.lock import locked
from lara_tokenizer.table.metadata import differences

LABEL_MANIFEST, BACKUP = "label_manifest.json", ".before-labels"
# What is smaller is copied: programs edit small files in place, and a link would change the old dataset with them.
_LINKED = 2**20  # bytes
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES, errno.ENOSYS)


def carry_over(source: Path, target: Path, names: Iterable[str]) -> None:
    """Hard-link the pictures, videos and large files of `names`, copy what is small, is metadata, or cannot be linked.

    Links are followed: what comes is a dataset of its own. What is there already stays.
    """
    for name in sorted(names):
        old, new = (source / name).resolve(), target / name
        if new.exists():
            continue
        new.parent.mkdir(parents=True, exist_ok=True)
        is_media = name.startswith(("videos/", "images/")) or old.stat().st_size >= _LINKED
        if is_media and not name.startswith("meta/") and _is_linked(old, new):
            continue
        unfinished = new.with_name(new.name + ".copying")
        shutil.copy2(old, unfinished)
        os.replace(unfinished, new)


def _is_linked(old: Path, new: Path) -> bool:
    try:
        os.link(old, new)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    return True


class InPlace:
    """One dataset that gets, or got, labels in place.

    Fields:
        dataset: its folder.
        backup: the other folder of the exchange.
    """

    def __init__(self, dataset: Path) -> None:
        self.dataset = dataset.resolve()
        self.backup = self.dataset.with_name(self.dataset.name + BACKUP)
        self._undone = f".{self.dataset.name}.labels-undone-"  # how the names of what is removed begin
        self._was_undone = False  # by a run that was killed while it removed the labelled dataset

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the dataset for as long as the block runs: two runs that pass their checks would exchange twice.

        Raises ValueError where there is no such folder, OSError where another process holds it.
        """
        if not self.dataset.is_dir():
            raise ValueError(f"{self.dataset}: there is no such folder")
        lock = self.dataset.with_name(self.dataset.name + ".labels.lock")
        lock.touch()
        with locked(lock, str(self.dataset)):
            try:
                for folder in self.dataset.parent.iterdir():
                    if folder.name.startswith(self._undone):  # a killed run could not remove it
                        shutil.rmtree(folder)
                        self._was_undone = True
                yield
            finally:
                with suppress(OSError):
                    if not lock.stat().st_size:  # else a file of somebody's, with that name
                        lock.unlink()

    def check(self) -> None:
        """Raises ValueError where the exchange cannot be done, or another folder has the backup's name."""
        check_exchange(self.dataset.parent)
        if self.backup.exists() and not self.is_built():
            raise ValueError(
                f"{self.backup} is where the dataset without labels would be kept, and it exists. Move it away."
            )

    def is_built(self, job: Mapping[str, Any] | None = None) -> bool:
        """Whether a labelled dataset waits for the exchange. Raises JobMismatchError where it is of another job."""
        if read_label_manifest(self.dataset) is not None or (found := read_label_manifest(self.backup)) is None:
            return False
        if job is not None and (changed := _other_job(found, job)):
            raise JobMismatchError(f"{self.backup} was made by another job: {'; '.join(changed)}. Delete it.")
        return True

    def built_at(self) -> int:
        """When the labelled dataset that waits was finished, st_mtime_ns."""
        return (self.backup / LABEL_MANIFEST).stat().st_mtime_ns

    def finished(self, job: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the dataset says of its labels where `job` made them, in place; else None."""
        found = read_label_manifest(self.dataset)
        return None if found is None or _other_job(found, job) else found

    def swap(self) -> None:
        """The labelled dataset takes the place of the old one, if it has not taken it."""
        if self.is_built():
            exchange(self.dataset, self.backup)

    def undo(self) -> None:
        """The old dataset takes its place again, to the last byte; the labelled one is removed.

        Raises:
            ValueError: there are no labels to undo; the old dataset is gone; the labelled one was changed since.
        """
        labelled = read_label_manifest(self.dataset)
        if labelled is None and not self.is_built():
            if self._was_undone:
                return
            raise ValueError(f"{self.dataset} was not labelled in place: there is no {LABEL_MANIFEST} in it")
        if labelled is not None:
            if not self.backup.is_dir():
                raise ValueError(f"{self.backup}, the dataset without labels, is not there: nothing to go back to")
            if changed := _changes(self.dataset, self.backup, labelled):
                raise ValueError(
                    f"{self.dataset} was changed since it was labelled ({', '.join(changed[:3])}"
                    f"{', ...' if len(changed) > 3 else ''}), and undoing would lose that. The dataset without labels "
                    f"is {self.backup}: exchange them yourself."
                )
            exchange(self.dataset, self.backup)
        # The backup is the labelled dataset now. Its name goes in one step, its files do not.
        removed = tempfile.mkdtemp(prefix=self._undone, dir=self.dataset.parent)
        os.replace(self.backup, removed)
        shutil.rmtree(removed)


def read_label_manifest(dataset: Path) -> dict[str, Any] | None:
    """What a labelled dataset says of its labels; None for one without."""
    file = dataset / LABEL_MANIFEST
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _other_job(manifest: Mapping[str, Any], job: Mapping[str, Any]) -> list[str]:
    return differences({name: manifest.get(name) for name in job}, json.loads(json.dumps(job)))


def _changes(labelled: Path, old: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Files of a labelled dataset that are not as they were when it was made."""
    written: dict[str, str] = manifest["files"]
    names, before = LocalFiles(str(labelled)).names(), LocalFiles(str(old)).names()
    expected = before | set(written) | {LABEL_MANIFEST}
    kept = sorted((names & before) - set(written) - {LABEL_MANIFEST})
    changed = sorted(names ^ expected)
    changed += [name for name in sorted(written) if name in names and file_sha256(labelled / name) != written[name]]
    return changed + [name for name in kept if not _is_same(labelled / name, old / name)]


def _is_same(one: Path, other: Path) -> bool:
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)
