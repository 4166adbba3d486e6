"""`export_groot`: latent actions for the GR00T family, whose loader (DreamZero, RLinf) trains on them as on actions.

The loader (groot/vla/data/dataset/lerobot.py and transform/dreamzero_cotrain.py) requires:

- a column `lapa_action` of action_horizon * max_action_dim numbers within [-1, 1]: z divided by one scale, then zeros;
- `<LAPA>` in the instruction, which marks the embodiment of these actions and is removed again;
- no entry in modality.json or the statistics: the numbers "come normalized";
- meta/step_filter.jsonl with the steps that are never drawn, and `discarded_episode_indices` in info.json: so frames
  without a selected pair are not trained on. Their rows contain zeros.

Shape suffixes: R rows, N latent tokens, D codebook dimension.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa

from lara_tokenizer.data.lerobot.info import EPISODES_V2, INFO, TASKS_V2
from lara_tokenizer.errors import first_line
from lara_tokenizer.export.job import ExportJob, ExportSummary, Progress
from lara_tokenizer.export.lerobot.columns import Column, Labels, RowLabels, features_of
from lara_tokenizer.export.lerobot.export import open_one_camera, summarize_dataset, write_data_files
from lara_tokenizer.export.lerobot.folder import LeRobotFolder, read_lines, write_lines
from lara_tokenizer.table.reader import SelectOptions, TokenTable

COLUMN, TAG = "lapa_action", "<LAPA>"
STEP_FILTER, DISCARDED = "meta/step_filter.jsonl", "discarded_episode_indices"
_MODALITY = "meta/modality.json"
# Instructions that the loader can be configured to use instead of the tasks.
_DETAILED, _DETAILED_KEYS = "meta/episodes_detail_global_instruction.jsonl", "detailed_global_instruction_"
_ANNOTATION = "annotation."


def export_groot(
    tokens: str | os.PathLike[str],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    action_horizon: int = 16,
    max_action_dim: int = 32,
    scale: float | None = None,
    progress: Progress = lambda *_: None,
    **select: Unpack[SelectOptions],
) -> ExportSummary:
    """Write a LeRobotDataset v2.0 or v2.1 whose instructions are tagged `<LAPA>` and whose rows have `lapa_action`.

    Every instruction is tagged, so the loader takes the whole dataset as latent actions; mix it with the untagged one
    to train on both. Videos are hard-linked. The same call again continues an interrupted export.

    Args:
        tokens: the table, with latents.
        source: the dataset's folder that it was made from.
        out: a new folder.
        action_horizon, max_action_dim: the trainer's; their product is the size of `lapa_action`, at least N * D.
        scale: divisor of z; None uses the largest magnitude of all exported pairs. Where several datasets are trained
            on together, give all of them the scale in the first export's manifest.
        progress: called with (data files done, of all).
        select: stride, camera and thresholds, see `TokenTable.open`; one camera.

    Raises:
        ValueError: as `export_lerobot`; a table without latents, latents that do not fit, a dataset v3.0.

    >>> export_groot("tokens.parquet", "demos", "demos-groot").settings["action_horizon"]  # doctest: +SKIP
    16
    """
    table = open_one_camera(tokens, **select)
    table.require("latents", COLUMN)
    size = _size(table, action_horizon, max_action_dim)
    dataset = LeRobotFolder.open(Path(source))
    _check_dataset(dataset)
    scale = _scale(table, scale)
    sizes = {"action_horizon": action_horizon, "max_action_dim": max_action_dim}
    job = ExportJob("groot", table, out, {"dataset": dataset.fingerprint(), "scale": scale, **sizes})
    if (finished := job.finished(f"lerobot:{dataset.root}")) is not None:
        return finished
    summary = summarize_dataset(job, dataset, _settings(table, sizes, scale), _notes(dataset))
    columns = [_column(size, scale)]
    tagged = {name for name in (TASKS_V2, EPISODES_V2, _DETAILED) if name in dataset.names}
    written = {INFO, STEP_FILTER, *tagged, *(file.name for file in dataset.data)}
    times = dataset.modification_times()
    with job.folder(summary, unchanged=times, hashed=written) as folder:
        write_data_files(dataset, folder, Labels(table, "latents"), columns, progress, change=_tag_annotations)
        dataset.link_or_copy(folder.path, dataset.names - written)
        for name in sorted(tagged):
            write_lines(folder.path / name, (_tag_entry(entry) for entry in read_lines(dataset.root / name)))
        discarded = _discarded(dataset)
        write_lines(folder.path / STEP_FILTER, _step_filter(dataset, Labels(table), discarded))
        changed = {DISCARDED: sorted(discarded)} if discarded else {}
        dataset.write_info(folder.path, features_of(columns), **changed)
        dataset.check_unchanged(times)
    return summary


def _column(size: int, scale: float) -> Column:
    """The column `lapa_action`: z / scale, then zeros up to `size`."""

    def padded(labels: RowLabels) -> np.ndarray:
        latents = labels.finite_latents()
        values = np.zeros((len(latents), size), np.float32)
        values[:, : latents.shape[1]] = latents / np.float32(scale)
        return values

    return Column(COLUMN, "float32", [size], padded)


def _size(table: TokenTable, action_horizon: int, max_action_dim: int) -> int:
    if min(action_horizon, max_action_dim) < 1:
        raise ValueError(f"action_horizon {action_horizon}, max_action_dim {max_action_dim}: take at least 1")
    size, needed = action_horizon * max_action_dim, table.num_latents * table.codebook_dim
    if needed > size:
        raise ValueError(
            f"a latent action of {table.path} is {table.num_latents} x {table.codebook_dim} = {needed} numbers, "
            f"{COLUMN} has action_horizon x max_action_dim = {action_horizon} x {max_action_dim} = {size}. Raise "
            "them, here and in the trainer."
        )
    return size


def _check_dataset(dataset: LeRobotFolder) -> None:
    if dataset.info.is_v3:
        raise ValueError(
            f"{dataset.root.name}: a LeRobotDataset v3.0; GR00T's loader reads one episode per file (v2.0, v2.1). "
            "Convert the dataset to v2.1 (Isaac-GR00T has a script for it), encode that, and export it."
        )
    tasks = list(read_lines(dataset.root / TASKS_V2)) if TASKS_V2 in dataset.names else []
    if COLUMN in dataset.info.features or any(TAG in str(task.get("task")) for task in tasks):
        raise ValueError(f"{dataset.root}: it has {COLUMN} already. Name the dataset that it was made from.")
    if not tasks:
        raise ValueError(
            f"{dataset.root.name}: no {TASKS_V2}; GR00T detects latent actions by a tag in the instruction."
        )
    _stored_filter(dataset)
    _discarded(dataset)


def _discarded(dataset: LeRobotFolder) -> set[int]:
    """The episodes that the dataset discards already. Raises ValueError for anything but their indices."""
    found = dataset.info.content.get(DISCARDED) or []
    if not isinstance(found, list) or not all(isinstance(episode, int) for episode in found):
        raise ValueError(f"{INFO}: {DISCARDED} {str(found)[:40]}: takes a list of episode indices")
    return set(found)


def _scale(table: TokenTable, requested: float | None) -> float:
    """The scale of z. Raises ValueError for a requested one that leaves values outside -1 to 1."""
    largest = 0.0
    for sequence in table.sequences("latents"):
        assert sequence.latents is not None
        labels = RowLabels(sequence.selected, None, sequence.latents[sequence.selected])
        largest = max(largest, float(np.abs(labels.finite_latents()).max(initial=0)))
    if requested is None:
        return largest or 1.0  # the smallest divisor that clips nothing, and is undone exactly
    if not largest <= requested < np.inf:
        raise ValueError(
            f"scale {requested:g}: latents reach {largest:g}, and divided by it they must be within -1 to 1"
        )
    return float(requested)


def _step_filter(dataset: LeRobotFolder, labels: Labels, discarded: set[int]) -> Iterator[dict[str, Any]]:
    """The steps of each episode that must not be drawn; the loader needs an entry for every episode.

    Adds the episodes of which nothing is left to `discarded`.
    """
    before = _stored_filter(dataset)
    for episode, length in dataset.lengths.items():
        drawn = labels.rows(episode, np.arange(length)).selected.copy()
        drawn[before.get(episode, [])] = False
        if not drawn.any():
            discarded.add(episode)
        yield {"episode_index": episode, "step_indices": np.flatnonzero(~drawn).tolist()}


def _stored_filter(dataset: LeRobotFolder) -> dict[int, np.ndarray]:
    """The dataset's own filter: steps, int64, by episode. Raises ValueError for steps that do not exist."""
    found: dict[int, np.ndarray] = {}
    if STEP_FILTER not in dataset.names:
        return found
    try:
        for entry in read_lines(dataset.root / STEP_FILTER):
            found[int(entry["episode_index"])] = np.asarray(entry["step_indices"], np.int64).reshape(-1)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{STEP_FILTER} of {dataset.root.name} cannot be read ({first_line(error)})") from error
    for episode, steps in found.items():
        length = dataset.lengths.get(episode)
        if length is not None and len(steps) and not 0 <= steps.min() <= steps.max() < length:
            raise ValueError(
                f"{STEP_FILTER} of {dataset.root.name} names steps {steps.min()} to {steps.max()} of episode "
                f"{episode}, which has {length}: correct it, or delete the file to create it anew."
            )
    return found


