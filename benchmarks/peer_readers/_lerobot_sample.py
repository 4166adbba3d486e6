"""Random codes and latents for a LeRobotDataset, and a checkpoint whose codebook they are of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.table.metadata import with_metadata
from lara_tokenizer.table.schema import FORMAT_VERSION, token_schema

NUM_LATENTS, CODEBOOK_DIM, CODEBOOK_SIZE, GAP = 8, 4, 128, 5


def write_checkpoint(folder: Path) -> np.ndarray:
    """A file of weights with nothing but a codebook; float32 (K, D)."""
    codebook = np.random.default_rng(1).standard_normal((CODEBOOK_SIZE, CODEBOOK_DIM)).astype("<f4")
    entry = {"dtype": "F32", "shape": list(codebook.shape), "data_offsets": [0, codebook.nbytes]}
    header = json.dumps({"bottleneck.codebook.weight": entry}).encode()
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + codebook.tobytes())
    return codebook


def write_table(path: Path, lengths: Mapping[int, int], camera: str, fps: float, checkpoint: Path) -> Path:
    """A row a frame of the episodes of `lengths`; those whose future frame lies past the end are invalid."""
    rng = np.random.default_rng(0)
    schema = token_schema(NUM_LATENTS, CODEBOOK_DIM, CODEBOOK_SIZE, ("latents",))
    tables = []
    for number, length in lengths.items():
        frames = np.arange(length, dtype=np.int32)
        valid = frames + GAP < length
        codes = rng.integers(0, CODEBOOK_SIZE, (length, NUM_LATENTS)).astype(np.int16)
        latents = rng.standard_normal((length, NUM_LATENTS * CODEBOOK_DIM)).astype(np.float16)
        codes[~valid], latents[~valid] = -1, np.nan
        columns: dict[str, Any] = {
            "episode": pa.array([f"episode_{number:06d}"] * length).dictionary_encode(),
            "episode_index": np.full(length, number),
            "camera": pa.array([camera] * length).dictionary_encode(),
            "stride": pa.array([f"{GAP}f"] * length).dictionary_encode(),
            "frame_index": frames,
            "future_frame_index": np.where(valid, frames + GAP, -1).astype(np.int32),
            "timestamp": frames / fps,
            "future_timestamp": pa.array((frames + GAP) / fps, mask=~valid),
            "codes": pa.FixedSizeListArray.from_arrays(codes.reshape(-1), type=schema.field("codes").type),
            "latents": pa.FixedSizeListArray.from_arrays(latents.reshape(-1), type=schema.field("latents").type),
            "code_margin": pa.array(rng.random(length, np.float32), mask=~valid),
            "motion": pa.array(rng.random(length, np.float32), mask=~valid),
            "valid": valid,
        }
        tables.append(pa.table([columns[field] for field in schema.names], schema=schema))
    weights = checkpoint / "model.safetensors"
    sizes = {"num_latents": NUM_LATENTS, "codebook_dim": CODEBOOK_DIM, "codebook_size": CODEBOOK_SIZE}
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    metadata = {
        "format_version": FORMAT_VERSION,
        "model": {"id": "random", "revision": None, "weights_sha256": {weights.name: digest}, **sizes},
        "strides": [f"{GAP}f"],
        "source": [],
        "load": {"decoder": "pyav", "cameras": [camera]},
    }
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    pq.write_table(table.cast(with_metadata(schema, metadata)), path)
    return path
