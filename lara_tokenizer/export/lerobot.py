"""Latent actions as columns of a LeRobotDataset, v2.0, v2.1 or v3.0: a new dataset, or the same one in place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Unpack

from lara_tokenizer.encode.checkpoint import file_sha256
from lara_tokenizer.export.folder import ExportFolder, check_new, export_folder
from lara_tokenizer.export.hub import check_push, push_dataset
from lara_tokenizer.export.lerobot_columns import PREFIX, LabelColumns
from lara_tokenizer.export.lerobot_folder import INFO, LeRobotFolder
from lara_tokenizer.export.lerobot_meta import statistics_files, write_info, write_statistics
from lara_tokenizer.export.lerobot_place import BACKUP, LABEL_MANIFEST, InPlace, carry_over, read_label_manifest
from lara_tokenizer.export.lerobot_rows import Labels, add_columns, episode_id
from lara_tokenizer.export.lerobot_statistics import EpisodeWatcher, StoredStatistics
from lara_tokenizer.export.manifest import ExportSummary, export_job, summary_of, write_manifest
from lara_tokenizer.export.matching import Matched, match_source
from lara_tokenizer.export.tracks import SelectOptions, Tokens

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
    pictures are hard-linked, nothing of the old dataset is changed. A killed run goes on when it is called again.

    Args:
        tokens: the table.
        source: the dataset's folder that it was made from.
        out: a new folder for the labelled dataset.
        in_place: the labelled dataset takes the place of `source`, which is kept beside it; see `undo_lerobot`.
        model: where the checkpoint lies that made the table, for its codebook; None takes the one it names.
        push: "user/name" of a dataset repository on the Hub that gets the labelled dataset.
        progress: called with the number of data files that are done, and of all.
        select: see `Tokens.open`; one camera, as a dataset has one set of labels.

    Raises:
        ValueError: table and source do not match; the dataset has labels already; `out` exists; other weights.
        JobMismatchError: an unfinished export of something else waits there.

    >>> export_lerobot("tokens.parquet", "demos", "demos-labelled").pairs  # doctest: +SKIP
    1204
    """
    if (out is None) != in_place:
        raise ValueError("an export goes to a new folder (--out), or in place of its source (--in-place): give one")
    check_push(push)
    opened = open_for_dataset(tokens, **select)
    dataset = LeRobotFolder.open(Path(source))
    _check_unlabelled(dataset)
    place, target = None, Path(out or "")
    if in_place:
        place = InPlace(dataset.root)
        place.check()
        target = place.backup
    else:
        check_out(target, dataset)
    columns = LabelColumns.of(opened, model)
    job = export_job("lerobot", opened, dataset=dataset.fingerprint(), features=dict(columns.features))
    settings: dict[str, Any] = {"features": list(columns.features), "camera": opened.cameras[0]}
    summary = summary_of(
        "lerobot", dataset.root if place else target, match_dataset(opened, dataset), settings, _notes(place)
    )
    if place is None or not place.is_built(job):
        with export_folder(target, job) as folder:
            _build(dataset, folder, Labels(opened, "codes", "latents"), columns, progress)
            files = {"files": hashes(folder.path, rewritten(dataset))}
            write_manifest(folder.path, job | files, summary, LABEL_MANIFEST)
    if place is not None:
        place.swap()
    if push is not None:
        push_dataset(Path(summary.out), push, dataset.version)
        summary.notes.append(f"pushed to {push}, tagged {dataset.version}")
    return summary


def undo_lerobot(dataset: str | os.PathLike[str]) -> Path:
    """Take back what `export_lerobot` did in place: the dataset is again what it was, to the last byte.

    Raises ValueError where there is nothing to undo, or the labelled dataset was changed since.

    >>> undo_lerobot("demos")  # doctest: +SKIP
    PosixPath('/data/demos')
    """
    place = InPlace(Path(dataset))
    place.undo()
    return place.dataset


def open_for_dataset(tokens: str | os.PathLike[str], **select: Unpack[SelectOptions]) -> Tokens:
    """A table, one camera of it. Raises ValueError, as `Tokens.open`."""
    opened = Tokens.open(tokens, **select)
    if len(opened.cameras) > 1:
        raise ValueError(
            f"cameras {', '.join(opened.cameras)}: a dataset has one set of labels. Choose one with --camera."
        )
    return opened


def match_dataset(tokens: Tokens, dataset: LeRobotFolder) -> Matched:
    """`match_source`, and every episode of the table is one of the dataset's, whole. Raises ValueError."""
    matched = match_source(tokens, f"lerobot:{dataset.root}")
    for episode in matched.episodes.values():
        if episode.index is None or episode.index not in dataset.lengths or episode.id != episode_id(episode.index):
            raise ValueError(
                f"episode {episode.id!r} of {tokens.path} is no whole episode of {dataset.root.name}, or the table was "
                "made from several datasets: encode this one alone, without --segment."
            )
    return matched


def check_out(out: Path, dataset: LeRobotFolder) -> None:
    """Raises ValueError where the export would lie in its source, or the name is taken."""
    check_new(out)
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


def _notes(place: InPlace | None) -> list[str]:
    if place is None:
        return []
    return [f"the dataset without labels is kept beside it, its name ends in {BACKUP}; --undo brings it back"]
