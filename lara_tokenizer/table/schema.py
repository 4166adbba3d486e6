"""The table of tokens: its columns, and the JSON in its metadata that says where it came from.

Key, unique and sorted: (episode, camera, stride, frame_index).
"""

from __future__ import annotations

import pyarrow as pa

FORMAT_VERSION = 2
KEY = ("episode", "camera", "stride", "frame_index")
# What may be asked for beside the rest. "actions" is two columns, action_chunk and action_sum.
OPTIONAL_COLUMNS = ("actions", "latents", "text")

_NAME = pa.dictionary(pa.int32(), pa.string())


def token_schema(
    num_latents: int, codebook_dim: int, codebook_size: int | None, columns: tuple[str, ...] = ()
) -> pa.Schema:
    """The columns of a table of tokens.

    Args:
        num_latents, codebook_dim: N and D.
        codebook_size: K; None for a continuous bottleneck: there are no codes then, and always latents.
        columns: of `OPTIONAL_COLUMNS`.

    Raises:
        ValueError: for a code that int16 cannot hold.

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
        # Episodes of a mixture have actions of several widths, or none; chunks have as many rows as the gap has frames.
        row = pa.list_(pa.field("element", pa.float32(), nullable=False))
        fields += [pa.field("action_chunk", pa.list_(pa.field("element", row))), pa.field("action_sum", row)]
    if "text" in columns:
        fields.append(pa.field("text", _NAME))
    return pa.schema(fields)


def _fixed_list(element: pa.DataType, length: int) -> pa.DataType:
    return pa.list_(pa.field("element", element), length)