def _tag_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A line of tasks.jsonl, episodes.jsonl or the detailed instructions, with its instructions tagged."""
    tagged = dict(entry)
    for key, value in entry.items():
        if key == "task" or (key.startswith(_DETAILED_KEYS) and value):
            tagged[key] = TAG + _text(value, key)
        elif key == "tasks":
            texts = [value] if isinstance(value, str) else value
            tagged[key] = [TAG + _text(text, key) for text in (texts if isinstance(texts, list) else [texts])]
    return tagged


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key} {str(value)[:40]}: not an instruction. Correct the dataset's metadata.")
    return value


def _tag_annotations(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows with their annotations tagged, where these are text; numbers are indices of tasks, tagged elsewhere."""
    for index, field in enumerate(batch.schema):
        if field.name.startswith(_ANNOTATION) and (
            pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ):
            texts = [None if text is None else TAG + text for text in batch.column(index).to_pylist()]
            batch = batch.set_column(index, field, pa.array(texts, field.type))
    return batch


def _settings(table: TokenTable, sizes: Mapping[str, int], scale: float) -> dict[str, Any]:
    """Settings of GR00T's trainer, by their names, and the scale."""
    return {
        **sizes,
        "modality_configs": {COLUMN: {"delta_indices": [0], "modality_keys": [COLUMN]}},
        "language_dropout_prob": 0.0,
        "scale": scale,
        "numbers_before_padding": table.num_latents * table.codebook_dim,
    }


def _notes(dataset: LeRobotFolder) -> list[str]:
    """Sentences for the manifest; a change of their text changes the bytes of exports."""
    notes = [
        *dataset.notes(),
        f"frames without a pair hold zeros and are named in {STEP_FILTER}: loaders that do not know that file draw "
        "them",
    ]
    if _MODALITY not in dataset.names:
        notes.append(f"no {_MODALITY} in the dataset: GR00T's loader needs one, or one of its own for this embodiment")
    if list(dataset.lengths) != list(range(len(dataset.lengths))):
        notes.append(
            "episodes are not numbered 0, 1, 2, ...: GR00T's loader takes lengths by number, and mixes them up"
        )
    return notes
