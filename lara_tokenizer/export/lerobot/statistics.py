"""Statistics of added columns as LeRobot 0.6 computes them: over all rows of an episode, and over all episodes.

Rows without a label count too, with their fill, as lerobot counts every row that it records; the mean of
`latent_labels.valid` is the share of rows that have one, so that mean and spread of the labels alone follow from both.
A column of vectors (N, D) has statistics of width D, over rows and tokens. Quantiles of an episode are exact; those
of a dataset are the mean of its episodes' ones, weighted by rows, as LeRobot has them.

Shape suffixes: R rows, N latent tokens, D codebook dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.data.lerobot_writer import QUANTILES
from lara_tokenizer.export.lerobot_folder import DataFile

Statistics = dict[str, np.ndarray]  # by name: min, max, mean, std, count, q01, ...

BASIC = ("min", "max", "mean", "std", "count")
ALL = (*BASIC, *QUANTILES)


def column_statistics(values: np.ndarray) -> Statistics:
    """Of one episode's column, (R,), (R, N) or (R, N, D): each of width 1, N or D, float64; `count` is R.

    >>> column_statistics(np.array([1.0, 3.0]))["mean"]
    array([2.])
    """
    table = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
    ordered = np.sort(np.ascontiguousarray(table.T), axis=1)
    numbers = ordered.astype(np.float64)
    mean, squares = numbers.mean(1), np.einsum("ij,ij->i", numbers, numbers) / len(table)

    def at(place: int) -> np.ndarray:
        return numbers[:, place].copy()  # a view would keep all of them

    return _statistics(at, len(table), mean, squares, len(values))


def counted_statistics(values: np.ndarray, counts: np.ndarray, rows: int) -> Statistics:
    """`column_statistics` of a column (rows, N, D) that holds the vectors `values` (V, D), each `counts` (V,) times."""
    order = np.argsort(values, axis=0)
    ordered = np.take_along_axis(values, order, axis=0).astype(np.float64)
    reached = counts[order].cumsum(0)  # how many numbers are not above each, (V, D)
    total = int(counts.sum())
    shares = counts / total

    def at(place: int) -> np.ndarray:
        return np.take_along_axis(ordered, (reached > place).argmax(0)[None], axis=0)[0]

    numbers = values.astype(np.float64)
    return _statistics(at, total, shares @ numbers, shares @ numbers**2, rows)


def _statistics(
    at: Callable[[int], np.ndarray], total: int, mean: np.ndarray, squares: np.ndarray, rows: int
) -> Statistics:
    """From means, means of squares, and the `total` numbers of each column in order: `at` gives those at a place."""
    found = {"min": at(0), "max": at(total - 1), "mean": mean}
    found |= {"std": np.sqrt(np.maximum(squares - mean**2, 0)), "count": np.array([rows])}
    for name, share in QUANTILES.items():  # linear between neighbours
        place = share * (total - 1)
        low, high = at(int(place)), at(min(int(place) + 1, total - 1))
        found[name] = low + (place - int(place)) * (high - low)
    return found


class EpisodeWatcher:
    """Puts together the values of each episode of a data file as they come, and keeps their statistics."""

    def __init__(self, statistics_of: Callable[[dict[str, np.ndarray]], dict[str, Statistics]]) -> None:
        """`statistics_of` gives those of one episode's columns."""
        self._statistics_of = statistics_of
        self.episodes: list[int] = []
        self.statistics: list[dict[str, Statistics]] = []
        self._pieces: dict[str, list[np.ndarray]] = {}

    def __call__(self, episode: int, values: Mapping[str, np.ndarray]) -> None:
        if not self.episodes or episode != self.episodes[-1]:
            self.finish()
            self.episodes.append(episode)
        for name, column in values.items():
            self._pieces.setdefault(name, []).append(column)

    def finish(self) -> None:
        """To be called when no rows are left."""
        if self._pieces:
            whole = {name: p[0] if len(p) == 1 else np.concatenate(p) for name, p in self._pieces.items()}
            self.statistics.append(self._statistics_of(whole))
        self._pieces = {}

    def write(self, path: Path) -> None:
        """Keep them on the disk: a row an episode, a column `feature/statistic` each."""
        columns: dict[str, Any] = {"episode_index": pa.array(self.episodes, pa.int64())}
        for feature in self.statistics[0] if self.statistics else ():
            for name in ALL:
                cells = [each[feature][name].tolist() for each in self.statistics]
                columns[f"{feature}/{name}"] = pa.array(cells, statistic_type(name))
        pq.write_table(pa.table(columns), path)


def statistic_type(name: str) -> pa.DataType:
    """Of a cell that holds one statistic."""
    return pa.list_(pa.int64() if name == "count" else pa.float64())


class StoredStatistics:
    """What `EpisodeWatcher.write` kept, a file for each data file; one of them is in memory at a time."""

    def __init__(self, folder: Path, data: Sequence[DataFile], features: Iterable[str]) -> None:
        self._folder, self._features, self._data = folder, tuple(features), data
        self._place = {episode: number for number, file in enumerate(data) for episode in file.episodes}
        self._open: tuple[int, dict[int, dict[str, Any]]] = (-1, {})

    def path(self, number: int) -> Path:
        """The file for the data file of this number."""
        return self._folder / f"{number:06d}.parquet"

    def of(self, episode: int) -> dict[str, dict[str, list[float]]]:
        """Of each feature: statistics by name, as lists."""
        number = self._place[episode]
        if self._open[0] != number:
            rows = pq.read_table(self.path(number)).to_pylist()
            self._open = (number, {row["episode_index"]: row for row in rows})
        row = self._open[1][episode]
        return {feature: {name: row[f"{feature}/{name}"] for name in ALL} for feature in self._features}

    def total(self) -> dict[str, dict[str, list[float]]]:
        """Of the dataset."""
        totals = {feature: _Total() for feature in self._features}
        for each in self._all():
            for feature, statistics in each.items():
                totals[feature].add({name: np.asarray(values) for name, values in statistics.items()})
        return {feature: total.result() for feature, total in totals.items()}

    def _all(self) -> Iterator[dict[str, dict[str, list[float]]]]:
        for file in self._data:
            for episode in file.episodes:
                yield self.of(episode)


class _Total:
    """Statistics of episodes, put together one by one."""

    def __init__(self) -> None:
        self._sum: Statistics = {}

    def add(self, of_episode: Statistics) -> None:
        count = of_episode["count"]
        new = {name: values * count for name, values in of_episode.items() if name in ("mean", *QUANTILES)}
        new |= {"square": (of_episode["std"] ** 2 + of_episode["mean"] ** 2) * count, "count": count}
        if not self._sum:
            self._sum = new | {name: of_episode[name] for name in ("min", "max")}
            return
        for name, values in new.items():
            self._sum[name] = self._sum[name] + values
        self._sum["min"] = np.minimum(self._sum["min"], of_episode["min"])
        self._sum["max"] = np.maximum(self._sum["max"], of_episode["max"])

    def result(self) -> dict[str, list[float]]:
        total, count = self._sum, self._sum["count"]
        mean = total["mean"] / count
        found = {
            "min": total["min"],
            "max": total["max"],
            "mean": mean,
            "std": np.sqrt(np.maximum(total["square"] / count - mean**2, 0)),
            "count": count,
        } | {name: total[name] / count for name in QUANTILES}
        return {name: values.tolist() for name, values in found.items()}
