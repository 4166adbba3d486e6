"""The table of tokens: its columns, and the JSON in its metadata that says where it came from.

Key, unique and sorted: (episode, camera, stride, frame_index).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FORMAT_VERSION = 2
METADATA_KEY = b"lara_tokenizer"
# In the metadata of a table, but no option of its job: what the processor makes of frames. Older tables have none.
FRAMES = "frames"
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


def with_metadata(schema: pa.Schema, metadata: dict[str, Any]) -> pa.Schema:
    """The schema with `metadata` as JSON under one key; equal dicts give equal bytes."""
    return schema.with_metadata({METADATA_KEY: json.dumps(metadata, sort_keys=True).encode()})


def token_files(tokens: str | Path) -> list[Path]:
    """The parquet files of a table of tokens: one file, or the shards of a folder in order.

    Raises FileNotFoundError for neither.
    """
    path = Path(tokens)
    files = sorted(path.glob("data/*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"{path}: no such table of tokens (a .parquet file, or a folder with data/*.parquet)")
    return files


def read_metadata(tokens: str | Path | pa.Schema) -> dict[str, Any]:
    """What a table of tokens says about itself: model, weights, strides, versions, source.

    Raises:
        ValueError: for a table that is not ours, and for a format version that this release does not know.

    >>> read_metadata("tokens.parquet")["format_version"]  # doctest: +SKIP
    1
    """
    name = "the table" if isinstance(tokens, pa.Schema) else str(tokens)
    schema = tokens if isinstance(tokens, pa.Schema) else _read_schema(token_files(tokens)[0])
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise ValueError(f"{name}: not a table of tokens (its metadata has no {METADATA_KEY.decode()!r} entry)")
    metadata = json.loads(raw)
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{name}: written in format version {metadata.get('format_version')}, this release reads "
            f"{FORMAT_VERSION}. Take a matching release of lara-tokenizer, or encode again."
        )
    return metadata


def _read_schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: not a parquet file ({str(error).splitlines()[0]})") from None
