"""Columns of labels beside the rows of a LeRobotDataset, one data file after the other, each in pieces.

Shape suffixes: R rows, N latent tokens, D codebook dimension.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.export.lerobot_folder import DataFile, RowKeys, batches
from lara_tokenizer.table.reader import TokenSequence, TokenTable

Features = Mapping[str, Mapping[str, Any]]  # as in info.json, in the order of the columns


@dataclass(frozen=True, slots=True)
class RowLabels:
    """What a table says of R rows, M of which have a label.

    Fields:
        wanted: bool (R,), true for M of them.
        codes: int16 (M, N) of these, or None. latents: float16 (M, N * D), or None.
    """

    wanted: np.ndarray
    codes: np.ndarray | None
    latents: np.ndarray | None


class Columns(Protocol):
    """What is added."""

    @property
    def features(self) -> Features:
        """Entries of info.json."""

    def values(self, labels: RowLabels) -> dict[str, np.ndarray]:
        """One array (R, ...) for each feature."""


class Labels:
    """A table's labels by episode and frame. Quick where episodes are asked for in the table's order; one that comes
    before the last one asked for is found by reading the table again."""

    def __init__(self, tokens: TokenTable, *columns: str) -> None:
        self._tokens, self._columns = tokens, columns
        self._tracks: Iterator[TokenSequence] = iter(())
        self._last: TokenSequence | None = None
        self._asked: str | None = None

    def track(self, episode: int) -> TokenSequence | None:
        """The rows of an episode; None where the table has none."""
        name = episode_id(episode)
        if self._asked is None or name < self._asked:  # `_last` lies behind, where the table lacks what was asked for
            self._tracks = self._tokens.sequences(*self._columns)
            self._last = next(self._tracks, None)
        self._asked = name
        while self._last is not None and self._last.episode < name:
            following = next(self._tracks, None)
            if following is None:
                return None  # and the last track stays: later names are asked for in vain too
            self._last = following
        return self._last if self._last is not None and self._last.episode == name else None

    def rows(self, episode: int, frames: np.ndarray) -> RowLabels:
        """The labels of some frames of an episode; none for frames without a row in the table."""
        track = self.track(episode)
        if track is None:
            return self._none(len(frames))
        places = np.minimum(np.searchsorted(track.frames, frames), len(track.frames) - 1)
        wanted = (track.frames[places] == frames) & track.selected[places]
        picked = places[wanted]
        return RowLabels(
            wanted,
            None if track.codes is None else track.codes[picked],
            None if track.latents is None else track.latents[picked],
        )

    def _none(self, rows: int) -> RowLabels:
        tokens = self._tokens
        has_codes, has_latents = (name in self._columns and name in tokens.columns for name in ("codes", "latents"))
        return RowLabels(
            np.zeros(rows, bool),
            np.empty((0, tokens.num_latents), np.int16) if has_codes else None,
            np.empty((0, tokens.num_latents * tokens.codebook_dim), np.float16) if has_latents else None,
        )


def episode_id(episode: int) -> str:
    """What the table calls an episode of a LeRobotDataset."""
    return f"episode_{episode:06d}"


def add_columns(
    source: Path,
    target: Path,
    file: DataFile,
    labels: Labels,
    columns: Columns,
    watch: Callable[[int, dict[str, np.ndarray]], None] = lambda *_: None,
    change: Callable[[pa.RecordBatch], pa.RecordBatch] = lambda batch: batch,
) -> None:
    """Write one data file again with the new columns at its end; row groups of up to 16,384 rows stay as they are.

    Args:
        watch: called with each episode's number and its new values; in pieces where a row group ends inside it.
        change: what else is to be done to the rows.
    """
    keys = RowKeys(file)
    with pq.ParquetFile(source) as parquet:
        schema = _with_features(parquet.schema_arrow, columns.features)
        with pq.ParquetWriter(target, schema, compression=_compression(parquet)) as writer:
            for batch in batches(parquet):
                pieces: dict[str, list[np.ndarray]] = {name: [] for name in columns.features}
                for run in keys.runs(batch):
                    values = columns.values(labels.rows(run.episode, run.frames))
                    watch(run.episode, values)
                    for name, column in values.items():
                        pieces[name].append(column)
                if batch.num_rows:
                    arrays = [
                        _to_arrow(np.concatenate(pieces[name]), schema.field(name).type) for name in columns.features
                    ]
                    writer.write_batch(
                        pa.record_batch([*change(batch).columns, *arrays], schema=schema),
                        row_group_size=batch.num_rows,
                    )


def hf_feature(feature: Mapping[str, Any], sequence: str = "Sequence") -> dict[str, Any]:
    """An entry of info.json as `datasets` writes it into parquet: Value, Sequence, or Array2D.

    >>> hf_feature({"dtype": "int64", "shape": [1]})
    {'dtype': 'int64', '_type': 'Value'}
    """
    shape, dtype = list(feature["shape"]), feature["dtype"]
    if len(shape) == 2:
        return {"shape": shape, "dtype": dtype, "_type": "Array2D"}
    value = {"dtype": dtype, "_type": "Value"}
    return value if shape == [1] else {"feature": value, "length": shape[0], "_type": sequence}


def with_hf_features(metadata: Mapping[bytes, bytes] | None, added: Mapping[str, Any]) -> dict[bytes, bytes]:
    """A file's metadata with entries for new columns, where it has such entries: `datasets` reads what they say.

    `added` gives each as `hf_feature` does, with "Sequence", which every release reads; files of newer releases say
    "List", and so does what is added to them.
    """
    kept = dict(metadata or {})
    if b"huggingface" not in kept:
        return kept
    said = json.loads(kept[b"huggingface"])
    known = said.get("info", {}).get("features")
    if known is None:
        return kept
    text = json.dumps(added)
    if '"_type": "List"' in json.dumps(known):
        text = text.replace('"_type": "Sequence"', '"_type": "List"')
    known |= json.loads(text)
    return kept | {b"huggingface": json.dumps(said).encode()}


def _with_features(schema: pa.Schema, features: Features) -> pa.Schema:
    fields = [pa.field(name, _arrow_type(feature)) for name, feature in features.items()]
    added = {name: hf_feature(feature) for name, feature in features.items()}
    return pa.schema([*schema, *fields], metadata=with_hf_features(schema.metadata, added))


def _arrow_type(feature: Mapping[str, Any]) -> pa.DataType:
    """As `datasets` stores it: lists of one length have a fixed one, those within an Array2D have not."""
    value, shape = pa.type_for_alias(feature["dtype"]), list(feature["shape"])
    if len(shape) == 2:
        return pa.list_(pa.list_(value))
    return value if shape == [1] else pa.list_(value, shape[0])


def _to_arrow(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    flat = pa.array(values.reshape(-1))
    if values.ndim == 1:
        return flat
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    rows, tokens, width = values.shape
    inner = pa.ListArray.from_arrays(_offsets(rows * tokens, width), flat, type=kind.value_type)
    return pa.ListArray.from_arrays(_offsets(rows, tokens), inner, type=kind)


def _offsets(rows: int, length: int) -> pa.Array:
    return pa.array(np.arange(rows + 1, dtype=np.int32) * np.int32(length))


def _compression(parquet: pq.ParquetFile) -> str:
    """That of the file's first column."""
    metadata = parquet.metadata
    if not metadata.num_row_groups or not metadata.num_columns:
        return "snappy"
    found = metadata.row_group(0).column(0).compression.lower()
    return "none" if found == "uncompressed" else found
