"""Latent actions as columns of a LeRobotDataset, v2.0, v2.1 or v3.0: a new dataset, or the same one in place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from lara_tokenizer.checkpoint import file_sha256
from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.export.folder import ExportFolder, export_folder
from lara_tokenizer.export.hub import check_push, push_dataset
from lara_tokenizer.export.lerobot_columns import PREFIX, LabelColumns
from lara_tokenizer.export.lerobot_folder import INFO, LeRobotFolder, dataset_version, find_root, read_info
from lara_tokenizer.export.lerobot_meta import statistics_files, write_info, write_statistics
from lara_tokenizer.export.lerobot_place import BACKUP, LABEL_MANIFEST, InPlace, carry_over, read_label_manifest
from lara_tokenizer.export.lerobot_rows import Labels, add_columns, episode_id
from lara_tokenizer.export.lerobot_statistics import EpisodeWatcher, StoredStatistics
from lara_tokenizer.export.manifest import (
    ExportSummary,
    export_job,
    finished_export,
    summary_again,
    summary_of,
    write_manifest,
)
from lara_tokenizer.export.matching import Matched, match_source
from lara_tokenizer.table.reader import SelectOptions, TokenTable

Progress = Callable[[int, int], None]  # data files done, and of how many

_SCRATCH = ".statistics"  # within the unfinished export


def export_lerobot(
    tokens: str | os.PathLike[str],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    in_place: bool = False,
    model: str | os.PathLike[str] | None = None,
    push: str | None = None,
    progress: Progress = lambda *_: None,
    **select: Unpack[SelectOptions],
) -> ExportSummary:
    """Add the columns `latent_labels.*` to a LeRobotDataset: codes, their vectors, z, and which rows have them.

    Every row gets values; a frame without a wanted pair has `latent_labels.valid` 0, codes -1 and vectors 0. Videos and
    pictures are hard-linked, nothing of the old dataset is changed. A killed run goes on when it is called again; in
    place, one that was finished tells again what it did.

    Args:
        tokens: the table.
        source: the dataset's folder that it was made from.
        out: a new folder for the labelled dataset.
        in_place: the labelled dataset takes the place of `source`, which is kept beside it; see `undo_lerobot`.
        model: where the checkpoint lies that made the table, for its codebook; None takes the one it names.
        push: "user/name" of a dataset repository on the Hub that gets the labelled dataset.
        progress: called with the number of data files that are done, and of all.
        select: see `TokenTable.open`; one camera, as a dataset has one set of labels.

    Raises:
        ValueError: table and source do not match; the dataset has labels already; `out` exists; other weights.
        JobMismatchError: an unfinished export of something else waits there, or the dataset was changed since it began.
        OSError: in place, another process is at the same dataset.

    >>> export_lerobot("tokens.parquet", "demos", "demos-labelled").pairs  # doctest: +SKIP
    1204
    """
    if (out is None) != in_place:
        raise ValueError("an export goes to a new folder (--out), or in place of its source (--in-place): give one")
    check_push(push)
    opened = open_for_dataset(tokens, **select)
    root = find_root(source)
    if out is None:
        place = InPlace(root)
        with place.alone():
            summary = _export_in_place(opened, place, model, progress)
    else:
        summary = _export_beside(opened, root, Path(out), model, progress)
    if push is not None:
        version = dataset_version(read_info(root))
        push_dataset(Path(summary.out), push, version)
        summary.notes.append(f"pushed to {push}, tagged {version}")
    return summary


def undo_lerobot(dataset: str | os.PathLike[str]) -> Path:
    """Take back what `export_lerobot` did in place: the dataset is again what it was, to the last byte.

    Raises ValueError where there is nothing to undo, or the labelled dataset was changed since; OSError where another
    process is at it.

    >>> undo_lerobot("demos")  # doctest: +SKIP
    PosixPath('/data/demos')
    """
    place = InPlace(Path(dataset))
    with place.alone():
        place.undo()
    return place.dataset


def open_for_dataset(tokens: str | os.PathLike[str], **select: Unpack[SelectOptions]) -> TokenTable:
    """A table, one camera of it. Raises ValueError, as `TokenTable.open`."""
    opened = TokenTable.open(tokens, **select)
    if len(opened.cameras) > 1:
        raise ValueError(
            f"cameras {', '.join(opened.cameras)}: a dataset has one set of labels. Choose one with --camera."
        )
    return opened


def match_dataset(tokens: TokenTable, dataset: LeRobotFolder) -> Matched:
    """`match_source`, and every episode of the table is one of the dataset's, whole. Raises ValueError."""
    matched = match_source(tokens, f"lerobot:{dataset.root}")
    for episode in matched.episodes.values():
        if episode.index is None or episode.index not in dataset.lengths or episode.id != episode_id(episode.index):
            raise ValueError(
                f"episode {episode.id!r} of {tokens.path} is no whole episode of {dataset.root.name}, or the table was "
                "made from several datasets: encode this one alone, without --segment."
            )
    return matched


def check_beside(out: Path, dataset: LeRobotFolder) -> None:
    """Raises ValueError where the export would lie in its source."""
    if dataset.root in (out.resolve(), *out.resolve().parents):
        raise ValueError(f"--out {out} lies in the dataset itself, and would be found in it. Name a folder beside it.")


