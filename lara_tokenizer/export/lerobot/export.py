"""`export_lerobot`: latent actions as columns of a LeRobotDataset v2.0, v2.1 or v3.0, in a new dataset or in place."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

import pyarrow as pa

from lara_tokenizer.data.lerobot.info import INFO
from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.export.job import ExportFolder, ExportJob, ExportSummary, Progress
from lara_tokenizer.export.lerobot.columns import (
    PREFIX,
    Column,
    Labels,
    add_columns,
    episode_id,
    features_of,
    label_columns,
)
from lara_tokenizer.export.lerobot.files import list_files
from lara_tokenizer.export.lerobot.folder import LeRobotFolder, find_root, reading
from lara_tokenizer.export.lerobot.in_place import BACKUP, LABEL_MANIFEST, InPlaceSwap, read_label_manifest
from lara_tokenizer.export.lerobot.metadata import RunningStatistics, statistics_files, write_statistics
from lara_tokenizer.export.lerobot.push import check_push, push_dataset
from lara_tokenizer.table.reader import SelectOptions, TokenTable


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
    """Add the columns `latent_labels.*` to a LeRobotDataset: codes, their vectors, z, and a mask of labelled rows.

    Every row gets values; a frame without a selected pair has `latent_labels.valid` 0, codes -1 and vectors 0. Videos
    and images are hard-linked, and the old dataset stays unchanged. The same call again continues an interrupted
    export, and returns the summary of a finished one.

    Args:
        tokens: the table.
        source: the dataset's folder that it was made from.
        out: a new folder for the labelled dataset.
        in_place: give the labelled dataset the name of `source`, which is kept beside it; see `undo_lerobot`.
        model: the checkpoint that made the table, for its codebook; None uses the one that the table names.
        push: "user/name" of a dataset repository on the Hub that gets the labelled dataset.
        progress: called with (data files done, of all).
        select: stride, camera and thresholds, see `TokenTable.open`; one camera, as a dataset has one set of labels.

    Raises:
        ValueError: table and source do not match; the dataset has labels already; `out` exists; other weights.
        JobMismatchError: there is an unfinished export of something else, or the dataset was changed since it began.
        OSError: in place, another process works on the same dataset.

    >>> export_lerobot("tokens.parquet", "demos", "demos-labelled").pairs  # doctest: +SKIP
    1204
    """
    if (out is None) != in_place:
        raise ValueError("an export goes to a new folder (--out), or in place of its source (--in-place): give one")
    check_push(push)
    table = open_one_camera(tokens, **select)
    root = find_root(source)
    if out is None:
        swap = InPlaceSwap(root)
        with swap.exclusive():
            summary = _export_in_place(table, swap, model, progress)
        root = swap.backup  # the dataset without labels is there now
    else:
        summary = _export_beside(table, root, Path(out), model, progress)
    if push is not None:
        summary.notes += push_dataset(Path(summary.out), push, list_files(root).names | {LABEL_MANIFEST})
    return summary


def undo_lerobot(dataset: str | os.PathLike[str]) -> Path:
    """Take back an `export_lerobot` in place: the dataset is again what it was, to the last byte.

    Raises ValueError where there is nothing to undo, or the labelled dataset was changed since; OSError where another
    process works on it.

    >>> undo_lerobot("demos")  # doctest: +SKIP
    PosixPath('/data/demos')
    """
    swap = InPlaceSwap(Path(dataset))
    with swap.exclusive():
        swap.undo()
    return swap.dataset


def open_one_camera(tokens: str | os.PathLike[str], **select: Unpack[SelectOptions]) -> TokenTable:
    """A table with one camera selected. Raises ValueError, see `TokenTable.open`."""
    table = TokenTable.open(tokens, **select)
    if len(table.cameras) > 1:
        raise ValueError(
            f"cameras {', '.join(table.cameras)}: a dataset has one set of labels. Choose one with --camera."
        )
    return table


def summarize_dataset(
    job: ExportJob, dataset: LeRobotFolder, settings: dict[str, Any], notes: Sequence[str] = ()
) -> ExportSummary:
    """The summary of an export to a dataset.

    Raises ValueError where table and dataset do not match: every episode of the table must be a whole one of the
    dataset.
    """
    matched = job.match(f"lerobot:{dataset.root}")
    for episode in matched.episodes.values():
        if episode.index is None or episode.index not in dataset.lengths or episode.id != episode_id(episode.index):
            raise ValueError(
                f"episode {episode.id!r} of {job.table.path} is no whole episode of {dataset.root.name}, or the table "
                "was made from several datasets: encode this one alone, without --segment."
            )
    return job.summarize(matched, settings, notes)


def write_data_files(
    dataset: LeRobotFolder,
    folder: ExportFolder,
    labels: Labels,
    columns: Sequence[Column],
    progress: Progress,
    statistics: RunningStatistics | None = None,
    change: Callable[[pa.RecordBatch], pa.RecordBatch] = lambda batch: batch,
) -> None:
    """Write the data files of a dataset with columns added, each once.

    Args:
        statistics: of the new columns, to be computed.
        change: applied to each batch of old rows.
    """
    for index, file in enumerate(dataset.data):
        new = folder.path / file.name
        files = [new] if statistics is None else [new, statistics.file(index)]
        if not folder.is_done(file.name, files):
            new.parent.mkdir(parents=True, exist_ok=True)
            on_rows = (lambda *_: None) if statistics is None else statistics.add
            with reading(f"{file.name} of {dataset.root.name}"):
                add_columns(dataset.root / file.name, new, file, labels, columns, on_rows, change)
            if statistics is not None:
                statistics.store(index)
            folder.mark_done(file.name, files)
        progress(index + 1, len(dataset.data))


def _export_beside(
    table: TokenTable, root: Path, out: Path, model: str | os.PathLike[str] | None, progress: Progress
) -> ExportSummary:
    dataset = LeRobotFolder.open(root)
    _check_unlabelled(dataset)
    columns = label_columns(table, model)
    job = _job(table, out, dataset, columns)
    if (finished := job.finished(f"lerobot:{dataset.root}")) is not None:
        return finished
    summary = summarize_dataset(job, dataset, _settings(table, columns), dataset.notes())
    _write(job, dataset, columns, summary, progress)
    return summary


def _export_in_place(
    table: TokenTable, swap: InPlaceSwap, model: str | os.PathLike[str] | None, progress: Progress
) -> ExportSummary:
    if (finished := _finished_in_place(table, swap, model)) is not None:
        return finished
    dataset = LeRobotFolder.open(swap.dataset)
    _check_unlabelled(dataset)
    swap.check()
    columns = label_columns(table, model)
    job = _job(table, swap.backup, dataset, columns)
    note = f"the dataset without labels is kept beside it, its name ends in {BACKUP}; --undo brings it back"
    summary = summarize_dataset(job, dataset, _settings(table, columns), [*dataset.notes(), note])
    summary.out = str(dataset.root)
    if not swap.is_built(job.differences):
        _write(job, dataset, columns, summary, progress)
    elif changed := dataset.changed_since(swap.built_at()):
        raise JobMismatchError(f"{swap.backup} was made before {changed[0]} of {dataset.root} was changed. Delete it.")
    swap.apply()
    return summary


def _finished_in_place(
    table: TokenTable, swap: InPlaceSwap, model: str | os.PathLike[str] | None
) -> ExportSummary | None:
    """The summary of this very export if it is in place already: a kill may come right after the swap."""
    manifest = read_label_manifest(swap.dataset)
    if manifest is None or not (swap.backup / INFO).is_file():
        return None
    # The backup is the old dataset now, which decides the job as it did before the swap.
    job = _job(table, swap.dataset, LeRobotFolder.open(swap.backup), label_columns(table, model))
    return None if job.differences(manifest) else job.summary_again(manifest, f"lerobot:{swap.backup}")


def _job(table: TokenTable, out: Path, dataset: LeRobotFolder, columns: Sequence[Column]) -> ExportJob:
    options = {"dataset": dataset.fingerprint(), "features": features_of(columns)}
    return ExportJob("lerobot", table, out, options, LABEL_MANIFEST)


def _settings(table: TokenTable, columns: Sequence[Column]) -> dict[str, Any]:
    return {"features": list(features_of(columns)), "camera": table.cameras[0]}


def _write(
    job: ExportJob, dataset: LeRobotFolder, columns: Sequence[Column], summary: ExportSummary, progress: Progress
) -> None:
    """Write the labelled dataset to the job's folder."""
    rewritten = {INFO, *(file.name for file in dataset.data), *statistics_files(dataset)}
    times = dataset.modification_times()
    with job.folder(summary, unchanged=times, hashed=rewritten) as folder:
        statistics = RunningStatistics(folder.scratch, dataset.data, columns)
        write_data_files(dataset, folder, Labels(job.table, "codes", "latents"), columns, progress, statistics)
        dataset.link_or_copy(folder.path, dataset.names - rewritten)
        dataset.write_info(folder.path, features_of(columns))
        write_statistics(dataset, folder.path, statistics)
        dataset.check_unchanged(times)


def _check_unlabelled(dataset: LeRobotFolder) -> None:
    labels = [name for name in dataset.info.features if name.startswith(PREFIX)]
    if labels or read_label_manifest(dataset.root) is not None:
        what = labels[0] if labels else LABEL_MANIFEST
        raise ValueError(
            f"{dataset.root} has labels already ({what}). Take them back first (lara-tok export lerobot "
            f"{dataset.root} --undo), or label the dataset that it was made from."
        )
