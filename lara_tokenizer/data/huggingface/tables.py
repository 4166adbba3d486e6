"""Opens a Hugging Face dataset as tables, one a split, whose rows can be read one by one."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lara_tokenizer.data.dataset_files import open_hub
from lara_tokenizer.data.huggingface.rows import ArrowPart, GivenPart, ParquetPart, TablePart
from lara_tokenizer.errors import first_line

_CONNECTIONS = 8
_TOKENS = b"lara_tokenizer"  # the key of our own tables' metadata


@dataclass(frozen=True, slots=True)
class Tables:
    """`splits` in the dataset's order; `features` as `datasets` types them; `format` says how it is stored."""

    splits: Mapping[str, Sequence[TablePart]]
    features: Mapping[str, Any]
    format: str
    revision: str | None = None


def open_tables(name: str, *, split: str | None, subset: str | None, streaming: bool) -> Tables:
    """Open a folder or a dataset of the Hub. Raises ValueError."""
    if os.path.isdir(name):
        name = os.path.abspath(name)
        if os.path.isfile(f"{name}/dataset_dict.json") or os.path.isfile(f"{name}/state.json"):
            return _saved(name, split, subset)
        return _built(name, None, split, subset, streaming)
    files, _ = open_hub(name)
    return _built(files.repo_id, files.revision, split, subset, streaming)


def _saved(folder: str, split: str | None, subset: str | None) -> Tables:
    """What `save_to_disk` wrote."""
    from datasets import Dataset, load_from_disk

    if subset is not None:
        raise ValueError(f"subset {subset!r}: {folder} was saved with save_to_disk and has no subsets. Leave it out")
    try:
        saved = load_from_disk(folder, keep_in_memory=False)
    except Exception as error:  # anything that a damaged json makes it raise
        raise ValueError(f"{folder}: saved with save_to_disk, but cannot be read ({first_line(error)})") from error
    splits = {str(saved.split or "train"): saved} if isinstance(saved, Dataset) else dict(saved)
    chosen = _chosen(splits, split, folder)
    return Tables(
        {name: _arrow_parts(name, data) for name, data in chosen.items()},
        next(iter(chosen.values())).features,
        "Hugging Face dataset, saved to disk",
    )


def _built(path: str, commit: str | None, split: str | None, subset: str | None, streaming: bool) -> Tables:
    """What `load_dataset` takes, with `datasets` told to find the files and to decode none of them."""
    builder = _builder(path, commit, subset)
    module = type(builder).__mro__[1].__name__.lower()
    if module == "parquet":
        files = _chosen({str(key): value for key, value in builder.config.data_files.items()}, split, path)
        if commit is not None and not streaming:
            files = _downloaded(path, commit, files)
        splits: Mapping[str, Sequence[TablePart]] = _parquet_parts(files)
        features = builder.info.features or _features(next(part for parts in splits.values() for part in parts))
    else:
        data = _loaded(builder, path, streaming)
        chosen = _chosen({str(key): value for key, value in data.items()}, split, path)
        parts = _given_parts if streaming else _arrow_parts
        splits = {name: parts(name, each) for name, each in chosen.items()}
        features = next(iter(chosen.values())).features
    return Tables(splits, features, f"Hugging Face dataset, {module}{', streamed' if streaming else ''}", commit)


def _loaded(builder: Any, path: str, streaming: bool) -> Mapping[Any, Any]:
    """`datasets`' own splits: cached as Arrow on this disk, or, streamed, to be iterated over."""
    try:
        if not streaming:
            builder.download_and_prepare()
            return builder.as_dataset()
        # Features of json and csv are known only once some rows were seen.
        streams = builder.as_streaming_dataset()
        return {name: each if each.features else each._resolve_features() for name, each in streams.items()}
    except Exception as error:  # datasets' errors share no base
        raise ValueError(f"{path}: `datasets` cannot load it ({first_line(error)})") from error


