"""The codebook of the model that made a table, read from the checkpoint's files: no model is built, no torch imported.

Shape suffixes: K codes, D codebook dimension.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from lara_tokenizer.checkpoint import checkpoint_folder, file_sha256
from lara_tokenizer.table.reader import TokenTable

_CODEBOOK = "bottleneck.codebook.weight"  # in every family of ours
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def read_codebook(tokens: TokenTable, model: str | os.PathLike[str] | None = None) -> np.ndarray:
    """The vectors of a table's codes, float32 (K, D).

    Args:
        tokens: made by a model with a codebook.
        model: where the checkpoint lies; None takes the one that the table names.

    Raises:
        ValueError: there is no such checkpoint; its weights are not those that made the table; it has no codebook.
    """
    made_by = tokens.metadata["model"]
    name = made_by["id"] if model is None else model
    try:
        folder = checkpoint_folder(name)
    except ValueError as error:
        raise ValueError(
            f"{error} {tokens.path} was made by {made_by['id']!r}, and its codebook is needed. Say where it lies with "
            "--model."
        ) from error
    _check_weights(folder, made_by["weights_sha256"], tokens)
    for file in sorted(made_by["weights_sha256"]):
        codebook = _read_tensor(folder / file, _CODEBOOK)
        if codebook is not None:
            break
    else:
        raise ValueError(f"model {folder.name!r}: no tensor {_CODEBOOK!r} in its weights")
    if codebook.shape != (tokens.codebook_size, tokens.codebook_dim):
        raise ValueError(
            f"model {folder.name!r}: a codebook of shape {codebook.shape}; {tokens.path} has K "
            f"{tokens.codebook_size}, D {tokens.codebook_dim}"
        )
    return codebook


def _check_weights(folder: Path, expected: dict[str, str], tokens: TokenTable) -> None:
    for file, before in sorted(expected.items()):
        now = file_sha256(folder / file) if (folder / file).is_file() else None
        if now != before:
            what = "is missing" if now is None else f"has sha256 {now[:12]}..., the table's {before[:12]}..."
            raise ValueError(
                f"model {folder.name!r} is not the one that made {tokens.path}: {file} {what}. Name the right "
                "checkpoint with --model, or encode again."
            )


def _read_tensor(file: Path, name: str) -> np.ndarray | None:
    """float32, from a safetensors file: a length (8 bytes, little endian), a JSON header, then the numbers."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        entry: dict[str, Any] | None = json.loads(stream.read(length)).get(name)
        if entry is None:
            return None
        start, stop = entry["data_offsets"]
        stream.seek(8 + length + start)
        raw = stream.read(stop - start)
    if entry["dtype"] == "BF16":  # the upper half of a float32
        values = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    elif entry["dtype"] in _DTYPES:
        values = np.frombuffer(raw, _DTYPES[entry["dtype"]])
    else:
        raise ValueError(f"{file.name}: {name} holds {entry['dtype']}, no floating-point numbers")
    return values.astype(np.float32).reshape(entry["shape"])
