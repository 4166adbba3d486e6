"""Hugging Face datasets opened as tables, one per split, whose rows can be read individually."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lara_tokenizer.data.dataset_files import open_hub
from lara_tokenizer.data.huggingface.rows import (
    ANYWHERE,
    MediaPlaces,
    Row,
    TablePart,
    arrow_part,
    memory_part,
    parquet_part,
)
from lara_tokenizer.errors import first_line

_CONNECTIONS = 8
_CARD_CHARACTERS, _MOST_ALIASES = 10_000_000, 20  # of a README.md; in its YAML header
_TOKENS = b"lara_tokenizer"  # key of the metadata of our own token tables


@dataclass(frozen=True, slots=True)
class Tables:
    """The splits of a dataset, as tables."""

    splits: Mapping[str, Sequence[TablePart]]  # in the dataset's order
    features: Mapping[str, Any]  # columns as `datasets` types them
    format: str  # for messages: how the dataset is stored
    revision: str | None = None
    places: MediaPlaces = ANYWHERE  # of the files that cells may name
    notes: tuple[str, ...] = ()  # columns that `datasets` has no type for

    def rows(self, split: str, columns: Sequence[str]) -> list[tuple[Row, dict[str, Any]]]:
        """All rows of a split, each with its values of `columns`, which must be small. Raises ValueError."""
        parts = self.splits[split]
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            values = list(pool.map(lambda part: part.values(columns) if columns else {}, parts))
        for part, each in zip(parts, values, strict=True):
            for column, cells in each.items():
                if len(cells) != len(part.rows):
                    raise ValueError(f"split {split!r}: {len(cells)} cells of {column!r} for {len(part.rows)} rows")
        return [
            (row, {column: cells[i] for column, cells in each.items()})
            for part, each in zip(parts, values, strict=True)
            for i, row in enumerate(part.rows)
        ]


def open_tables(name: str, *, split: str | None, subset: str | None, streaming: bool) -> Tables:
    """Open a folder or a dataset of the Hub. Raises ValueError."""
    if not os.path.isdir(name):
        files, _ = open_hub(name)
        return _open_built(files.repo_id, files.revision, split, subset, streaming)
    folder = os.path.abspath(name)
    if os.path.isfile(f"{folder}/dataset_dict.json") or os.path.isfile(f"{folder}/state.json"):
        return _open_saved(folder, split, subset)
    return _open_built(folder, None, split, subset, streaming)


def _open_saved(folder: str, split: str | None, subset: str | None) -> Tables:
    """Open a folder written by `save_to_disk`."""
    from datasets import Dataset, load_from_disk

    if subset is not None:
        raise ValueError(f"subset {subset!r}: {folder} was saved with save_to_disk and has no subsets. Leave it out")
    try:
        saved = load_from_disk(folder, keep_in_memory=False)
    except Exception as error:  # a damaged JSON file raises various types
        raise ValueError(f"{folder}: saved with save_to_disk, but cannot be read ({first_line(error)})") from error
    splits = {str(saved.split or "train"): saved} if isinstance(saved, Dataset) else dict(saved)
    selected = _select_split(splits, split, folder)
    for each in selected.values():
        for file in each.cache_files:
            if not os.path.normpath(file["filename"]).startswith(f"{folder}/"):
                raise ValueError(f"{folder}: its state.json names {file['filename']}, which is outside of it")
    return Tables(
        {name: _arrow_parts(name, data) for name, data in selected.items()},
        next(iter(selected.values())).features,
        "Hugging Face dataset, saved to disk",
        places=MediaPlaces((folder,), urls=False),
    )


def _open_built(path: str, commit: str | None, split: str | None, subset: str | None, streaming: bool) -> Tables:
    """Open anything that `load_dataset` takes. `datasets` finds the files; no media is decoded by it."""
    if commit is None:
        _check_card(Path(path) / "README.md")
    builder = _builder(path, commit, subset)
    notes: list[str] = []
    module = type(builder).__mro__[1].__name__.lower()
    if module == "parquet":
        # Parquet is read in place: `datasets` would copy all of it into its own cache first.
        files = _select_split({str(key): value for key, value in builder.config.data_files.items()}, split, path)
        if commit is not None and not streaming:
            files = _downloaded(path, commit, files)
        splits: Mapping[str, Sequence[TablePart]] = _parquet_parts(files)
        if not splits:
            raise ValueError(f"{path}: no table of it has episodes")
        features = builder.info.features or _features(next(iter(splits.values()))[0].schema, path, notes)
    else:
        data = _loaded(builder, path, streaming)
        selected = _select_split({str(key): value for key, value in data.items()}, split, path)
        make_parts = _memory_parts if streaming else _arrow_parts
        splits = {name: make_parts(name, each) for name, each in selected.items()}
        features = next(iter(selected.values())).features
    form = f"Hugging Face dataset, {module}{', streamed' if streaming else ''}"
    return Tables(splits, features, form, commit, _places(path, commit), tuple(notes))


def _places(path: str, commit: str | None) -> MediaPlaces:
    """The folder of a local dataset; of one on the Hub the caches that hold it, and the network."""
    if commit is None:
        return MediaPlaces((os.path.abspath(path),), urls=False)
    from datasets import config
    from huggingface_hub import constants

    return MediaPlaces(tuple(os.path.abspath(each) for each in (constants.HF_HUB_CACHE, config.HF_DATASETS_CACHE)))


def _features(schema: pa.Schema, path: str, notes: list[str]) -> Mapping[str, Any]:
    """The columns of a parquet file as `datasets` types them; one without such a type is left out with a note."""
    from datasets import Features

    try:
        return Features.from_arrow_schema(schema)
    except Exception as error:  # the types are JSON in the file's metadata, of any kind
        features: dict[str, Any] = {}
        for field in schema:
            try:
                features |= Features.from_arrow_schema(pa.schema([field]))
            except Exception:
                notes.append(f"column {field.name!r} of type {field.type} is not read")
        if not features:
            raise ValueError(f"{path}: `datasets` has no types for its columns ({first_line(error)})") from error
        return features


def _check_card(card: Path) -> None:
    """Raise ValueError for a README.md whose YAML refers to itself so often that reading it would fill the memory."""
    try:
        text = card.read_text(encoding="utf-8", errors="replace")[:_CARD_CHARACTERS]
    except OSError:
        return
    header = text.split("\n---", 1)[0] if text.startswith("---") else ""
    if len(re.findall(r"[:\-\[,]\s*\*[\w-]+", header)) > _MOST_ALIASES:
        raise ValueError(f"{card}: its YAML has more than {_MOST_ALIASES} aliases. Remove them")


def _loaded(builder: Any, path: str, streaming: bool) -> Mapping[Any, Any]:
    """The splits as `datasets` loads them: cached as local Arrow files, or streamed."""
    try:
        if not streaming:
            builder.download_and_prepare()
            return builder.as_dataset()
        # Features of JSON and CSV are known only after some rows have been read.
        streams = builder.as_streaming_dataset()
        return {name: each if each.features else each._resolve_features() for name, each in streams.items()}
    except Exception as error:  # errors of `datasets` share no base class
        raise ValueError(f"{path}: `datasets` cannot load it ({first_line(error)})") from error


def _builder(path: str, commit: str | None, subset: str | None) -> Any:
    """The builder of `datasets`, which finds the files of each split."""
    from datasets import get_dataset_config_names, load_dataset_builder

    names: list[str] = []
    try:
        names = get_dataset_config_names(path, revision=commit)
        if subset is None or subset in names:
            return load_dataset_builder(path, subset, revision=commit)
    except Exception as error:  # errors of `datasets` share no base class
        if subset is None and len(names) > 1:
            raise ValueError(f"{path}: it has several subsets. Name one (--subset): {', '.join(names)}") from error
        raise ValueError(
            f"{path}: `datasets` finds nothing to load in it ({first_line(error)}). Looked for what load_dataset "
            "takes: parquet, or videos with a metadata file. A LeRobotDataset is read as 'lerobot:'"
        ) from error
    raise ValueError(f"subset {subset!r}: not in {path}. There are: {', '.join(names)}")


def _select_split(splits: Mapping[str, Any], split: str | None, source: str) -> dict[str, Any]:
    if split is None:
        return dict(splits)
    if split not in splits:
        raise ValueError(f"split {split!r}: not in {source}. There are: {', '.join(splits)}")
    return {split: splits[split]}


def _downloaded(repo_id: str, commit: str, files: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The same files in the Hub's local cache, shared with `load_dataset`."""
    from huggingface_hub import snapshot_download

    prefix = f"hf://datasets/{repo_id}@{commit}/"
    names = [url.removeprefix(prefix) for urls in files.values() for url in urls if url.startswith(prefix)]
    try:
        folder = snapshot_download(
            repo_id, repo_type="dataset", revision=commit, allow_patterns=[glob.escape(name) for name in names]
        )
    except Exception as error:  # the Hub client's errors share no base class
        raise ValueError(f"{repo_id}: cannot be downloaded from the Hub ({first_line(error)})") from error
    return {
        split: [os.path.join(folder, url.removeprefix(prefix)) if url.startswith(prefix) else url for url in urls]
        for split, urls in files.items()
    }


