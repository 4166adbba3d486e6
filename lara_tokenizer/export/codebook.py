"""The codebook of the model that made a table, read from its checkpoint's files: builds no model, imports no torch.

Shape suffixes: K codes, D codebook dimension.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lara_tokenizer._files import file_sha256
from lara_tokenizer._parse import safetensors_header
from lara_tokenizer.checkpoint import checkpoint_folder
from lara_tokenizer.table.reader import TokenTable

_CODEBOOK = "bottleneck.codebook.weight"  # in every model family
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def read_codebook(table: TokenTable, model: str | os.PathLike[str] | None = None) -> np.ndarray:
    """The vectors of a table's codes, float32 (K, D); (N K, D) where each of the N positions has its own codebook.

    Args:
        table: made by a model with a codebook.
        model: the checkpoint; None uses the one that the table names.

    Raises:
        ValueError: there is no such checkpoint; its weights are not those that made the table; it has no codebook.
    """
    made_by = table.metadata["model"]
    name = made_by["id"] if model is None else model
    try:
        folder = checkpoint_folder(name)
    except ValueError as error:
        raise ValueError(
            f"{error} {table.path} was made by {made_by['id']!r}, and its codebook is needed. Pass its path with "
            "--model."
        ) from error
    _check_weights(folder, made_by["weights_sha256"], table)
    for file in sorted(made_by["weights_sha256"]):
        codebook = _read_tensor(folder / file, _CODEBOOK)
        if codebook is not None:
            break
    else:
        raise ValueError(f"model {folder.name!r}: no tensor {_CODEBOOK!r} in its weights")
    size, dim = table.codebook_size, table.codebook_dim
    assert size is not None  # the table has codes
    if codebook.shape not in {(size, dim), (table.num_latents * size, dim)}:
        raise ValueError(
            f"model {folder.name!r}: a codebook of shape {codebook.shape}; {table.path} has K "
            f"{table.codebook_size}, D {table.codebook_dim}"
        )
    return codebook


def _check_weights(folder: Path, expected: dict[str, str], table: TokenTable) -> None:
    for file, before in sorted(expected.items()):
        if file != Path(file).name:
            raise ValueError(f"{table.path}: its metadata names weights {file!r}, which is no file of a checkpoint.")
        now = file_sha256(folder / file) if (folder / file).is_file() else None
        if now != before:
            what = "is missing" if now is None else f"has sha256 {now[:12]}..., the table's {before[:12]}..."
            raise ValueError(
                f"model {folder.name!r} is not the one that made {table.path}: {file} {what}. Name the right "
                "checkpoint with --model, or encode again."
            )


def _read_tensor(file: Path, name: str) -> np.ndarray | None:
    """One tensor of a safetensors file as float32; None where the file does not have it."""
    header, first = safetensors_header(file)
    entry = header.get(name)
    if entry is None:
        return None
    start, stop = entry["data_offsets"]
    with file.open("rb") as stream:
        stream.seek(first + start)
        raw = stream.read(stop - start)
    if entry["dtype"] == "BF16":  # the upper half of a float32, which numpy has no name for
        values = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    elif entry["dtype"] in _DTYPES:
        values = np.frombuffer(raw, _DTYPES[entry["dtype"]])
    else:
        raise ValueError(f"{file.name}: {name} has dtype {entry['dtype']}, which is not floating point")
    return values.astype(np.float32).reshape(entry["shape"])
