"""Episodes that the metadata of a LeRobotDataset lists, each checked; a bad one is left out with a remark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer._parse import MAX_CELL_ROWS, read_json_lines, read_parquet
from lara_tokenizer.data.dataset_files import DatasetFiles
from lara_tokenizer.data.lerobot.info import EPISODES_V2, EPISODES_V3, whole_number
from lara_tokenizer.errors import EpisodeReadError, first_line

_NOTES = 5  # of one kind that are spelled out


@dataclass(frozen=True, slots=True)
class EpisodeEntry:
    """One episode of the metadata."""

    episode_index: int
    length: int
    tasks: tuple[str, ...]
    entry: dict[str, Any]  # the whole row
    file: str  # of metadata that it is from

    @classmethod
    def parse(cls, row: Any, file: str) -> EpisodeEntry:
        """An entry from its row. Raises ValueError for a row that is none."""
        if not isinstance(row, dict):
            raise ValueError("not an object")
        index, length = (_number(row, key) for key in ("episode_index", "length"))
        if not 1 <= length <= MAX_CELL_ROWS:
            raise ValueError(f"length is {length:,}; takes 1 to {MAX_CELL_ROWS:,} frames")
        return cls(index, length, _tasks(row), row | {"episode_index": index}, file)

    def same_as(self, other: EpisodeEntry) -> bool:
        """Whether both say the same; of missing values and NaN, too."""
        return repr(self.entry) == repr(other.entry)


def read_entries(files: DatasetFiles, names: Iterable[str], is_v3: bool) -> tuple[list[EpisodeEntry], list[str]]:
    """The episodes by index, and remarks about those that are left out. Raises EpisodeReadError and OSError.

    Args:
        files: the dataset's.
        names: of all its files.
        is_v3: whether the list is in parquet files below meta/episodes.
    """
    notes: list[str] = []
    rows = _rows_v3(files, names, notes) if is_v3 else _rows_v2(files, notes)
    entries: list[EpisodeEntry] = []
    bad: list[str] = []
    for where, file, row in rows:
        try:
            entries.append(EpisodeEntry.parse(row, file))
        except ValueError as error:
            bad.append(f"{where} cannot be read ({first_line(error)}); that episode is left out")
    notes += _shortened(bad, "more such lines")
    return _distinct(entries, notes), notes


def _rows_v2(files: DatasetFiles, notes: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Place, file and value of each line."""
    bad: list[str] = []
    for number, row in read_json_lines(files.path(EPISODES_V2), EPISODES_V2):
        where = f"{EPISODES_V2}, line {number}"
        if isinstance(row, ValueError):
            bad.append(f"{where} cannot be read; that episode is left out")
        else:
            yield where, EPISODES_V2, row
    notes += _shortened(bad, "more such lines")


def _rows_v3(files: DatasetFiles, names: Iterable[str], notes: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Place, file and value of each row."""
    for name in sorted(name for name in names if name.startswith(EPISODES_V3) and name.endswith(".parquet")):
        try:
            path = files.path(name)
            # Per-episode statistics make up most of these files, and are not needed.
            columns = [column for column in pq.read_schema(path).names if not column.startswith("stats/")]
            rows = read_parquet(path, name, columns=columns).to_pylist()
        except (EpisodeReadError, pa.ArrowException, OSError, ValueError) as error:
            reason = first_line(error).removeprefix(f"{name}: ")
            notes.append(f"{name} cannot be read ({reason}); its episodes are left out")
            continue
        for number, row in enumerate(rows):
            yield f"{name}, row {number}", name, row


def _distinct(entries: Sequence[EpisodeEntry], notes: list[str]) -> list[EpisodeEntry]:
    """The entries by index; none of an index that two different ones claim, as either could be the wrong one."""
    by_index: dict[int, list[EpisodeEntry]] = {}
    for entry in entries:
        by_index.setdefault(entry.episode_index, []).append(entry)
    chosen, twice, several = [], [], []
    for index in sorted(by_index):
        first, *others = by_index[index]
        if not others:
            chosen.append(first)
        elif all(first.same_as(other) for other in others):
            chosen.append(first)
            twice.append(f"episode {index} is listed {len(others) + 1} times, with equal entries; it is read once")
        else:
            several.append(f"episode {index} is listed {len(others) + 1} times, with different entries; it is left out")
    notes += _shortened(twice, "more such episodes") + _shortened(several, "more such episodes")
    return chosen


def _shortened(notes: list[str], rest: str) -> list[str]:
    return notes if len(notes) <= _NOTES else [*notes[:_NOTES], f"{len(notes) - _NOTES:,} {rest}"]


def _number(row: dict[str, Any], key: str) -> int:
    number = whole_number(row.get(key))
    if number is None:
        raise ValueError(f"{key} is {row.get(key)!r:.40}, not a whole number")
    return number


def _tasks(row: dict[str, Any]) -> tuple[str, ...]:
    """Instructions of an episode, which some converters write as one text."""
    tasks = row.get("tasks")
    if tasks is None:
        tasks = row.get("task")
    if tasks is None:
        return ()
    return tuple(str(task) for task in (tasks if isinstance(tasks, list | tuple) else [tasks]) if task is not None)