def _parquet_parts(files: Mapping[str, Sequence[str]]) -> dict[str, list[TablePart]]:
    splits: dict[str, list[TablePart]] = {}
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        for split, urls in files.items():
            # A token table may have been written next to the dataset that it was made from.
            parts = [part for part in pool.map(parquet_part, urls) if _TOKENS not in (part.schema.metadata or {})]
            if parts:
                splits[split] = parts
    return splits


def _arrow_parts(name: str, data: Any) -> list[TablePart]:
    parts = [arrow_part(file["filename"]) for file in data.cache_files]
    if sum(len(part.rows) for part in parts) != len(data):
        raise ValueError(f"split {name!r} is a selection of rows that was saved without its data. Save it anew")
    return parts


def _memory_parts(name: str, data: Any) -> list[TablePart]:
    """All rows of a streamed split, whose cells only name media files; iterating downloads none of those."""
    rows = []
    try:
        for row in data.decode(False):
            rows.append(row)
            if _contains_bytes(row):
                break
    except Exception as error:  # errors of `datasets` share no base class
        raise ValueError(f"split {name!r}: cannot be listed ({first_line(error)})") from error
    if rows and _contains_bytes(rows[-1]):
        raise ValueError(
            f"split {name!r}: its media are inside other files, which are not streamed. Leave out --streaming"
        )
    return [memory_part(data.features.arrow_schema, rows)]


def _contains_bytes(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_contains_bytes(each) for each in value.values())
    return isinstance(value, bytes) or (isinstance(value, list) and any(_contains_bytes(each) for each in value))


def local_name(name: str) -> str:
    """Name of a folder, or of a Hub repository without its revision."""
    return Path(os.path.abspath(name)).name if os.path.isdir(name) else name.partition("@")[0]
