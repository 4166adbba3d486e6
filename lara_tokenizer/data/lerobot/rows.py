"""Rows of one episode in the parquet files of a LeRobotDataset: found, counted, and in the order of its frames."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lara_tokenizer._parse import check_parquet_rows
from lara_tokenizer.data.dataset_files import DatasetFiles, LocalFiles
from lara_tokenizer.errors import EpisodeReadError, first_line

logger = logging.getLogger(__name__)

EPISODE, FRAME, INDEX, TIME, TASK = "episode_index", "frame_index", "index", "timestamp", "task_index"
_NARROW = {EPISODE, FRAME, INDEX, TIME, TASK}  # columns of one number a row, that every reader looks at
# Data files of up to 100 MB each that are downloaded in search of an episode that is not in the one named for it.
_DOWNLOADS = 4
_CACHED_ROWS = 4_000_000  # of the row groups of an episode that are kept for the next one
_UNKNOWN = (-math.inf, math.inf)  # a row group without statistics may contain any episode
_DAMAGE = (pa.ArrowException, OSError, ValueError, MemoryError)  # that pyarrow raises for a damaged file


@dataclass(frozen=True, slots=True)
class DataRows:
    """The rows of one episode."""

    file: str  # that the metadata names; "" where it names none
    shared: bool  # whether the file contains rows of other episodes too (v3.0)
    columns: tuple[tuple[str, str], ...]  # available actions, states and text as (signal, column)
    episode_index: int
    length: int  # number of rows according to the metadata
    fps: float  # rows per second according to the metadata
    tasks: tuple[str, ...] = ()  # instructions of the episode according to the metadata


def read_rows(
    files: DatasetFiles, rows: DataRows, columns: Sequence[str], *, optional: Sequence[str] = (), large: bool = False
) -> pa.Table:
    """Columns of an episode's rows, in the order of its frames.

    Args:
        files: the dataset's.
        rows: the episode.
        columns: names; none to count and order the rows only.
        optional: names of columns that are taken where the file has them.
        large: whether a column holds images, whose row groups are not worth keeping in memory.

    Raises EpisodeReadError for another number of rows than the metadata says, and for rows without an order.
    """
    file, table = _find(files, rows, columns, optional, large)
    with errors_name(file):
        if len(table) != rows.length:
            count = len(table) if len(table) < rows.length else f"more than {rows.length}"
            raise EpisodeReadError(file, f"{count} rows for an episode of {rows.length} frames")
        found = [name for name in optional if name in table.column_names]
        return _in_frame_order(table, rows, file).select(list(dict.fromkeys([*columns, *found])))


def read_clock(files: DatasetFiles, rows: DataRows) -> pa.Table | None:
    """Times and task indices of an episode's rows, as far as the file has them; None where that is no cheap look.

    It is cheap in a local file whose row groups are kept for the next episode. Raises EpisodeReadError as `read_rows`.
    """
    path = files.local(rows.file) if rows.file else None
    if path is None:
        return None
    try:
        footer = _footer(path, path.stat().st_mtime_ns)
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    is_cheap = (EPISODE in footer.names or not rows.shared) and _count(footer, rows.episode_index) <= _CACHED_ROWS
    return read_rows(files, rows, [], optional=[TIME, TASK]) if is_cheap else None


def _count(footer: _Footer, episode_index: int) -> int:
    return sum(footer.group_rows[group] for group in footer.groups_of(episode_index))


def moved_episodes(
    files: LocalFiles, candidates: Sequence[str], named: Mapping[int, str]
) -> Iterator[tuple[int, str, str]]:
    """Episodes whose rows are in another file than the metadata names, as (index, named file, actual file).

    Only the footers are read, and those of other files only for an episode that its own has not.

    Args:
        files: the dataset's.
        candidates: names of all data files.
        named: the named file, by index of the episode.
    """
    by_file: dict[str, list[int]] = {}
    for episode, file in named.items():
        by_file.setdefault(file, []).append(episode)
    absent = [
        episode
        for file, episodes in by_file.items()
        for episode in set(episodes) - _present(files, file, episodes, if_unknown=True)
    ]
    found: dict[int, list[str]] = {episode: [] for episode in absent}
    for name in candidates if absent else ():
        for episode in _present(files, name, absent, if_unknown=False):
            found[episode].append(name)
    for episode in sorted(absent):
        if len(found[episode]) == 1:
            yield episode, named[episode], found[episode][0]


def data_files(names: set[str] | frozenset[str], folder: str = "data") -> list[str]:
    """The names, of all files of a dataset, that are its files of rows, sorted."""
    return sorted(name for name in names if name.startswith(f"{folder}/") and name.endswith(".parquet"))


def column_names(path: Path) -> list[str]:
    """Names of the columns of a parquet file. Raises EpisodeReadError where it cannot be read."""
    try:
        return _footer(path, path.stat().st_mtime_ns).names
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


def _find(
    files: DatasetFiles, rows: DataRows, columns: Sequence[str], optional: Sequence[str], large: bool
) -> tuple[str, pa.Table]:
    """The file that holds an episode's rows, and those rows in the file's order.

    Tools that split or merge data files leave stale indices in the metadata, so an episode that is not in its file is
    looked for in the others, the nearest first.
    """
    try:
        with errors_name(rows.file):
            if rows.file or not rows.shared:
                table = _read(files.path(rows.file), rows, columns, optional, large)
                if len(table) or not rows.shared:
                    return rows.file, table
        failure = EpisodeReadError(rows.file or "data", f"0 rows for an episode of {rows.length} frames")
    except EpisodeReadError as error:
        if not rows.shared or not _is_absent(files, rows.file):
            raise
        failure = error
    for name in _other_files(files, rows.file):
        with errors_name(name):
            path = files.path(name)
            if _holds(path, rows.episode_index) and len(table := _read(path, rows, columns, optional, large)):
                _say_moved(name, rows.file, rows.episode_index)
                return name, table
    raise failure


_said: set[tuple[str, str]] = set()  # in this process


def _say_moved(actual: str, named: str, episode_index: int) -> None:
    """Log once for each pair of files that rows are not where the metadata says."""
    if (actual, named) not in _said:
        _said.add((actual, named))
        where = f"not in {named}" if named else "and the metadata names none"
        logger.warning("the rows of episode %d are in %s, %s", episode_index, actual, where)


def _is_absent(files: DatasetFiles, name: str) -> bool:
    try:
        return name not in _names(files)
    except EpisodeReadError:
        return False


def _other_files(files: DatasetFiles, name: str) -> Iterator[str]:
    """Names of the other data files, those with the nearest indices first."""
    try:
        names = data_files(_names(files), name.partition("/")[0] or "data")
    except EpisodeReadError:
        return
    place = sum(other < name for other in names)
    others = sorted((other for other in names if other != name), key=lambda other: abs(names.index(other) - place))
    yield from others if isinstance(files, LocalFiles) else others[:_DOWNLOADS]


@lru_cache(maxsize=2)
def _names(files: DatasetFiles) -> frozenset[str]:
    return frozenset(files.names())


def _read(path: Path, rows: DataRows, columns: Sequence[str], optional: Sequence[str], large: bool) -> pa.Table:
    """The wanted columns of an episode's rows and those that order them. Raises EpisodeReadError."""
    try:
        version = path.stat().st_mtime_ns
        footer = _footer(path, version)
        needed = [EPISODE, *columns] if rows.shared else columns
        if missing := [name for name in needed if name not in footer.names]:
            raise EpisodeReadError(path, f"no column {missing[0]!r} in it (there are {', '.join(footer.names)})")
        order = FRAME if FRAME in footer.names else INDEX
        present = [name for name in (EPISODE, order, TIME, *optional) if name in footer.names]
        wanted = tuple(dict.fromkeys([*columns, *present]))
        if EPISODE in footer.names and not large and _count(footer, rows.episode_index) <= _CACHED_ROWS:
            # A look at the times of each episode does not drop the actions that the next one takes.
            read = _narrow_groups if _NARROW.issuperset(wanted) else _row_groups
            table = read(path, version, wanted, footer.groups_of(rows.episode_index))
            table = table.filter(pc.equal(table[EPISODE], rows.episode_index))
        else:
            # Images are filtered while reading, not cached as row groups: those could be gigabytes. A few bytes can
            # promise a hundred million rows, so one more than expected is enough.
            import pyarrow.dataset as ds  # only now: it imports pandas, where that is installed

            selected = ds.field(EPISODE) == rows.episode_index if EPISODE in footer.names else None
            # One thread: worker processes share the cores.
            table = ds.dataset(path, format=ds.ParquetFileFormat(page_checksum_verification=True)).head(
                rows.length + 1, columns=list(wanted), filter=selected, use_threads=False
            )
        if not len(table) and any(footer.group_rows) and not rows.shared:
            raise EpisodeReadError(path, _other_episode(footer, rows.episode_index))
        return table
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> EpisodeReadError:
    return EpisodeReadError(path, f"cannot be read as parquet ({first_line(error)})")


