"""Hugging Face datasets whose rows are episodes: from the Hub, whole or streamed, from a folder, or saved to disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lara_tokenizer.data.episode import SIGNALS, Episode
from lara_tokenizer.data.huggingface.columns import Columns, find_columns, is_video
from lara_tokenizer.data.huggingface.reader import DatasetsReader
from lara_tokenizer.data.huggingface.rows import Row, TablePart
from lara_tokenizer.data.huggingface.tables import local_name, open_tables
from lara_tokenizer.data.listing import Found, choose_cameras

_CONNECTIONS = 8


def find_datasets(
    name: str,
    *,
    cameras: Sequence[str] = (),
    split: str | None = None,
    subset: str | None = None,
    streaming: bool = False,
    decoder: str = "pyav",
) -> Found:
    """List the rows of a dataset; each is an episode, "train/000012".

    Args:
        name: "user/name" on the Hub ("@revision" may follow), or a folder: of `save_to_disk`, of parquet files, or
            whatever else `load_dataset` takes, such as videos with a metadata.jsonl.
        cameras: columns of type Video or List(Image); none given takes the first.
        split: its name; default: all.
        subset: the configuration, where there are several.
        streaming: leave the dataset on the Hub. Of parquet, listing fetches footers and the columns of texts and rates,
            and reading an episode fetches its row group's column of videos, which is kept until another row group is
            read. Of single video files, listing fetches metadata only, and an episode its own file.
        decoder: "pyav", "decord" or "torchcodec". `datasets` itself decodes nothing.

    Text is the column language_instruction, instruction, task, prompt, caption, text or label; actions and states are
    columns of lists of lists, "actions" and "states"; a column "fps" is the rows' own rate. Without streaming, a
    dataset of the Hub is fetched into the Hub's cache first; parquet is then read where it lies.

    Raises ValueError where there is no such dataset, subset, split or camera, and where no column holds pictures.

    >>> find_datasets("user/clips", split="train", streaming=True).episodes[0].id  # doctest: +SKIP
    'train/000000'
    """
    tables = open_tables(name, split=split, subset=subset, streaming=streaming)
    first = next((part for parts in tables.splits.values() for part in parts), None)
    if first is None:
        raise ValueError(f"{name}: a dataset without a row")
    columns = find_columns(tables.features, first.schema, name)
    chosen, notes = choose_cameras(columns.cameras, cameras, name)
    lister = _Lister(columns, chosen, decoder)
    episodes = [episode for key, parts in tables.splits.items() for episode in lister.episodes(key, parts)]
    if not episodes:
        raise ValueError(f"{name}: a dataset without a row")
    needs_rate = columns.fps is None and not any(is_video(tables.features[camera]) for camera in chosen)
    return Found(tables.format, local_name(name), episodes, notes, tables.revision, needs_rate)


class _Lister:
    """Makes the episodes of a split."""

    def __init__(self, columns: Columns, cameras: tuple[str, ...], decoder: str) -> None:
        self.columns, self.cameras, self.decoder = columns, cameras, decoder
        offers = [*columns.signals, *(["text"] if columns.text else [])]
        self._offers = tuple(signal for signal in SIGNALS if signal in offers)

    def episodes(self, split: str, parts: Sequence[TablePart]) -> list[Episode]:
        light = [column for column in (self.columns.text, self.columns.fps) if column is not None]
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            values = pool.map(lambda part: part.values(light) if light else {}, parts)
            rows = [
                (row, {column: cells[k] for column, cells in each.items()})
                for part, each in zip(parts, values, strict=True)
                for k, row in enumerate(part.rows())
            ]
        return [self._episode(split, number, row, cells) for number, (row, cells) in enumerate(rows)]

    def _episode(self, split: str, number: int, row: Row, cells: dict[Any, Any]) -> Episode:
        name = f"{split}/{number:06d}"
        text, rate = self._text(cells.get(self.columns.text)), cells.get(self.columns.fps)
        reader = DatasetsReader(name, row, self.cameras, self.columns.signals, text, self.decoder)
        fps = float(rate) if rate is not None and 0 < rate < math.inf else None
        return Episode(name, reader, self.cameras, number, fps, text, self._offers)

    def _text(self, value: Any) -> str | None:
        if isinstance(value, int):
            value = self.columns.labels[value] if 0 <= value < len(self.columns.labels) else None
        return value.strip() or None if isinstance(value, str) else None
