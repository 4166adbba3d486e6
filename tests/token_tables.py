"""Small tables of random tokens, written as encode writes them, for tests that run no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.table.metadata import METADATA_KEY, episodes_digest
from lara_tokenizer.table.schema import FORMAT_VERSION, token_schema
from lara_tokenizer.table.write import OutputPath, write_tokens

FPS = 10
SequenceKey = tuple[str, str, str]  # episode, camera, stride


def write_table(
    path: Path,
    sequences: Mapping[SequenceKey, int],
    *,
    sizes: tuple[int, int, int | None] = (4, 3, 16),
    columns: tuple[str, ...] = ("latents",),
    seed: int = 0,
    **metadata: Any,
) -> Path:
    """A row for each of the first frames of each sequence; the last ones, whose future frame is not there, are invalid.

    Args:
        sizes: N, D, K.
        metadata: entries that are not the usual ones.
    """
    schema = token_schema(*sizes, columns)
    rng = np.random.default_rng(seed)
    tables = [_rows(sequence, count, sizes, schema, rng) for sequence, count in sorted(sequences.items())]
    usual = {
        "format_version": FORMAT_VERSION,
        "model": {
            "id": "tiny",
            "revision": None,
            "weights_sha256": {"model.safetensors": "0" * 64},
            "config_sha256": "1" * 64,
            "processor_sha256": "2" * 64,
            "num_latents": sizes[0],
            "codebook_size": sizes[2],
            "codebook_dim": sizes[1],
        },
        "strides": sorted({stride for _, _, stride in sequences}),
        "every": "1f",
        "columns": list(columns),
        "keep_tail": True,
        "min_motion": 0.0,
        "batch_size": 64,
        "dtype": "float32",
        "device": "cpu",
        "source": [{"name": "videos", "format": "video files", "revision": None}],
        "load": {"decoder": "pyav"},
        "versions": {"numpy": "2.4.6", "torch": "2.13.0"},
        "episodes": {**episodes_digest({episode for episode, _, _ in sequences}), "failed": 0},
        "moving_pairs": {camera: {"pairs": 10, "whole_picture": 4} for _, camera, _ in sequences},
    }
    recorded = {name: value for name, value in (usual | metadata).items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tokens(tables, schema, recorded, OutputPath.parse(path), path.parent, sum(sequences.values()))
    return path


def edited(path: Path, target: Path, columns: Mapping[str, Any], **metadata: Any) -> Path:
    """The table with other values in some columns, which are given as lists, and other metadata."""
    table = pq.read_table(path)
    for name, values in columns.items():
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    recorded = json.loads(table.schema.metadata[METADATA_KEY]) | metadata
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(recorded)}), target, row_group_size=7)
    return target


def _rows(
    sequence: SequenceKey, count: int, sizes: tuple[int, int, int | None], schema: pa.Schema, rng: np.random.Generator
) -> pa.Table:
    num_latents, codebook_dim, codebook_size = sizes
    episode, camera, stride = sequence
    stride_frames = int(stride.removesuffix("f"))
    frames = np.arange(count, dtype=np.int32)
    valid = frames + stride_frames < count
    codes = rng.integers(0, codebook_size or 1, (count, num_latents)).astype(np.int16)
    latents = rng.standard_normal((count, num_latents * codebook_dim)).astype(np.float16)
    codes[~valid], latents[~valid] = -1, np.nan
    values: dict[str, Any] = {
        "episode": pa.array([episode] * count).dictionary_encode(),
        "episode_index": pa.nulls(count, pa.int64()),
        "camera": pa.array([camera] * count).dictionary_encode(),
        "stride": pa.array([stride] * count).dictionary_encode(),
        "frame_index": frames,
        "future_frame_index": np.where(valid, frames + stride_frames, -1).astype(np.int32),
        "timestamp": frames / FPS,
        "future_timestamp": pa.array((frames + stride_frames) / FPS, mask=~valid),
        "codes": codes,
        "latents": latents,
        "code_margin": pa.array(rng.random(count, np.float32), mask=~valid),
        "motion": pa.array(rng.random(count, np.float32), mask=~valid),
        "valid": valid,
        "text": pa.array([f"do {episode}"] * count).dictionary_encode(),
    }
    arrays = [
        pa.FixedSizeListArray.from_arrays(pa.array(values[field.name].reshape(-1)), type=field.type)
        if pa.types.is_fixed_size_list(field.type)
        else values[field.name]
        for field in schema
    ]
    return pa.table(arrays, schema=schema)