def _other_episode(footer: _Footer, episode_index: int) -> str:
    first = min(start for start, _ in footer.episode_ranges)
    last = max(stop for _, stop in footer.episode_ranges)
    if not math.isfinite(first + last):
        return f"no row of episode {episode_index} in it, which it is named for"
    others = f"{first:g}" if first == last else f"{first:g} to {last:g}"
    return f"its rows say {EPISODE} {others}, its name episode {episode_index}"


def _in_frame_order(table: pa.Table, rows: DataRows, file: str) -> pa.Table:
    """The rows by their frame_index. Raises EpisodeReadError where they are not one row for each frame.

    Query engines return rows in any order, and a row in another's place is an action paired with another frame.
    """
    if FRAME not in table.column_names:
        return _in_index_order(table, file)
    frames = _numbers(table, FRAME, file)
    order = np.argsort(frames, kind="stable")
    steps = np.diff(frames[order])
    if np.any(steps != 1):
        first = int(np.argmax(steps != 1))
        frame = frames[order][first]
        problem = (
            f"twice {frame:g}" if steps[first] == 0 else f"none between {frame:g} and {frames[order][first + 1]:g}"
        )
        raise EpisodeReadError(file, f"{FRAME} of episode {rows.episode_index} is {problem}; takes one row a frame")
    # Counted through the whole dataset, or the first rows were cut off: the time of the first one tells.
    if frames[order][0] != 0 and not _begins_at_zero(table, order[0], rows, file):
        raise EpisodeReadError(
            file,
            f"{FRAME} of episode {rows.episode_index} begins with {frames[order][0]:g}: its first frames have no row",
        )
    return table if np.all(np.diff(order) == 1) else table.take(pa.array(order))