def _builder(path: str, commit: str | None, subset: str | None) -> Any:
    """`datasets`' own builder, which knows the files of each split."""
    from datasets import get_dataset_config_names, load_dataset_builder

    names: list[str] = []
    try:
        names = get_dataset_config_names(path, revision=commit)
        if subset is None or subset in names:
            return load_dataset_builder(path, subset, revision=commit)
    except Exception as error:  # datasets' errors share no base
        if subset is None and len(names) > 1:
            raise ValueError(f"{path}: it has several subsets. Name one (--subset): {', '.join(names)}") from error
        raise ValueError(
            f"{path}: `datasets` finds nothing to load in it ({first_line(error)}). Looked for what load_dataset "
            "takes: parquet, or videos with a metadata file. A LeRobotDataset is read as 'lerobot:'"
        ) from error
    raise ValueError(f"subset {subset!r}: not in {path}. There are: {', '.join(names)}")


def _chosen(splits: Mapping[str, Any], split: str | None, source: str) -> dict[str, Any]:
    if split is None:
        return dict(splits)
    if split not in splits:
        raise ValueError(f"split {split!r}: not in {source}. There are: {', '.join(splits)}")
    return {split: splits[split]}


def _downloaded(repo_id: str, commit: str, files: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The same files in the Hub's cache on this machine, where `load_dataset` puts them too."""
    from huggingface_hub import snapshot_download

    prefix = f"hf://datasets/{repo_id}@{commit}/"
    names = [url.removeprefix(prefix) for urls in files.values() for url in urls if url.startswith(prefix)]
    try:
        folder = snapshot_download(
            repo_id, repo_type="dataset", revision=commit, allow_patterns=[glob.escape(name) for name in names]
        )
    except Exception as error:  # the hub's errors share no base
        raise ValueError(f"{repo_id}: cannot be fetched from the Hub ({first_line(error)})") from error
    return {
        split: [os.path.join(folder, url.removeprefix(prefix)) if url.startswith(prefix) else url for url in urls]
        for split, urls in files.items()
    }


def _parquet_parts(files: Mapping[str, Sequence[str]]) -> dict[str, list[TablePart]]:
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        parts = {split: list(pool.map(ParquetPart, urls)) for split, urls in files.items()}
    # A table of tokens may have been written beside the dataset that it was made from.
    kept: dict[str, list[TablePart]] = {
        split: [part for part in each if _TOKENS not in (part.schema.metadata or {})] for split, each in parts.items()
    }
    return {split: each for split, each in kept.items() if each}


def _features(part: TablePart) -> Mapping[str, Any]:
    from datasets import Features

    return Features.from_arrow_schema(part.schema)


def _arrow_parts(name: str, data: Any) -> list[TablePart]:
    parts: list[TablePart] = [ArrowPart(file["filename"]) for file in data.cache_files]
    if sum(len(part.rows()) for part in parts) != len(data):
        raise ValueError(f"split {name!r} is a selection of rows that was saved without its data. Save it anew")
    return parts


def _given_parts(name: str, data: Any) -> list[TablePart]:
    """Rows that only name their files: iterating fetches nothing else."""
    rows = []
    try:
        for row in data.decode(False):
            rows.append(row)
            if _holds_bytes(row):
                break
    except Exception as error:  # datasets' errors share no base
        raise ValueError(f"split {name!r}: cannot be listed ({first_line(error)})") from error
    if rows and _holds_bytes(rows[-1]):
        raise ValueError(
            f"split {name!r}: its pictures lie within other files, which are not streamed. Leave out --streaming"
        )
    return [GivenPart(data.features.arrow_schema, rows)]


def _holds_bytes(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_bytes(each) for each in value.values())
    return isinstance(value, bytes) or (isinstance(value, list) and any(_holds_bytes(each) for each in value))


def local_name(name: str) -> str:
    """A folder's name, or the Hub's name without a revision."""
    return Path(os.path.abspath(name)).name if os.path.isdir(name) else name.partition("@")[0]
