"""Statistics of the columns added to a LeRobotDataset, and the metadata files that contain them.

v3.0  meta/stats.json, and stats/<feature>/<statistic> in meta/episodes/*/*.parquet
v2.1  meta/episodes_stats.jsonl
v2.0  meta/stats.json

Statistics are those of LeRobot 0.6, over all rows of an episode and over all episodes. Rows without a label count too,
with their fill, as lerobot counts every row that it records; the mean of `latent_labels.valid` is the share of labelled
rows, from which mean and spread of the labels alone follow. A column of vectors (N, D) has statistics of width D, over
rows and tokens. Quantiles of an episode are exact; those of a dataset are the mean over its episodes, weighted by rows.

Shape suffixes: R rows, N latent tokens, D codebook dimension, V vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer._parse import read_json
from lara_tokenizer.data.lerobot.info import EPISODES_V3
from lara_tokenizer.data.lerobot.writer import QUANTILES
from lara_tokenizer.export.lerobot.columns import Column, with_hf_features
from lara_tokenizer.export.lerobot.folder import (
    DataFile,
    LeRobotFolder,
    batches,
    read_lines,
    reading,
    write_json,
    write_lines,
)

_STATS, _EPISODES_STATS = "meta/stats.json", "meta/episodes_stats.jsonl"
_BASIC = ("min", "max", "mean", "std", "count")  # v2.1 has these alone
_ALL = (*_BASIC, *QUANTILES)

Statistics = dict[str, np.ndarray]  # by name: min, max, mean, std, count, q01, ...


class RunningStatistics:
    """Statistics of added columns by episode and over the dataset, computed while data files are written.

    They are stored as one file per data file, so that an interrupted export need not read its rows again; one file is
    in memory at a time.

    Args:
        folder: for the files.
        data: the dataset's data files.
        columns: the added columns.
    """

    def __init__(self, folder: Path, data: Sequence[DataFile], columns: Sequence[Column]) -> None:
        self._folder = folder
        self._data = data
        self.columns = columns
        self._file_of = {episode: index for index, file in enumerate(data) for episode in file.episodes}
        self._stored: tuple[int, dict[int, dict[str, Any]]] = (-1, {})
        # Of the data file that is being written: finished episodes, and the values of the current one.
        self._episodes: list[int] = []
        self._statistics: list[list[Statistics]] = []
        self._values: list[list[np.ndarray]] = []

    def add(self, episode: int, values: list[np.ndarray]) -> None:
        """Add rows of an episode, with `Column.values` of each column; all rows of an episode come in a row."""
        if not self._episodes or episode != self._episodes[-1]:
            self._end_episode()
            self._episodes.append(episode)
        self._values.append(values)

    def store(self, index: int) -> None:
        """Store the statistics of everything added since the last call, which is data file `index`."""
        self._end_episode()
        table: dict[str, Any] = {"episode_index": pa.array(self._episodes, pa.int64())}
        for column, statistics in zip(self.columns, zip(*self._statistics, strict=True), strict=False):
            for name in _ALL:
                cells = [each[name].tolist() for each in statistics]
                table[f"{column.name}/{name}"] = pa.array(cells, _statistic_type(name))
        pq.write_table(pa.table(table), self.file(index))
        self._episodes = []
        self._statistics = []

    def of(self, episode: object) -> dict[str, dict[str, list[float]]]:
        """The stored statistics of an episode, by column and name. Raises ValueError for one without rows."""
        if not isinstance(episode, int) or episode not in self._file_of:
            raise ValueError(f"statistics of episode {episode!r}, which has no rows in data/")
        index = self._file_of[episode]
        if self._stored[0] != index:
            rows = pq.read_table(self.file(index)).to_pylist()
            self._stored = (index, {row["episode_index"]: row for row in rows})
        row = self._stored[1][episode]
        return {column.name: {name: row[f"{column.name}/{name}"] for name in _ALL} for column in self.columns}

    def total(self) -> dict[str, dict[str, list[float]]]:
        """The statistics over all episodes, by column and name."""
        sums: dict[str, Statistics] = {column.name: {} for column in self.columns}
        for file in self._data:
            for episode in file.episodes:
                for feature, lists in self.of(episode).items():
                    sums[feature] = _added(sums[feature], {name: np.asarray(each) for name, each in lists.items()})
        return {feature: _weighted_mean(each) for feature, each in sums.items()}

    def file(self, index: int) -> Path:
        """The file with the statistics of the episodes of one data file."""
        return self._folder / f"{index:06d}.parquet"

    def _end_episode(self) -> None:
        if self._values:
            whole = map(np.concatenate, zip(*self._values, strict=True))
            pairs = zip(self.columns, whole, strict=True)
            self._statistics.append([_episode_statistics(column, values) for column, values in pairs])
        self._values = []


def _episode_statistics(column: Column, values: np.ndarray) -> Statistics:
    if column.lookup is None:
        return column_statistics(values)
    # Far fewer vectors than rows: their statistics follow from the count of each.
    vectors = column.lookup
    counts = np.bincount(values.reshape(-1) % len(vectors), minlength=len(vectors))
    return counted_statistics(vectors, counts, len(values))


def column_statistics(values: np.ndarray) -> Statistics:
    """The statistics of one episode's column, (R,), (R, N) or (R, N, D): float64 of width 1, N or D; `count` is R.

    >>> column_statistics(np.array([1.0, 3.0]))["mean"]
    array([2.])
    """
    table = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
    ordered = np.sort(np.ascontiguousarray(table.T), axis=1).astype(np.float64)
    mean, squares = ordered.mean(1), np.einsum("ij,ij->i", ordered, ordered) / len(table)

    def at(position: int) -> np.ndarray:
        return ordered[:, position].copy()  # a view would keep all of them in memory

    return _statistics(at, len(table), mean, squares, len(values))


def counted_statistics(vectors: np.ndarray, counts: np.ndarray, rows: int) -> Statistics:
    """`column_statistics` of a column (R, N, D) that contains each of the vectors (V, D) `counts` (V,) times."""
    order = np.argsort(vectors, axis=0)
    ordered = np.take_along_axis(vectors, order, axis=0).astype(np.float64)
    reached = counts[order].cumsum(0)  # (V, D), count of values up to and including each
    total = int(counts.sum())
    shares = counts / total

    def at(position: int) -> np.ndarray:
        return np.take_along_axis(ordered, (reached > position).argmax(0)[None], axis=0)[0]

    vectors = vectors.astype(np.float64)
    return _statistics(at, total, shares @ vectors, shares @ vectors**2, rows)


def _statistics(
    at: Callable[[int], np.ndarray], total: int, mean: np.ndarray, squares: np.ndarray, rows: int
) -> Statistics:
    """Statistics from means, means of squares, and `at`, the values at a position among `total` in order."""
    found = {"min": at(0), "max": at(total - 1), "mean": mean}
    found |= {"std": np.sqrt(np.maximum(squares - mean**2, 0)), "count": np.array([rows])}
    for name, share in QUANTILES.items():  # linear between neighbours
        position = share * (total - 1)
        low, high = at(int(position)), at(min(int(position) + 1, total - 1))
        found[name] = low + (position - int(position)) * (high - low)
    return found


def _added(sums: Statistics, episode: Statistics) -> Statistics:
    """Sums over episodes, weighted by rows, with one more episode; {} is the empty sum."""
    count = episode["count"]
    new = {name: values * count for name, values in episode.items() if name in ("mean", *QUANTILES)}
    new |= {"square": (episode["std"] ** 2 + episode["mean"] ** 2) * count, "count": count}
    if not sums:
        return new | {name: episode[name] for name in ("min", "max")}
    added = {name: sums[name] + values for name, values in new.items()}
    added["min"] = np.minimum(sums["min"], episode["min"])
    added["max"] = np.maximum(sums["max"], episode["max"])
    return added


def _weighted_mean(sums: Statistics) -> dict[str, list[float]]:
    """The statistics of a dataset from the sums of `_added`."""
    count = sums["count"]
    mean = sums["mean"] / count
    found = {
        "min": sums["min"],
        "max": sums["max"],
        "mean": mean,
        "std": np.sqrt(np.maximum(sums["square"] / count - mean**2, 0)),
        "count": count,
    } | {name: sums[name] / count for name in QUANTILES}
    return {name: values.tolist() for name, values in found.items()}


def statistics_files(dataset: LeRobotFolder) -> list[str]:
    """The files of a dataset that contain statistics.

    A missing one is not created: it would lack the statistics of all other features.
    """
    return sorted(name for name in dataset.names if name in (_STATS, _EPISODES_STATS) or _has_statistics(dataset, name))


def _has_statistics(dataset: LeRobotFolder, name: str) -> bool:
    if not (dataset.info.is_v3 and name.startswith(EPISODES_V3) and name.endswith(".parquet")):
        return False
    with reading(name):
        return any(column.startswith("stats/") for column in pq.read_schema(dataset.root / name).names)


def write_statistics(dataset: LeRobotFolder, target: Path, statistics: RunningStatistics) -> None:
    """Write every file that `statistics_files` names, with the new columns."""
    for name in statistics_files(dataset):
        source = dataset.root / name
        if name == _STATS:
            write_json(target / name, _read_object(source, name) | statistics.total())
        elif name == _EPISODES_STATS:
            write_lines(target / name, _with_statistics(source, statistics))
        else:
            with reading(name):
                _write_episodes(source, target / name, statistics)


def _read_object(file: Path, name: str) -> dict[str, Any]:
    content = read_json(file, name)
    if not isinstance(content, dict):
        raise ValueError(f"{name}: not a JSON object")
    return content


def _with_statistics(source: Path, statistics: RunningStatistics) -> Iterator[dict[str, Any]]:
    for entry in read_lines(source):
        if not isinstance(entry.get("stats"), dict):
            raise ValueError(f"{_EPISODES_STATS}: no 'stats' of episode {entry.get('episode_index')!r}")
        added = statistics.of(entry.get("episode_index"))
        of_features = {feature: {name: found[name] for name in _BASIC} for feature, found in added.items()}
        yield entry | {"stats": entry["stats"] | of_features}


def _write_episodes(source: Path, target: Path, statistics: RunningStatistics) -> None:
    """Write a file of meta/episodes with statistics at the end of each row."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetFile(source) as parquet:
        new = [(column.name, name) for column in statistics.columns for name in _ALL]
        fields = [pa.field(f"stats/{feature}/{name}", _statistic_type(name)) for feature, name in new]
        added = {field.name: _hf_statistic(field.type) for field in fields}
        schema = parquet.schema_arrow
        schema = pa.schema([*schema, *fields], metadata=with_hf_features(schema.metadata, added))
        with pq.ParquetWriter(target, schema) as writer:
            for batch in batches(parquet):
                found = [statistics.of(episode) for episode in batch.column("episode_index").to_pylist()]
                arrays = [
                    pa.array([each[feature][name] for each in found], _statistic_type(name)) for feature, name in new
                ]
                writer.write_batch(pa.record_batch([*batch.columns, *arrays], schema=schema))


def _statistic_type(name: str) -> pa.DataType:
    """The type of a cell that contains one statistic."""
    return pa.list_(pa.int64() if name == "count" else pa.float64())


def _hf_statistic(kind: pa.DataType) -> dict[str, Any]:
    dtype = "int64" if kind.value_type == pa.int64() else "float64"
    return {"feature": {"dtype": dtype, "_type": "Value"}, "_type": "Sequence"}