def _in_index_order(table: pa.Table, file: str) -> pa.Table:
    """Rows without a frame_index by their index in the whole dataset, or as they are where their times grow.

    Raises EpisodeReadError where index and times contradict each other or themselves. Without either, the order in
    the file is all there is.
    """
    has_times = TIME in table.column_names
    if INDEX in table.column_names and is_numeric(table[INDEX]):
        indices = _numbers(table, INDEX, file)
        order = np.argsort(indices, kind="stable")
        if np.all(np.diff(indices[order]) > 0):
            table = table if np.all(np.diff(order) == 1) else table.take(pa.array(order))
        elif not has_times:
            raise EpisodeReadError(file, f"rows without {FRAME} whose {INDEX} repeats: their order is unknown")
    if has_times and len(table) > 1 and not np.all(np.diff(_numbers(table, TIME, file)) > 0):
        raise EpisodeReadError(file, f"rows without {FRAME} whose {TIME} does not grow: their order is unknown")
    return table


def _begins_at_zero(table: pa.Table, first: int, rows: DataRows, file: str) -> bool:
    return TIME in table.column_names and bool(abs(_numbers(table, TIME, file)[first]) * rows.fps < 0.5)


def _numbers(table: pa.Table, column: str, file: str) -> np.ndarray:
    """float64 (n,) of a column. Raises EpisodeReadError for missing values and other types."""
    values = table[column]
    if not is_numeric(values):
        raise EpisodeReadError(file, f"column {column!r} has missing values or holds {values.type}; takes numbers")
    return values.to_numpy().astype(np.float64)


