"""The plan of a WebDataset: the pairs of each shard, the names of samples, and the rows laid out for random access."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import pyarrow as pa

from lara_tokenizer.data import Episode
from lara_tokenizer.export.paths import check_distinct, sequence_path, shortened
from lara_tokenizer.table.reader import TokenSequence

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


def write_rows(sequences: Iterable[tuple[Episode, TokenSequence]], path: Path) -> None:
    """Write the selected rows as an Arrow IPC file, with one record batch for each sequence that has any.

    A table is read in its order; shards take episodes at random. Batch i belongs to `Slice.sequence` i.

    Args:
        sequences: with codes, latents and texts as far as the table has them; at least one has selected rows.
    """
    batches = (_batch(episode, sequence) for episode, sequence in sequences if sequence.selected.any())
    first = next(batches)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
        for batch in chain([first], batches):
            writer.write_batch(batch)


@contextmanager
def open_rows(path: Path) -> Iterator[pa.ipc.RecordBatchFileReader]:
    """The file of `write_rows`, opened for `get_batch(i)`."""
    # Not a memory map: its pages would count as memory in use.
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        yield reader


def _batch(episode: Episode, sequence: TokenSequence) -> pa.RecordBatch:
    """The selected rows of a sequence, in the types and under the names of the table's columns."""
    rows = sequence.selected.nonzero()[0]
    texts = sequence.texts or [None] * len(sequence.frames)
    arrays = {
        "episode_index": pa.array([sequence.episode_index] * len(rows), pa.int64()),
        "frame_index": pa.array(sequence.frames[rows]),
        "future_frame_index": pa.array(sequence.futures[rows]),
        "timestamp": pa.array(sequence.timestamps[rows]),
        "future_timestamp": pa.array(sequence.future_timestamps[rows]),
        "code_margin": pa.array(sequence.margins[rows]),
        "motion": pa.array(sequence.motions[rows]),
        "text": pa.array([texts[row] or episode.text or "" for row in rows.tolist()], pa.string()),
    }
    for name, values in (("codes", sequence.codes), ("latents", sequence.latents)):
        if values is not None:
            arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(values[rows].reshape(-1)), values.shape[1])
    return pa.record_batch(arrays)
