"""Listing of Hugging Face datasets whose rows are episodes: on the Hub, complete or streamed, or in a folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.data.episode import ACTIONS, SIGNALS, STATES, TEXTS, Episode, first_of
from lara_tokenizer.data.huggingface.reader import DatasetsReader, first_mode
from lara_tokenizer.data.huggingface.rows import TablePart, is_text
from lara_tokenizer.data.huggingface.tables import Tables, local_name, open_tables
from lara_tokenizer.data.listing import DEFAULT_OPTIONS, Listing, ListOptions, choose_cameras, is_color_camera
from lara_tokenizer.data.texts import instruction

LOOKED_FOR = "state.json, dataset_dict.json or *.parquet with videos or images (Hugging Face datasets)"
# Tables examined by `detect`: next to the tables of a dataset there may be others, such as a token table.
_EXAMINED_TABLES = 4
_LEROBOT = {"episode_index", "frame_index"}


def detect(folder: Path, names: Set[str]) -> bool:
    """Whether a folder was written by `save_to_disk`, or holds parquet files with videos or images.

    Parquet alone is not enough: token tables are parquet too.
    """
    if {"dataset_dict.json", "state.json"} & names:
        return True
    if "data" not in names and not any(name.endswith(".parquet") for name in names):
        return False
    tables = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    return any(_has_media(table) for table in tables[:_EXAMINED_TABLES])


def list_episodes(source: str, options: ListOptions = DEFAULT_OPTIONS) -> Listing:
    """List the rows of a dataset; each is an episode, "train/000012".

    `source` is "user/name" on the Hub ("@revision" may follow), or a folder: of `save_to_disk`, of parquet files, or
    anything else that `load_dataset` takes, such as videos with a metadata.jsonl. Cameras are columns of type Video or
    List(Image). Text is the column language_instruction, instruction, task, prompt, caption, text or label; actions and
    states are columns of lists of lists; a column "fps" is the rate of each row. `datasets` itself decodes nothing.

    Without `options.streaming`, a dataset of the Hub is downloaded into the Hub's cache, and parquet is read there.
    With it, listing parquet downloads footers and the columns of texts and rates, and reading an episode downloads the
    video column of its row group, which stays cached until another row group is read. Individual video files are
    downloaded one by one.

    Raises ValueError where there is no such dataset, subset, split or camera, or no column of videos or images.

    >>> list_episodes("user/clips", ListOptions(split="train", streaming=True)).episodes[0].id  # doctest: +SKIP
    'train/000000'
    """
    tables = open_tables(source, split=options.split, subset=options.subset, streaming=options.streaming)
    first = next((part for parts in tables.splits.values() for part in parts), None)
    if first is None:
        raise ValueError(f"{source}: a dataset without a row")
    columns = _Columns.find(tables.features, first.schema, source)
    deep = _deep_cameras(columns.cameras, first) if len(columns.cameras) > 1 else frozenset()
    cameras, notes = choose_cameras(
        columns.cameras, options.cameras, source, is_color=lambda name: is_color_camera(name) and name not in deep
    )
    notes += [*tables.notes, *columns.notes]
    if deep:
        notes.append(f"{', '.join(sorted(deep))}: more than 8 bits a pixel, so no colour video")
    episodes = [
        episode for split in tables.splits for episode in _list_split(tables, split, columns, cameras, options.decoder)
    ]
    if not episodes:
        raise ValueError(f"{source}: a dataset without a row")
    if spoiled := sum(episode.text is not None and "\ufffd" in episode.text for episode in episodes):
        notes.append(f"{spoiled} texts are not UTF-8; bytes that are not became U+FFFD")
    needs_rate = columns.fps is None and not any(_is_video(tables.features[camera]) for camera in cameras)
    return Listing(tables.format, local_name(source), episodes, notes, tables.revision, needs_rate)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Names of a dataset's columns by their role."""

    cameras: tuple[str, ...]
    signals: Mapping[str, str]  # column of "actions" and "states"
    text: str | None
    fps: str | None
    labels: tuple[str, ...] = ()  # class names, if `text` is a column of class indices
    notes: tuple[str, ...] = ()  # about a column of lists of texts, and one named like a text that is none

    @classmethod
    def find(cls, features: Mapping[str, Any], schema: pa.Schema, source: str) -> _Columns:
        """Find cameras by `datasets`' features, signals by names and Arrow types.

        Raises ValueError, listing the columns, where none holds a video or a sequence of images.
        """
        cameras = tuple(name for name, feature in features.items() if _is_camera(feature))
        if not cameras:
            raise ValueError(f"{source}: {_no_camera(features)}")
        types = {field.name: field.type for field in schema}
        nested = [name for name, kind in types.items() if _nesting(kind) >= 2]
        texts = [name for name in features if getattr(features[name], "names", None) or is_text(types.get(name))]
        rates = [name for name, kind in types.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
        signals = {"actions": first_of(ACTIONS, nested), "states": first_of(STATES, nested)}
        text = first_of(TEXTS, texts)
        notes = []
        if text is None and (named := first_of(TEXTS, features)) is not None:
            notes.append(f"column {named!r} holds {types.get(named, 'no text')}, which is not read as an instruction")
        elif text is not None and text in types and not is_text(types[text], in_lists=False):
            notes += [f"of the lists in column {text!r} the first text is taken"] * is_text(types[text])
        return cls(
            cameras,
            {signal: name for signal, name in signals.items() if name is not None},
            text,
            first_of(["fps"], rates),
            tuple(getattr(features[text], "names", None) or ()) if text else (),
            tuple(notes),
        )

    @property
    def available_signals(self) -> tuple[str, ...]:
        available = {*self.signals, *(["text"] if self.text else [])}
        return tuple(signal for signal in SIGNALS if signal in available)

    def instruction(self, value: Any) -> str | None:
        """The text of a cell of the column `text`."""
        if isinstance(value, int):
            value = self.labels[value] if 0 <= value < len(self.labels) else None
        return instruction(value)


def _list_split(tables: Tables, split: str, columns: _Columns, cameras: tuple[str, ...], decoder: str) -> list[Episode]:
    small = [column for column in (columns.text, columns.fps) if column is not None]
    episodes = []
    for index, (row, cells) in enumerate(tables.rows(split, small)):
        name = f"{split}/{index:06d}"
        text = None if columns.text is None else columns.instruction(cells.get(columns.text))
        rate = None if columns.fps is None else cells.get(columns.fps)
        fps = float(rate) if rate is not None and 0 < rate < math.inf else None
        reader = DatasetsReader(name, row, cameras, columns.signals, text, decoder, tables.places)
        episodes.append(Episode(name, reader, cameras, index, fps, text, columns.available_signals))
    return episodes


def _deep_cameras(cameras: Sequence[str], table: TablePart) -> frozenset[str]:
    """Those cameras of a local table whose first picture has more than 8 bits a pixel: depth by any name."""
    if not table.rows or not table.rows[0].files:
        return frozenset()
    return frozenset(name for name in cameras if first_mode(table.rows[0], name).startswith(("I", "F")))


def _has_media(table: Path) -> bool:
    try:
        features = (pq.read_schema(table).metadata or {}).get(b"huggingface", b"")
    except Exception:  # a damaged footer raises many types; listing the episodes will name it
        return False
    return b'"Video"' in features or b'"Image"' in features


def _is_video(feature: Any) -> bool:
    """Whether a column holds videos, which have frame rates of their own."""
    from datasets import Video

    return isinstance(feature, Video)


def _is_camera(feature: Any) -> bool:
    from datasets import Image

    return _is_video(feature) or isinstance(_item(feature), Image)


def _item(feature: Any) -> Any:
    """The type of a list's items; None for other types."""
    return feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)


def _nesting(kind: pa.DataType) -> int:
    """Number of list levels around numbers: 0 for plain numbers, -1 for other types."""
    levels = 0
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind, levels = kind.value_type, levels + 1
        else:
            return levels if pa.types.is_integer(kind) or pa.types.is_floating(kind) else -1


def _no_camera(features: Mapping[str, Any]) -> str:
    columns = ", ".join(f"{name} ({_described(feature)})" for name, feature in features.items())
    hint = ""
    if set(features) >= _LEROBOT:
        hint = ". Its rows are frames of a LeRobotDataset: write 'lerobot:' in place of 'datasets:'"
    elif any(type(feature).__name__ == "Image" for feature in features.values()):
        hint = ". A row with one image is not an episode: save the images as files, one folder per episode"
    return (
        f"no column holds a video or a sequence of images. Its columns: {columns}. "
        f"Looked for the types Video and List(Image){hint}"
    )


def _described(feature: Any) -> str:
    item = _item(feature)
    if item is not None:
        return f"List({_described(item)})"
    kind = type(feature).__name__
    return str(feature.dtype) if kind == "Value" else kind
