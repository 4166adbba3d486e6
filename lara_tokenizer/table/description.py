"""Reading a table of tokens back, and saying what a table or a checkpoint is (`lara-tok info`)."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lara_tokenizer.table.health import health_of
from lara_tokenizer.table.metadata import read_metadata, token_files
from lara_tokenizer.table.reader import iter_tables
from lara_tokenizer.table.statistics import TokenCounts, motion_counts_from_metadata


def describe(target: str | Path) -> dict[str, Any]:
    """What a checkpoint or a table of tokens is, as plain JSON. `kind` is "checkpoint" or "tokens".

    Args:
        target: a table (file or folder), or a checkpoint: "lara-lam", a folder or a Hub id.

    Raises ValueError for what is neither.

    >>> describe("tokens.parquet")["pairs"]  # doctest: +SKIP
    {'0.6s': 1204}
    """
    path = Path(target)
    if path.suffix == ".parquet" or (path / "data").is_dir():
        return _describe_tokens(path)
    return _describe_checkpoint(str(target))


def _describe_tokens(path: Path) -> dict[str, Any]:
    metadata = read_metadata(path)
    counts = TokenCounts(
        metadata["model"]["num_latents"],
        metadata["model"]["codebook_size"],
        moving_by_camera=motion_counts_from_metadata(metadata),
    )
    episodes: set[str] = set()
    cameras: set[str] = set()
    for table in counts.watch(iter_tables(path)):
        episodes |= set(table["episode"].unique().to_pylist())
        cameras |= set(table["camera"].unique().to_pylist())
    files = token_files(path)
    schema = pq.read_schema(files[0])
    return {
        "kind": "tokens",
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "rows": counts.rows,
        "pairs": dict(sorted(counts.pairs.items())),
        "episodes": len(episodes),
        "cameras": sorted(cameras),
        "columns": {field.name: str(field.type) for field in schema},
        "codes_used": counts.codes_used,
        "perplexity": counts.perplexity,
        "perplexity_per_position": counts.perplexity_per_position,
        "idle_share": counts.idle_share,
        **health_of(counts).to_dict(),
        "histogram": None if counts.histogram is None else counts.histogram.tolist(),
        "provenance": metadata,
    }


def _describe_checkpoint(name: str) -> dict[str, Any]:
    from lara_tokenizer.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(name)
    config = json.loads((checkpoint.folder / "config.json").read_text())
    parameters: dict[str, int] = {}
    for file in checkpoint.weights_sha256:
        for tensor, shape in _parameter_shapes(checkpoint.folder / file).items():
            part = tensor.split(".")[0]
            parameters[part] = parameters.get(part, 0) + prod(shape)
    vision = config.get("vision_config", {})
    return {
        "kind": "checkpoint",
        "bytes": checkpoint.weights_bytes,
        "parameters": {**dict(sorted(parameters.items())), "total": sum(parameters.values())},
        "image_size": config.get("image_size"),
        "vision_encoder": vision.get("model_type"),
        "strides": list(checkpoint.strides),
        **checkpoint.identity(),
    }


def _parameter_shapes(file: Path) -> dict[str, list[int]]:
    """Names and shapes from the header of a safetensors file: a length (8 bytes, little endian), then JSON.

    Integers are counters, not parameters.
    """
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return {name: entry["shape"] for name, entry in header.items() if entry["dtype"][0] not in "IU"}