def rewritten(dataset: LeRobotFolder) -> set[str]:
    """The files that a labelled dataset has in a version of its own."""
    return {INFO, *(file.name for file in dataset.data), *statistics_files(dataset)}


def hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """sha256 of files by name."""
    return {name: file_sha256(folder / name) for name in sorted(names)}


def _check_unlabelled(dataset: LeRobotFolder) -> None:
    there = [name for name in dataset.info["features"] if name.startswith(PREFIX)]
    if there or read_label_manifest(dataset.root) is not None:
        what = there[0] if there else LABEL_MANIFEST
        raise ValueError(
            f"{dataset.root} has labels already ({what}). Take them back first (lara-tok export lerobot "
            f"{dataset.root} --undo), or label the dataset that it was made from."
        )


@dataclass(frozen=True, slots=True)
class _Labelling:
    """A dataset and the columns that a table gives it."""

    tokens: TokenTable
    dataset: LeRobotFolder
    columns: LabelColumns

    def job(self) -> dict[str, Any]:
        features = dict(self.columns.features)
        return export_job("lerobot", self.tokens, dataset=self.dataset.fingerprint(), features=features)

    def summary(self, out: Path, notes: list[str]) -> ExportSummary:
        """Raises ValueError where table and dataset do not match."""
        matched = match_dataset(self.tokens, self.dataset)
        settings = {"features": list(self.columns.features), "camera": self.tokens.cameras[0]}
        return summary_of("lerobot", out, matched, settings, notes)

    def write(self, target: Path, summary: ExportSummary, progress: Progress) -> None:
        """The labelled dataset as `target`."""
        job = self.job()
        with export_folder(target, job | self.dataset.last_changes()) as folder:
            _build(self.dataset, folder, Labels(self.tokens, "codes", "latents"), self.columns, progress)
            files = {"files": hashes(folder.path, rewritten(self.dataset))}
            write_manifest(folder.path, job | files, summary, LABEL_MANIFEST)


def _export_beside(
    tokens: TokenTable, root: Path, out: Path, model: str | os.PathLike[str] | None, progress: Progress
) -> ExportSummary:
    dataset = LeRobotFolder.open(root)
    _check_unlabelled(dataset)
    check_beside(out, dataset)
    labelling = _Labelling(tokens, dataset, LabelColumns.of(tokens, model))
    if (finished := finished_export(out, labelling.job(), LABEL_MANIFEST)) is not None:
        return finished
    summary = labelling.summary(out, [])
    labelling.write(out, summary, progress)
    return summary


def _export_in_place(
    tokens: TokenTable, place: InPlace, model: str | os.PathLike[str] | None, progress: Progress
) -> ExportSummary:
    if (summary := _finished(tokens, place, model)) is not None:
        return summary
    dataset = LeRobotFolder.open(place.dataset)
    _check_unlabelled(dataset)
    place.check()
    labelling = _Labelling(tokens, dataset, LabelColumns.of(tokens, model))
    summary = labelling.summary(
        dataset.root,
        [f"the dataset without labels is kept beside it, its name ends in {BACKUP}; --undo brings it back"],
    )
    if not place.is_built(labelling.job()):
        labelling.write(place.backup, summary, progress)
    elif changed := dataset.changed_since(place.built_at()):
        raise JobMismatchError(f"{place.backup} was made before {changed[0]} of {dataset.root} was changed. Delete it.")
    place.swap()
    return summary


def _finished(tokens: TokenTable, place: InPlace, model: str | os.PathLike[str] | None) -> ExportSummary | None:
    """The summary of this very export where it is in place already: a kill may come right after the exchange."""
    if read_label_manifest(place.dataset) is None or not (place.backup / INFO).is_file():
        return None
    labelling = _Labelling(tokens, LeRobotFolder.open(place.backup), LabelColumns.of(tokens, model))
    manifest = place.finished(labelling.job())
    return None if manifest is None else summary_again(place.dataset, manifest)


def _build(
    dataset: LeRobotFolder, folder: ExportFolder, labels: Labels, columns: LabelColumns, progress: Progress
) -> None:
    """The labelled dataset in `folder`."""
    scratch = folder.path / _SCRATCH
    if not folder.is_done(_SCRATCH):
        scratch.mkdir(exist_ok=True)
        statistics = StoredStatistics(scratch, dataset.data, columns.features)
        for number, file in enumerate(dataset.data):
            if not folder.is_done(file.name):
                new = folder.path / file.name
                new.parent.mkdir(parents=True, exist_ok=True)
                watcher = EpisodeWatcher(columns.statistics)
                add_columns(dataset.root / file.name, new, file, labels, columns, watcher)
                watcher.finish()
                watcher.write(statistics.path(number))
                folder.mark_done(file.name)
            progress(number + 1, len(dataset.data))
        carry_over(dataset.root, folder.path, dataset.names - rewritten(dataset))
        write_info(dataset, folder.path, columns.features)
        write_statistics(dataset, folder.path, statistics)
        folder.mark_done(_SCRATCH)
    shutil.rmtree(scratch, ignore_errors=True)
