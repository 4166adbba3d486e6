"""`lapa_action`: latent actions for the GR00T family, whose loader (DreamZero, RLinf) trains on them as on actions.

What the loader asks for, and gets (groot/vla/data/dataset/lerobot.py and transform/dreamzero_cotrain.py):

- a column `lapa_action` of action_horizon * max_action_dim numbers within [-1, 1]: z divided by one scale, then zeros;
- `<LAPA>` in the instruction, which is taken away again: it says whose actions these are;
- no entry in modality.json or the statistics: the numbers "come normalized";
- meta/step_filter.jsonl names the steps that are never drawn, `discarded_episode_indices` in info.json the episodes:
  so frames without a wanted pair, wherever they lie, are not trained on. Their rows hold zeros.

Shape suffixes: R rows, N latent tokens, D codebook dimension.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa

from lara_tokenizer.errors import first_line
from lara_tokenizer.export.folder import ExportFolder, export_folder
from lara_tokenizer.export.lerobot import Progress, check_beside, hashes, match_dataset, open_for_dataset
from lara_tokenizer.export.lerobot_columns import finite
from lara_tokenizer.export.lerobot_folder import EPISODES_V2, INFO, LeRobotFolder
from lara_tokenizer.export.lerobot_meta import read_lines, write_info, write_lines
from lara_tokenizer.export.lerobot_place import carry_over
from lara_tokenizer.export.lerobot_rows import Features, Labels, RowLabels, add_columns
from lara_tokenizer.export.manifest import (
    MANIFEST,
    ExportSummary,
    export_job,
    finished_export,
    summary_of,
    write_manifest,
)
from lara_tokenizer.table.reader import SelectOptions, TokenTable

COLUMN, TAG = "lapa_action", "<LAPA>"
STEP_FILTER, DISCARDED = "meta/step_filter.jsonl", "discarded_episode_indices"
_TASKS, _MODALITY = "meta/tasks.jsonl", "meta/modality.json"
# Instructions that the loader may be told to take instead of the tasks.
_DETAILED, _DETAILED_KEYS = "meta/episodes_detail_global_instruction.jsonl", "detailed_global_instruction_"
_ANNOTATION = "annotation."


@dataclass(frozen=True, slots=True)
class LapaColumn:
    """z / scale, then zeros: float32 (R, size). Rows without a label are zeros."""

    size: int
    scale: float

    @property
    def features(self) -> Features:
        """The entry of info.json."""
        return {COLUMN: {"dtype": "float32", "shape": [self.size], "names": None}}

    def values(self, labels: RowLabels) -> dict[str, np.ndarray]:
        """Raises ValueError for latents that are no numbers."""
        values = np.zeros((len(labels.wanted), self.size), np.float32)
        latents = finite(labels)
        values[labels.wanted, : latents.shape[1]] = latents / np.float32(self.scale)
        return {COLUMN: values}


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
    """A LeRobotDataset v2.0 or v2.1 whose instructions are tagged `<LAPA>` and whose rows hold `lapa_action`.

    Every instruction is tagged, so the loader takes all of this dataset as latent actions; mix it with the untagged
    one to train on both. Videos are hard-linked. A killed run goes on when it is called again.

    Args:
        tokens: the table, with latents.
        source: the dataset's folder that it was made from.
        out: a new folder.
        action_horizon, max_action_dim: the trainer's; their product is the size of `lapa_action`, at least N * D.
        scale: what z is divided by; None takes the largest magnitude of all pairs that are exported. Give the one of
            the first export's manifest where several datasets are trained on together.
        progress: called with the number of data files that are done, and of all.
        select: see `TokenTable.open`; one camera.

    Raises:
        ValueError: as `export_lerobot`; a table without latents, latents that do not fit, a dataset v3.0.

    >>> export_groot("tokens.parquet", "demos", "demos-groot").settings["action_horizon"]  # doctest: +SKIP
    16
    """
    opened = open_for_dataset(tokens, **select)
    opened.require("latents", COLUMN)
    size = _size(opened, action_horizon, max_action_dim)
    dataset = LeRobotFolder.open(Path(source))
    _check_dataset(dataset)
    check_beside(Path(out), dataset)
    scale = _scale(opened, scale)
    sizes = {"action_horizon": action_horizon, "max_action_dim": max_action_dim}
    job = export_job("groot", opened, dataset=dataset.fingerprint(), scale=scale, **sizes)
    if (finished := finished_export(Path(out), job)) is not None:
        return finished
    matched = match_dataset(opened, dataset)
    column = LapaColumn(size, scale)
    settings = {
        **sizes,
        "modality_configs": {COLUMN: {"delta_indices": [0], "modality_keys": [COLUMN]}},
        "language_dropout_prob": 0.0,
        "scale": scale,
        "numbers_before_padding": opened.num_latents * opened.codebook_dim,
    }
    summary = summary_of("groot", Path(out), matched, settings, _notes(dataset))
    with export_folder(Path(out), job | dataset.last_changes()) as folder:
        written = _build(dataset, folder, opened, column, progress)
        write_manifest(folder.path, job | {"files": hashes(folder.path, written)}, summary, MANIFEST)
    return summary


def _size(tokens: TokenTable, action_horizon: int, max_action_dim: int) -> int:
    if min(action_horizon, max_action_dim) < 1:
        raise ValueError(f"action_horizon {action_horizon}, max_action_dim {max_action_dim}: take at least 1")
    size, needed = action_horizon * max_action_dim, tokens.num_latents * tokens.codebook_dim
    if needed > size:
        raise ValueError(
            f"a latent action of {tokens.path} is {tokens.num_latents} x {tokens.codebook_dim} = {needed} numbers, "
            f"{COLUMN} holds action_horizon x max_action_dim = {action_horizon} x {max_action_dim} = {size}. Raise "
            "them, here and in the trainer."
        )
    return size


def _check_dataset(dataset: LeRobotFolder) -> None:
    if dataset.version == "v3.0":
        raise ValueError(
            f"{dataset.root.name}: a LeRobotDataset v3.0; GR00T's loader reads one episode a file (v2.0, v2.1). "
            "Convert the dataset to v2.1 (Isaac-GR00T has a script for it), encode that, and export it."
        )
    tasks = list(read_lines(dataset.root / _TASKS)) if _TASKS in dataset.names else []
    if COLUMN in dataset.info["features"] or any(TAG in task["task"] for task in tasks):
        raise ValueError(f"{dataset.root}: it has {COLUMN} already. Name the dataset that it was made from.")
    if not tasks:
        raise ValueError(f"{dataset.root.name}: no {_TASKS}; GR00T tells latent actions by a tag in the instruction.")
    _stored_filter(dataset)


def _scale(tokens: TokenTable, asked: float | None) -> float:
    """The largest magnitude of the wanted latents loses nothing: one factor, no clipping, undone exactly."""
    largest = 0.0
    for track in tokens.sequences("latents"):
        assert track.latents is not None
        latents = finite(RowLabels(track.selected, None, track.latents[track.selected]))
        largest = max(largest, float(np.abs(latents).max(initial=0)))
    if asked is None:
        return largest or 1.0
    if not largest <= asked < np.inf:
        raise ValueError(f"scale {asked:g}: latents reach {largest:g}, and divided by it they must lie within -1 to 1")
    return float(asked)


def _build(
    dataset: LeRobotFolder, folder: ExportFolder, tokens: TokenTable, column: LapaColumn, progress: Progress
) -> set[str]:
    """The dataset in `folder`; the files that are its own."""
    labels = Labels(tokens, "latents")
    for number, file in enumerate(dataset.data):
        if not folder.is_done(file.name):
            new = folder.path / file.name
            new.parent.mkdir(parents=True, exist_ok=True)
            add_columns(dataset.root / file.name, new, file, labels, column, change=_tag_annotations)
            folder.mark_done(file.name)
        progress(number + 1, len(dataset.data))
    tagged = {name for name in (_TASKS, EPISODES_V2, _DETAILED) if name in dataset.names}
    written = {INFO, STEP_FILTER, *tagged, *(file.name for file in dataset.data)}
    carry_over(dataset.root, folder.path, dataset.names - written)
    for name in sorted(tagged):
        write_lines(folder.path / name, (_tag_entry(entry) for entry in read_lines(dataset.root / name)))
    discarded: set[int] = set(dataset.info.get(DISCARDED, []))
    write_lines(folder.path / STEP_FILTER, _step_filter(dataset, Labels(tokens), discarded))
    write_info(dataset, folder.path, column.features, **({DISCARDED: sorted(discarded)} if discarded else {}))
    return written


def _step_filter(dataset: LeRobotFolder, labels: Labels, discarded: set[int]) -> Iterator[dict[str, Any]]:
    """The steps of each episode that are not to be drawn: the loader wants an entry for every one. Adds to
    `discarded` the episodes of which nothing is left."""
    before = _stored_filter(dataset)
    for episode, length in dataset.lengths.items():
        drawn = labels.rows(episode, np.arange(length)).wanted.copy()
        drawn[before.get(episode, [])] = False
        if not drawn.any():
            discarded.add(episode)
        yield {"episode_index": episode, "step_indices": np.flatnonzero(~drawn).tolist()}


def _stored_filter(dataset: LeRobotFolder) -> dict[int, np.ndarray]:
    """The steps that are not to be drawn already, int64, by episode. Raises ValueError for steps that are not there."""
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
                f"{episode}, which has {length}: correct it, or delete the file to have it made anew."
            )
    return found


def _tag_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A line of tasks.jsonl, episodes.jsonl or the detailed instructions."""
    tagged = dict(entry)
    for key, value in entry.items():
        if key == "task" or (key.startswith(_DETAILED_KEYS) and value):
            tagged[key] = TAG + value
        elif key == "tasks":
            tagged[key] = [TAG + text for text in value]
    return tagged


def _tag_annotations(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Instructions that lie in the rows as text; numbers name tasks, which are tagged."""
    for place, field in enumerate(batch.schema):
        if field.name.startswith(_ANNOTATION) and (
            pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ):
            texts = [None if text is None else TAG + text for text in batch.column(place).to_pylist()]
            batch = batch.set_column(place, field, pa.array(texts, field.type))
    return batch


def _notes(dataset: LeRobotFolder) -> list[str]:
    notes = [
        f"frames without a pair hold zeros and are named in {STEP_FILTER}: loaders that do not know that file draw them"
    ]
    if _MODALITY not in dataset.names:
        notes.append(f"no {_MODALITY} in the dataset: GR00T's loader needs one, or one of its own for this embodiment")
    if list(dataset.lengths) != list(range(len(dataset.lengths))):
        notes.append(
            "episodes are not numbered 0, 1, 2, ...: GR00T's loader takes lengths by number, and mixes them up"
        )
    return notes
