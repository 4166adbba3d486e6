"""`describe`: contents and provenance of a token table or a checkpoint, as JSON (`lara-tok info`)."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from lara_tokenizer._parse import read_json_object, safetensors_header
from lara_tokenizer.checkpoint import Checkpoint
from lara_tokenizer.table.health import health_of
from lara_tokenizer.table.metadata import read_metadata
from lara_tokenizer.table.parquet import iter_tables, table_schema, token_files
from lara_tokenizer.table.reader import check_codes, matrix
from lara_tokenizer.table.statistics import TokenCounts
from lara_tokenizer.verdict.card import Card


def describe(target: str | Path) -> dict[str, Any]:
    """Describe a checkpoint or a token table by JSON-native values; `kind` is "checkpoint" or "tokens".

    Args:
        target: a table (file or folder), or a checkpoint: "lara-lam", a folder or a Hub id.

    Raises ValueError if it is neither.

    >>> describe("tokens.parquet")["pairs"]  # doctest: +SKIP
    {'0.6s': 1204}
    """
    # A checkpoint's folder has no data/, and a Hub id no .parquet.
    path = Path(target)
    if path.suffix == ".parquet" or (path / "data").is_dir():
        return _describe_tokens(path)
    if path.is_file():
        raise ValueError(
            f"{target}: a file, but no token table. Name a table (tokens.parquet, or a folder of shards) or a "
            "checkpoint (lara-lam, a folder or a Hub id)"
        )
    return _describe_checkpoint(str(target))


def _describe_tokens(path: Path) -> dict[str, Any]:
    metadata = read_metadata(path)
    counts = TokenCounts.of_metadata(metadata)
    episodes: set[str] = set()
    cameras: set[str] = set()
    for table in iter_tables(path):
        valid = table.filter(table["valid"])
        if valid.num_rows and (codes := matrix(valid, "codes")) is not None:
            check_codes(codes, counts.codebook_size, valid["episode"][0].as_py(), path)
        counts.add(table)
        episodes |= set(table["episode"].unique().to_pylist())
        cameras |= set(table["camera"].unique().to_pylist())
    files = token_files(path)
    return {
        "kind": "tokens",
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "rows": counts.rows,
        "pairs": dict(sorted(counts.pairs.items())),
        "episodes": len(episodes),
        "cameras": sorted(cameras),
        "columns": {field.name: str(field.type) for field in table_schema(files[0])},
        "codes_used": counts.codes_used,
        "perplexity": counts.perplexity,
        "perplexity_per_position": counts.perplexity_per_position,
        "idle_share": counts.idle_share,
        **health_of(counts).to_dict(),
        "histogram": None if counts.histogram is None else counts.histogram.tolist(),
        "provenance": metadata,
    }


def _describe_checkpoint(name: str) -> dict[str, Any]:
    checkpoint = Checkpoint.open(name)
    config = read_json_object(checkpoint.folder / "config.json")
    parameters: dict[str, int] = {}
    for file in checkpoint.weights_sha256:
        for tensor, entry in safetensors_header(checkpoint.folder / file)[0].items():
            # Integer tensors are counters, not parameters.
            if entry["dtype"][0] not in "IU":
                module = tensor.split(".")[0]
                parameters[module] = parameters.get(module, 0) + prod(entry["shape"])
    card = Card.read(checkpoint.folder)
    return {
        "kind": "checkpoint",
        "bytes": checkpoint.weights_bytes,
        "parameters": {**dict(sorted(parameters.items())), "total": sum(parameters.values())},
        "image_size": config.get("image_size"),
        "vision_encoder": config.get("vision_config", {}).get("model_type"),
        "strides": list(checkpoint.strides),
        "card": None if card is None else card.to_dict(),
        **checkpoint.identity(),
    }
