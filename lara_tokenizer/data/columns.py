"""Arrow columns to numpy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from lara_tokenizer.errors import EpisodeReadError


def number_rows(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """float32 (n, A): a column of numbers, or of lists of one length at any depth, a row each.

    Raises EpisodeReadError for missing values, lists of several lengths and what holds no numbers.

    >>> number_rows(pa.chunked_array([[[1, 2], [3, 4]]]), "action").tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    count = len(column)
    values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
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
    is_number = (
        pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)
    )
    if not is_number:
        raise EpisodeReadError(name, f"column {name!r} holds {values.type}, not numbers")
    return values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(count, -1)