def is_numeric(values: pa.ChunkedArray) -> bool:
    """Whether a column has a number in each row."""
    return not values.null_count and (pa.types.is_integer(values.type) or pa.types.is_floating(values.type))


def _holds(path: Path, episode_index: int) -> bool:
    """Whether a file may have rows of an episode, by its footer."""
    try:
        return bool(_footer(path, path.stat().st_mtime_ns).groups_of(episode_index))
    except _DAMAGE:
        return False


def _present(files: LocalFiles, file: str, episodes: Sequence[int], *, if_unknown: bool) -> set[int]:
    """The episodes that may have rows in a file, by its footer; `if_unknown`: whether one that it cannot tell does."""
    try:
        path = files.path(file)
    except EpisodeReadError:
        return set()
    try:
        ranges = np.array(_footer(path, path.stat().st_mtime_ns).episode_ranges, np.float64).reshape(-1, 2)
    except _DAMAGE:
        return set(episodes) if if_unknown else set()
    if not if_unknown:
        ranges = ranges[np.isfinite(ranges).all(axis=1)]
    # An episode is in a range if the furthest end of those that begin at or before it is not before it.
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    ends = np.concatenate([[-math.inf], np.maximum.accumulate(ranges[:, 1])])
    index = np.array(episodes, np.float64)
    is_there = ends[np.searchsorted(ranges[:, 0], index, side="right")] >= index
    return {episode for episode, found in zip(episodes, is_there.tolist(), strict=True) if found}


class _Footer(NamedTuple):
    """Columns of a data file, and for each row group its count of rows and its first and last episode."""

    names: list[str]
    group_rows: list[int]
    episode_ranges: list[tuple[float, float]]  # empty where no column tells

    def groups_of(self, episode_index: int) -> tuple[int, ...]:
        """The row groups that may have rows of an episode."""
        return tuple(group for group, (first, last) in enumerate(self.episode_ranges) if first <= episode_index <= last)


@lru_cache(maxsize=1)
def _footer(path: Path, version: int) -> _Footer:
    with pq.ParquetFile(path) as file:
        names, metadata = file.schema_arrow.names, file.metadata
    check_parquet_rows(metadata.num_rows, path.name)
    # The column chunks are the leaves of the schema: images and lists have several, so positions differ from `names`.
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    leaves = [metadata.schema.column(leaf).path for leaf in range(metadata.num_columns)]
    if EPISODE not in leaves:
        return _Footer(names, rows, [])
    leaf = leaves.index(EPISODE)
    groups = [metadata.row_group(group).column(leaf) for group in range(metadata.num_row_groups)]
    statistics = [group.statistics if group.is_stats_set else None for group in groups]
    ranges = [
        (s.min, s.max) if s is not None and s.has_min_max and isinstance(s.min, int | float) else _UNKNOWN
        for s in statistics
    ]
    return _Footer(names, rows, ranges)


@lru_cache(maxsize=1)
def _row_groups(path: Path, version: int, columns: tuple[str, ...], groups: tuple[int, ...]) -> pa.Table:
    # Few writers store checksums; where they do, a damaged value is an error instead of an action.
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        # One thread: worker processes share the cores.
        return file.read_row_groups(list(groups), columns=list(columns), use_threads=False)


# The same for the few columns of `_NARROW`, which are looked at when an episode is planned.
_narrow_groups = lru_cache(maxsize=1)(_row_groups.__wrapped__)


@contextmanager
def errors_name(file: str) -> Iterator[None]:
    """Make errors name a file of the dataset: an episode reads several, and the id alone would name none of them."""
    try:
        yield
    except EpisodeReadError as error:
        raise type(error)(file, error.reason) from error
