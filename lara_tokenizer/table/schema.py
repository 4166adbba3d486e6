"""Columns, types and row order of a token table.

Rows are sorted by their key (episode, camera, stride, frame_index), which is unique.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

# Raised when an older release would misread a new table. Readers refuse every version but their own.
FORMAT_VERSION = 2
METADATA_KEY = b"lara_tokenizer"  # of the JSON in the metadata of a table's Arrow schema
KEY = ("episode", "camera", "stride", "frame_index")
# Rows that agree in these form a sequence: the pairs of one camera at one stride, in the order of frames.
SEQUENCE_KEY = KEY[:3]
# Names for `columns=`. "actions" adds `ACTION_COLUMNS`.
OPTIONAL_COLUMNS = ("actions", "latents", "text")
ACTION_COLUMNS = ("action_chunk", "action_sum", "state_change")

_NAME = pa.dictionary(pa.int32(), pa.string())


def token_schema(
    num_latents: int, codebook_dim: int, codebook_size: int | None, columns: tuple[str, ...] = ()
) -> pa.Schema:
    """Arrow schema of a token table, without metadata.

    Args:
        num_latents, codebook_dim: N and D.
        codebook_size: K; None for a continuous bottleneck, whose table has no codes and always has latents.
        columns: of `OPTIONAL_COLUMNS`.

    Raises:
        ValueError: K exceeds the range of int16.

    >>> token_schema(8, 32, 128).field("codes").type
    FixedSizeListType(fixed_size_list<element: int16>[8])
    """
    if codebook_size is not None and codebook_size > 2**15:
        raise ValueError(f"codebook_size {codebook_size}: the table holds codes as int16, at most {2**15}.")
    fields = [
        pa.field("episode", _NAME, nullable=False),
        pa.field("episode_index", pa.int64()),
        pa.field("camera", _NAME, nullable=False),
        pa.field("stride", _NAME, nullable=False),
        pa.field("frame_index", pa.int32(), nullable=False),
        pa.field("future_frame_index", pa.int32(), nullable=False),  # -1 where invalid
        pa.field("timestamp", pa.float64(), nullable=False),
        pa.field("future_timestamp", pa.float64()),
    ]
    if codebook_size is not None:
        fields.append(pa.field("codes", _fixed_list(pa.int16(), num_latents), nullable=False))
    if codebook_size is None or "latents" in columns:
        fields.append(pa.field("latents", _fixed_list(pa.float16(), num_latents * codebook_dim), nullable=False))
    fields += [
        pa.field("code_margin", pa.float32()),
        pa.field("motion", pa.float32()),
        pa.field("valid", pa.bool_(), nullable=False),
    ]
    if "actions" in columns:
        # Lists of any length: the width differs between the datasets of a mixture, and a chunk has one row per frame
        # from t up to the future frame.
        row = pa.list_(pa.field("element", pa.float32(), nullable=False))
        types = pa.list_(pa.field("element", row)), row, row
        fields += [pa.field(name, kind) for name, kind in zip(ACTION_COLUMNS, types, strict=True)]
    if "text" in columns:
        fields.append(pa.field("text", _NAME))
    return pa.schema(fields)


def _fixed_list(element: pa.DataType, length: int) -> pa.DataType:
    return pa.list_(pa.field("element", element), length)


# These without pyarrow's own conversions, each of which imports pandas where it is installed: a quarter of a second, in
# every process.


def to_numpy(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """The numbers of a column, read-only.

    >>> to_numpy(to_arrow(np.array([1, 2, 3], np.int16)))
    array([1, 2, 3], dtype=int16)
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.to_numpy(zero_copy_only=False) if array.null_count else np.from_dlpack(array)


def to_arrow(values: np.ndarray, valid: np.ndarray | bool = True) -> pa.Array:
    """Numbers or flags (R,) as a column; null where they are not valid.

    >>> to_arrow(np.array([1.5, 2.5]), np.array([True, False])).to_pylist()
    [1.5, None]
    """
    is_valid = np.broadcast_to(valid, values.shape)
    nulls = None if is_valid.all() else pa.py_buffer(np.packbits(is_valid, bitorder="little"))
    is_flags = values.dtype == bool
    content = np.packbits(values, bitorder="little") if is_flags else np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [nulls, pa.py_buffer(content)])


def to_names(texts: Sequence[str], indices: np.ndarray | None = None) -> pa.Array:
    """Texts as a column; with indices, int32 (R,), the column that names one of them in each row.

    >>> to_names(["a", "b"], np.array([1, 1, 0], np.int32)).to_pylist()
    ['b', 'b', 'a']
    """
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    names = pa.Array.from_buffers(
        pa.string(), len(encoded), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    )
    return names if indices is None else pa.DictionaryArray.from_arrays(to_arrow(indices), names)
