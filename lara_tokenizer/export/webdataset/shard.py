"""One shard of a WebDataset: samples, of several members each, one after the other. Runs in a process of its own.

<episode>/000012.jpg            frame t
<episode>/000012.future.jpg     frame t + C
<episode>/000012.json           codes, text, where the pair comes from
<episode>/000012.codes.npy      int64 (N,), the codes once more, as an array
<episode>/000012.latents.npy    float16 (N, D), where the table has latents
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from lara_tokenizer.data import Episode
from lara_tokenizer.export.frames import frame_chunks
from lara_tokenizer.export.pictures import JPEG_QUALITY
from lara_tokenizer.export.tar_writer import TarWriter
from lara_tokenizer.export.webdataset_plan import Slice, sample_folder
from lara_tokenizer.export.webdataset_rows import open_rows
from lara_tokenizer.table.reader import matrix

UNFINISHED = ".tmp"  # the ending of what is not whole
_BUFFER = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class ShardTask:
    """A shard to be made.

    Fields:
        file: the tar.
        rows: the file of `write_rows`.
        slices: its pairs, in order.
        episodes: of each slice; empty for shards without pictures.
        stride: as the table spells it.
        codebook_dim: D.
    """

    file: Path
    rows: Path
    slices: tuple[Slice, ...]
    episodes: tuple[Episode, ...]
    stride: str
    codebook_dim: int

    @property
    def pairs(self) -> int:
        return sum(each.stop - each.first for each in self.slices)


def write_shard(task: ShardTask) -> None:
    """The tar has its name once it is whole. Raises EpisodeReadError.

    A worker whose driver was just killed may be at the same shard as one of the next run: each writes its own file.
    """
    unfinished = task.file.with_name(f"{task.file.name}.{os.getpid()}{UNFINISHED}")
    with open_rows(task.rows) as rows, unfinished.open("wb", buffering=_BUFFER) as stream:
        writer = TarWriter(stream)
        for place, part in enumerate(task.slices):
            table = pa.Table.from_batches([rows.get_batch(part.track).slice(part.first, part.stop - part.first)])
            if task.episodes:
                with closing(task.episodes[place]) as episode:
                    _write_samples(writer, task, part, table, _pictures(episode, part.camera, table))
            else:
                _write_samples(writer, task, part, table)
        writer.close()
    os.replace(unfinished, task.file)


def _write_samples(
    writer: TarWriter,
    task: ShardTask,
    part: Slice,
    table: pa.Table,
    pictures: Iterator[tuple[bytes, bytes]] | None = None,
) -> None:
    folder = sample_folder(part.episode, part.camera)
    facts = _Facts(part, task.stride, table["episode_index"][0].as_py())
    arrays = _arrays(table, task.codebook_dim)
    frames = table["frame_index"].to_numpy().tolist()
    for place, (frame, text) in enumerate(zip(frames, facts.lines(table), strict=True)):
        key = f"{frame:06d}"
        if pictures is not None:
            now, future = next(pictures)
            writer.add(folder, f"{key}.jpg", now)
            writer.add(folder, f"{key}.future.jpg", future)
        writer.add(folder, f"{key}.json", text.encode())
        for name, array in arrays.items():
            writer.add(folder, f"{key}.{name}.npy", array[place])


class _Facts:
    """The JSON of samples; what all of a slice share is written once."""

    def __init__(self, part: Slice, stride: str, index: int | None) -> None:
        shared: dict[str, Any] = {"episode": part.episode, "camera": part.camera, "stride": stride}
        if index is not None:
            shared["episode_index"] = index
        self._head = json.dumps(shared)[:-1]

    def lines(self, table: pa.Table) -> Iterator[str]:
        """One a row. Numbers are the table's own, to the last digit."""
        names = ["frame_index", "future_frame_index", "timestamp", "future_timestamp", "motion"]
        columns = [table[name].to_numpy().tolist() for name in names]
        template = "".join(f', "{name}": %r' for name in names)
        if (codes := matrix(table, "codes")) is not None:
            template += ', "code_margin": %r, "codes": %r'
            columns += [table["code_margin"].to_numpy().tolist(), codes.tolist()]
        texts = table["text"].to_pylist()
        as_json = {text: json.dumps(text) for text in set(texts)}
        for text, *numbers in zip(texts, *columns, strict=True):
            yield f'{self._head}{template % tuple(numbers)}, "text": {as_json[text]}}}'


def _arrays(table: pa.Table, codebook_dim: int) -> dict[str, _NpyRows]:
    arrays = {}
    if (codes := matrix(table, "codes")) is not None:
        # int64: what embeddings and losses take.
        arrays["codes"] = _NpyRows(codes.astype("<i8"))
    if (latents := matrix(table, "latents")) is not None:
        arrays["latents"] = _NpyRows(latents.reshape(len(latents), -1, codebook_dim))
    return arrays


class _NpyRows:
    """The rows of an array, each as the bytes of a .npy file."""

    def __init__(self, values: np.ndarray) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values[0]))
        self._header, self._data = header.getvalue(), values.tobytes()
        self._size = values[0].nbytes

    def __getitem__(self, row: int) -> bytes:
        return self._header + self._data[row * self._size : (row + 1) * self._size]


def _pictures(episode: Episode, camera: str, table: pa.Table) -> Iterator[tuple[bytes, bytes]]:
    """The two frames of each pair as JPEG; a frame is encoded once, and held until its last pair."""
    frames, futures = (table[name].to_numpy() for name in ("frame_index", "future_frame_index"))
    encoded = _encoded(episode, camera, np.union1d(frames, futures))
    held: dict[int, bytes] = {}
    for frame, future in zip(frames.tolist(), futures.tolist(), strict=True):
        while future not in held:
            number, data = next(encoded)
            held[number] = data
        yield held[frame], held[future]
        for past in [number for number in held if number <= frame]:
            del held[past]


def _encoded(episode: Episode, camera: str, numbers: np.ndarray) -> Iterator[tuple[int, bytes]]:
    for chunk, frames in frame_chunks(episode, camera, numbers):
        for number, pixels in zip(chunk.tolist(), frames, strict=True):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY)
            yield number, stream.getvalue()
