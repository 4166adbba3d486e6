"""The wanted rows of a table, laid out so that any episode's can be read at once: shards take episodes at random.

rows.arrow, an Arrow IPC file with one record batch for each episode and camera, in the table's order. Reading does not
map it into memory, which would count as memory in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lara_tokenizer.data import Episode
from lara_tokenizer.export.matching import Matched
from lara_tokenizer.table.reader import TokenSequence, TokenTable


def write_rows(matched: Matched, path: Path) -> None:
    """Batch number i is the wanted rows of the i-th key of `matched.wanted`."""
    schema = _schema(matched.tokens)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for episode, track in matched.sequences("codes", "latents", "text"):
            if track.selected.any():
                writer.write_batch(_batch(episode, track, schema))


@contextmanager
def open_rows(path: Path) -> Iterator[pa.ipc.RecordBatchFileReader]:
    """For `get_batch(i)`."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        yield reader


def _schema(tokens: TokenTable) -> pa.Schema:
    fields: list[tuple[str, pa.DataType]] = [
        ("episode_index", pa.int64()),
        ("frame_index", pa.int32()),
        ("future_frame_index", pa.int32()),
        ("timestamp", pa.float64()),
        ("future_timestamp", pa.float64()),
        ("code_margin", pa.float32()),
        ("motion", pa.float32()),
        ("text", pa.string()),
    ]
    if "codes" in tokens.columns:
        fields.append(("codes", pa.list_(pa.int16(), tokens.num_latents)))
    if "latents" in tokens.columns:
        fields.append(("latents", pa.list_(pa.float16(), tokens.num_latents * tokens.codebook_dim)))
    return pa.schema(fields)


def _batch(episode: Episode, track: TokenSequence, schema: pa.Schema) -> pa.RecordBatch:
    texts = track.texts or [None] * len(track.frames)
    columns: dict[str, Any] = {
        "episode_index": np.full(len(track.frames), track.episode_index, object),
        "frame_index": track.frames,
        "future_frame_index": track.futures,
        "timestamp": track.timestamps,
        "future_timestamp": track.future_timestamps,
        "code_margin": track.margins,
        "motion": track.motions,
        "text": np.array([text or episode.text or "" for text in texts], object),
        "codes": track.codes,
        "latents": track.latents,
    }
    arrays = []
    for field in schema:
        values = columns[field.name][track.selected]
        if pa.types.is_fixed_size_list(field.type):
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=field.type))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.record_batch(arrays, schema=schema)
