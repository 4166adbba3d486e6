"""Columns of labels for a LeRobotDataset: their values by episode and frame, and the data files with them added.

The names `latent_labels.*` are those of felixmin/deploy_lerobot_latent_actions, whose policy type latent_smolvla reads
them.

Shape suffixes: R rows, M of them with a label, N latent tokens, D codebook dimension, K codes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer._parse import load_json
from lara_tokenizer.export.codebook import read_codebook
from lara_tokenizer.export.lerobot.folder import DataFile, RowKeys, batches
from lara_tokenizer.table.reader import TokenSequence, TokenTable

PREFIX = "latent_labels."
IDS, VECTORS, LATENTS, VALID = (
    PREFIX + name for name in ("codebook_id_latents", "codebook_vector_latents", "continuous_vector_latents", "valid")
)
NO_CODE = -1


@dataclass(frozen=True, slots=True)
class RowLabels:
    """The labels of R rows, M of which have one.

    Attributes:
        selected: bool (R,), true for M of them.
        codes: int16 (M, N), or None.
        latents: float16 (M, N * D), or None.
    """

    selected: np.ndarray
    codes: np.ndarray | None
    latents: np.ndarray | None

    def finite_latents(self) -> np.ndarray:
        """The latents, float32 (M, N * D). Raises ValueError where one is NaN or infinite."""
        assert self.latents is not None
        latents = self.latents.astype(np.float32)
        if not np.isfinite(latents).all():
            raise ValueError("the table has latents that are NaN or infinite in valid rows: encode again")
        return latents


@dataclass(frozen=True, slots=True)
class Column:
    """A column to add: its entry in info.json, and the step from labels to its values.

    Attributes:
        name: of the feature.
        dtype: of the written values.
        shape: of the value of one row, as in info.json; [1] is a scalar.
        of_labelled: the values of the M labelled rows, (M, ...).
        fill: value of the other rows.
        lookup: vectors (V, D) that the values are indices of; None writes the values themselves.
    """

    name: str
    dtype: str
    shape: list[int]
    of_labelled: Callable[[RowLabels], np.ndarray]
    fill: int = 0
    lookup: np.ndarray | None = None

    @property
    def feature(self) -> dict[str, Any]:
        """The entry in info.json."""
        return {"dtype": self.dtype, "shape": self.shape, "names": None}

    def values(self, labels: RowLabels) -> np.ndarray:
        """The values of R rows, (R, ...), or their indices (R, N) where the column has a lookup."""
        labelled = self.of_labelled(labels)
        dtype = self.dtype if self.lookup is None else np.int64
        values = np.full((len(labels.selected), *labelled.shape[1:]), self.fill, dtype)
        values[labels.selected] = labelled
        return values

    def written(self, values: np.ndarray) -> np.ndarray:
        """The written form of `values`: vectors in place of their indices."""
        return values if self.lookup is None else self.lookup[values]


def label_columns(table: TokenTable, model: str | os.PathLike[str] | None) -> list[Column]:
    """The columns `latent_labels.*`: codes and vectors if the table has codes, z if it has latents, and a mask.

    Args:
        model: the checkpoint that made the table, for its codebook; None uses the one that the table names.

    Raises ValueError, see `read_codebook`.
    """
    vector_shape = [table.num_latents, table.codebook_dim]

    def codes(labels: RowLabels) -> np.ndarray:
        assert labels.codes is not None
        return labels.codes

    def latents(labels: RowLabels) -> np.ndarray:
        return labels.finite_latents().reshape(-1, *vector_shape)

    def ones(labels: RowLabels) -> np.ndarray:
        return np.ones(int(labels.selected.sum()), np.int64)

    columns = []
    if "codes" in table.columns:
        codebook = read_codebook(table, model)
        # The zero vector is the last one, which the index NO_CODE, -1, selects.
        vectors = np.vstack([codebook, np.zeros_like(codebook[:1])])
        # Where each position has a codebook of its own, they follow one another.
        separate = len(codebook) != table.codebook_size
        first_rows = np.arange(table.num_latents) * (table.codebook_size or 0) * separate

        def rows(labels: RowLabels) -> np.ndarray:
            return codes(labels) + first_rows

        columns.append(Column(IDS, "int64", [table.num_latents], codes, NO_CODE))
        columns.append(Column(VECTORS, "float32", vector_shape, rows, NO_CODE, vectors))
    if "latents" in table.columns:
        columns.append(Column(LATENTS, "float32", vector_shape, latents))
    return [*columns, Column(VALID, "int64", [1], ones)]


def features_of(columns: Sequence[Column]) -> dict[str, Any]:
    """Entries of info.json, in the order of the columns."""
    return {column.name: column.feature for column in columns}


class Labels:
    """A table's labels by episode and frame.

    Fast when episodes are requested in the table's order; an earlier one starts a new pass over the table.
    """

    def __init__(self, table: TokenTable, *columns: str) -> None:
        self._table = table
        self._columns = columns
        self._sequences: Iterator[TokenSequence] = iter(())
        self._last: TokenSequence | None = None
        self._requested: str | None = None

    def sequence(self, episode: int) -> TokenSequence | None:
        """The rows of an episode; None where the table has none."""
        name = episode_id(episode)
        # Compared with the last request, not with `_last`, which is a later episode if the table lacked that one.
        if self._requested is None or name < self._requested:
            self._sequences = self._table.sequences(*self._columns)
            self._last = next(self._sequences, None)
        self._requested = name
        while self._last is not None and self._last.episode < name:
            following = next(self._sequences, None)
            if following is None:
                return None  # `_last` stays the last one of the table, which has no later episodes either
            self._last = following
        return self._last if self._last is not None and self._last.episode == name else None

    def rows(self, episode: int, frames: np.ndarray) -> RowLabels:
        """The labels of some frames of an episode; none for frames without a row in the table."""
        sequence = self.sequence(episode)
        if sequence is None:
            return self._none(len(frames))
        rows = np.minimum(np.searchsorted(sequence.frames, frames), len(sequence.frames) - 1)
        selected = (sequence.frames[rows] == frames) & sequence.selected[rows]
        labelled = rows[selected]
        return RowLabels(
            selected,
            None if sequence.codes is None else sequence.codes[labelled],
            None if sequence.latents is None else sequence.latents[labelled],
        )

    def _none(self, rows: int) -> RowLabels:
        table = self._table
        has_codes, has_latents = (name in self._columns and name in table.columns for name in ("codes", "latents"))
        return RowLabels(
            np.zeros(rows, bool),
            np.empty((0, table.num_latents), np.int16) if has_codes else None,
            np.empty((0, table.num_latents * table.codebook_dim), np.float16) if has_latents else None,
        )


def episode_id(episode: int) -> str:
    """The id of an episode of a LeRobotDataset in a token table.

    >>> episode_id(12)
    'episode_000012'
    """
    return f"episode_{episode:06d}"


def add_columns(
    source: Path,
    target: Path,
    file: DataFile,
    labels: Labels,
    columns: Sequence[Column],
    on_rows: Callable[[int, list[np.ndarray]], None] = lambda *_: None,
    change: Callable[[pa.RecordBatch], pa.RecordBatch] = lambda batch: batch,
) -> None:
    """Write one data file again with columns added at the end; row groups of up to 16,384 rows stay as they are.

    Args:
        on_rows: called with an episode's index and `Column.values` of each column, several times per episode if a row
            group ends inside it.
        change: applied to each batch of old rows.
    """
    keys = RowKeys(file)
    with pq.ParquetFile(source) as parquet:
        schema = _extended(parquet.schema_arrow, columns)
        types = schema.types[-len(columns) :]
        with pq.ParquetWriter(target, schema, compression=_compression(parquet)) as writer:
            for batch in batches(parquet):
                if not batch.num_rows:
                    continue
                runs = []
                for episode, frames in keys.runs(batch):
                    row_labels = labels.rows(episode, frames)
                    runs.append([column.values(row_labels) for column in columns])
                    on_rows(episode, runs[-1])
                arrays = [
                    _to_arrow(column.written(np.concatenate(values)), kind)
                    for column, values, kind in zip(columns, zip(*runs, strict=True), types, strict=True)
                ]
                extended = pa.record_batch([*change(batch).columns, *arrays], schema=schema)
                writer.write_batch(extended, row_group_size=batch.num_rows)


def with_hf_features(metadata: Mapping[bytes, bytes] | None, added: Mapping[str, Any]) -> dict[bytes, bytes]:
    """A parquet file's metadata with entries for new columns, if it has such entries: `datasets` trusts them.

    Args:
        added: entries with the type "Sequence", which every release of `datasets` reads; they become "List" in files
            of newer releases, which use that.

    Raises ValueError for metadata that is not JSON.
    """
    metadata = dict(metadata or {})
    if b"huggingface" not in metadata:
        return metadata
    content = load_json(metadata[b"huggingface"], "metadata 'huggingface' of a parquet file")
    info = content.get("info") if isinstance(content, dict) else None
    known = info.get("features") if isinstance(info, dict) else None
    if not isinstance(known, dict):  # `datasets` takes the types of the columns then
        return metadata
    text = json.dumps(added)
    if '"_type": "List"' in json.dumps(known):
        text = text.replace('"_type": "Sequence"', '"_type": "List"')
    known |= json.loads(text)
    return metadata | {b"huggingface": json.dumps(content).encode()}


def hf_feature(feature: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of info.json as `datasets` writes it into parquet: Value, Sequence, or Array2D.

    >>> hf_feature({"dtype": "int64", "shape": [1]})
    {'dtype': 'int64', '_type': 'Value'}
    """
    shape, dtype = feature["shape"], feature["dtype"]
    if len(shape) == 2:
        return {"shape": shape, "dtype": dtype, "_type": "Array2D"}
    value = {"dtype": dtype, "_type": "Value"}
    return value if shape == [1] else {"feature": value, "length": shape[0], "_type": "Sequence"}


def _extended(schema: pa.Schema, columns: Sequence[Column]) -> pa.Schema:
    fields = [pa.field(column.name, _arrow_type(column)) for column in columns]
    added = {column.name: hf_feature(column.feature) for column in columns}
    return pa.schema([*schema, *fields], metadata=with_hf_features(schema.metadata, added))


def _arrow_type(column: Column) -> pa.DataType:
    """The type that `datasets` stores: lists of one length are of fixed size, but not those within an Array2D."""
    value = pa.type_for_alias(column.dtype)
    if len(column.shape) == 2:
        return pa.list_(pa.list_(value))
    return value if column.shape == [1] else pa.list_(value, column.shape[0])


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
    """The compression of the file's first column. Raises as Arrow does for a damaged file."""
    if not parquet.num_row_groups or not parquet.schema_arrow.names:
        return "snappy"
    # Of a damaged file, pyarrow aborts the process where metadata of a column is asked for, but not where it is read.
    next(parquet.iter_batches(1, row_groups=[0], columns=parquet.schema_arrow.names[:1], use_threads=False), None)
    found = parquet.metadata.row_group(0).column(0).compression.lower()
    return "none" if found == "uncompressed" else found
