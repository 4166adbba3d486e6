"""The plan of a WebDataset: the pairs of each shard, the names of samples, and the rows laid out for random access."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lara_tokenizer.data import Episode
from lara_tokenizer.export.paths import check_distinct, sequence_path, shortened
from lara_tokenizer.table.reader import TokenSequence, TokenTable

LONGEST_FOLDER = 155  # bytes that a tar (POSIX ustar) has for the folder of a member


@dataclass(frozen=True, slots=True)
class Slice:
    """Selected pairs `first` to `stop - 1` of an episode and camera, the `sequence`-th of those with any pair."""

    episode: str
    camera: str
    sequence: int
    first: int
    stop: int


def plan_shards(pairs: Mapping[tuple[str, str], int], shard_size: int, seed: int) -> list[list[Slice]]:
    """The slices of each shard, with episodes in an order that depends on the seed.

    An episode, with all its cameras, is in one shard; one that is longer than a shard is cut.

    Args:
        pairs: count of selected pairs by (episode, camera), in the table's order.
        shard_size: largest count of pairs in a shard.

    Raises ValueError where the samples of two cameras would have the same names.
    """
    check_distinct(pairs, sample_folder, "samples")
    indexed = ((episode, camera, index) for index, (episode, camera) in enumerate(pairs))
    episodes = [list(of_episode) for _, of_episode in groupby(indexed, key=lambda entry: entry[0])]
    shards: list[list[Slice]] = [[]]
    room = shard_size
    for index in np.random.default_rng(seed).permutation(len(episodes)).tolist():
        sequences = episodes[index]
        total = sum(pairs[episode, camera] for episode, camera, _ in sequences)
        if room < total <= shard_size:
            shards.append([])
            room = shard_size
        for episode, camera, sequence in sequences:
            first, count = 0, pairs[episode, camera]
            while first < count:
                if not room:
                    shards.append([])
                    room = shard_size
                stop = min(count, first + room)
                shards[-1].append(Slice(episode, camera, sequence, first, stop))
                room -= stop - first
                first = stop
    return shards


def shard_name(index: int) -> str:
    """The file name of a shard.

    >>> shard_name(3)
    'train-000003.tar'
    """
    return f"train-{index:06d}.tar"


def shard_urls(count: int) -> str:
    """All shards in the brace notation of WebDataset.

    >>> shard_urls(12)
    'train-{000000..000011}.tar'
    """
    return shard_name(0) if count == 1 else f"train-{{{0:06d}..{count - 1:06d}}}.tar"


def sample_folder(episode: str, camera: str) -> str:
    """The folder in the names of an episode's samples: its id, and the camera where it has a name.

    WebDataset splits a name at the first dot of its last component, so the dots of folders are harmless. Characters
    that not every tar keeps are percent-encoded, and a name that is too long for a tar ends in a digest.

    >>> sample_folder("kitchen/a.mp4", "wrist")
    'kitchen/a.mp4/wrist'
    """
    return shortened(sequence_path(episode, camera), LONGEST_FOLDER)


def write_rows(sequences: Iterable[tuple[Episode, TokenSequence]], table: TokenTable, path: Path) -> None:
    """Write the selected rows as an Arrow IPC file, with one record batch for each sequence that has any.

    A table is read in its order; shards take episodes at random. Batch i belongs to `Slice.sequence` i.

    Args:
        sequences: with codes, latents and texts as far as the table has them.
    """
    schema = _schema(table)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for episode, sequence in sequences:
            if sequence.selected.any():
                writer.write_batch(_batch(episode, sequence, schema))


@contextmanager
def open_rows(path: Path) -> Iterator[pa.ipc.RecordBatchFileReader]:
    """The file of `write_rows`, opened for `get_batch(i)`."""
    # Not a memory map: its pages would count as memory in use.
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        yield reader


def _schema(table: TokenTable) -> pa.Schema:
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
    if "codes" in table.columns:
        fields.append(("codes", pa.list_(pa.int16(), table.num_latents)))
    if "latents" in table.columns:
        fields.append(("latents", pa.list_(pa.float16(), table.num_latents * table.codebook_dim)))
    return pa.schema(fields)


def _batch(episode: Episode, sequence: TokenSequence, schema: pa.Schema) -> pa.RecordBatch:
    texts = sequence.texts or [None] * len(sequence.frames)
    columns: dict[str, Any] = {
        "episode_index": np.full(len(sequence.frames), sequence.episode_index, object),
        "frame_index": sequence.frames,
        "future_frame_index": sequence.futures,
        "timestamp": sequence.timestamps,
        "future_timestamp": sequence.future_timestamps,
        "code_margin": sequence.margins,
        "motion": sequence.motions,
        "text": np.array([text or episode.text or "" for text in texts], object),
        "codes": sequence.codes,
        "latents": sequence.latents,
    }
    arrays = []
    for field in schema:
        values = columns[field.name][sequence.selected]
        if pa.types.is_fixed_size_list(field.type):
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=field.type))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.record_batch(arrays, schema=schema)
