"""Usual names of signal columns, natural order of names, and Arrow columns as numpy arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from lara_tokenizer.errors import EpisodeReadError

# Column names by convention, most specific first; used where a format does not declare which column is which.
TEXTS = ("language_instruction", "instruction", "task", "prompt", "caption", "text", "label")
ACTIONS = ("action", "actions")
STATES = ("observation.state", "observation.states", "state", "states")


def first_of(names: Iterable[str], available: Iterable[str]) -> str | None:
    """The first of `names` that is among `available`.

    >>> first_of(ACTIONS, ["video", "action"])
    'action'
    """
    existing = set(available)
    return next((name for name in names if name in existing), None)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key for natural order: img_9 before img_10.

    >>> sorted(["img_10.png", "img_9.png"], key=natural_key)
    ['img_9.png', 'img_10.png']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def numeric_rows(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """float32 (n, A): a column of numbers, or of equally long lists nested to any depth, flattened per row.

    Raises EpisodeReadError for missing values, lists of several lengths and non-numeric types.

    >>> numeric_rows(pa.chunked_array([[[1, 2], [3, 4]]]), "action").tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    count = len(column)
    values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    # One level of nesting per turn, since nulls and unequal lengths can be on any level.
    while True:
        if values.null_count:
            raise EpisodeReadError(name, f"column {name!r} has missing values")
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
        elif pa.types.is_fixed_size_list(values.type):
            values = values.flatten()
        elif pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            lengths = np.unique(np.diff(values.offsets.to_numpy()))
            if len(lengths) > 1:
                raise EpisodeReadError(name, f"column {name!r} has rows of {lengths[0]} and of {lengths[-1]} numbers")
            values = values.flatten()
        else:
            break
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise EpisodeReadError(name, f"column {name!r} holds {kind}, not numbers")
    return values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(count, -1)
