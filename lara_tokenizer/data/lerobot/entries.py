"""Episodes that the metadata of a LeRobotDataset lists, each checked; a bad one is left out with a remark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer._parse import MAX_CELL_ROWS, read_json_lines, read_parquet
from lara_tokenizer.data.dataset_files import DatasetFiles
from lara_tokenizer.data.lerobot.info import EPISODES_V2, EPISODES_V3, whole_number
from lara_tokenizer.data.lerobot.tasks import is_instruction
from lara_tokenizer.errors import EpisodeReadError, first_line

_NOTES = 5  # of one kind that are spelled out
_MAX_ROWS = 1_000_000  # of one file; run-length encoding stores as many in a few bytes
_BATCH = 10_000  # rows that are Python objects at a time


@dataclass(frozen=True, slots=True)
class EpisodeEntry:
    """One episode of the metadata."""

    episode_index: int
    length: int
    tasks: tuple[str, ...]  # instructions; none where the row has none or something else
    entry: dict[str, Any]  # the whole row
    file: str  # of metadata that it is from
    remark: str = ""  # why there are no instructions

    @classmethod
    def parse(cls, row: Any, file: str) -> EpisodeEntry:
        """An entry from its row. Raises ValueError for a row that is none."""
        if not isinstance(row, dict):
            raise ValueError("not an object")
        index, length = (_number(row, key, file) for key in ("episode_index", "length"))
        if not 1 <= length <= MAX_CELL_ROWS:
            raise ValueError(f"length is {length:,}; takes 1 to {MAX_CELL_ROWS:,} frames")
        tasks, remark = _tasks(row)
        return cls(index, length, tasks, row | {"episode_index": index}, file, remark)

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
    rows = _rows_v3(files, names, notes) if is_v3 else _rows_v2(files)
    claims: dict[int, _Claim] = {}
    bad: list[str] = []
    odd: list[str] = []
    for where, file, row in rows:
        try:
            if isinstance(row, ValueError):
                raise row
            entry = EpisodeEntry.parse(row, file)
        except ValueError as error:
            reason = "" if isinstance(row, ValueError) else f" ({first_line(error)})"
            bad.append(f"{where} cannot be read{reason}; that episode is left out")
        else:
            claims.setdefault(entry.episode_index, _Claim(entry)).add(entry)
            if entry.remark:
                odd.append(f"{where}: {entry.remark}")
    notes += _shortened(bad, "more such lines") + _shortened(odd, "more such lines")
    return _distinct(claims, notes), notes


@dataclass(slots=True)
class _Claim:
    """The entries of one episode index; a list may repeat one without end."""

    first: EpisodeEntry
    count: int = 0
    are_equal: bool = True

    def add(self, entry: EpisodeEntry) -> None:
        self.count += 1
        self.are_equal = self.are_equal and (entry is self.first or entry.same_as(self.first))


def _rows_v2(files: DatasetFiles) -> Iterator[tuple[str, str, Any]]:
    """Place, file and value of each line."""
    for number, row in read_json_lines(files.path(EPISODES_V2), EPISODES_V2):
        yield f"{EPISODES_V2}, line {number}", EPISODES_V2, row


def _rows_v3(files: DatasetFiles, names: Iterable[str], notes: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Place, file and value of each row."""
    for name in sorted(name for name in names if name.startswith(EPISODES_V3) and name.endswith(".parquet")):
        try:
            path = files.path(name)
            with pq.ParquetFile(path) as file:
                count, columns = file.metadata.num_rows, file.schema_arrow.names
            if count > _MAX_ROWS:
                raise ValueError(f"its footer promises {count:,} rows; up to {_MAX_ROWS:,} are read")
            # Per-episode statistics make up most of these files, and are not needed.
            table = read_parquet(path, name, columns=[each for each in columns if not each.startswith("stats/")])
            batches = table.to_batches(max_chunksize=_BATCH)
        except (EpisodeReadError, pa.ArrowException, OSError, ValueError, MemoryError) as error:
            reason = first_line(error).removeprefix(f"{name}: ")
            notes.append(f"{name} cannot be read ({reason}); its episodes are left out")
            continue
        number = 0
        for batch in batches:
            for row in batch.to_pylist():
                yield f"{name}, row {number}", name, row
                number += 1


def _distinct(claims: Mapping[int, _Claim], notes: list[str]) -> list[EpisodeEntry]:
    """The entries by index; none of an index that two different ones claim, as either could be the wrong one."""
    chosen, twice, several = [], [], []
    for index in sorted(claims):
        claim = claims[index]
        if claim.are_equal:
            chosen.append(claim.first)
        if claim.count > 1 and claim.are_equal:
            twice.append(f"episode {index} is listed {claim.count} times, with equal entries; it is read once")
        elif claim.count > 1:
            several.append(f"episode {index} is listed {claim.count} times, with different entries; it is left out")
    notes += _shortened(twice, "more such episodes") + _shortened(several, "more such episodes")
    return chosen


def _shortened(notes: list[str], rest: str) -> list[str]:
    return notes if len(notes) <= _NOTES else [*notes[:_NOTES], f"{len(notes) - _NOTES:,} {rest}"]


def _number(row: dict[str, Any], key: str, file: str) -> int:
    number = whole_number(row.get(key))
    # Parquet has types: a column of texts is not one that a recorder wrote, whatever digits are in it.
    if number is None or (isinstance(row[key], str) and file.endswith(".parquet")):
        raise ValueError(f"{key} is {row.get(key)!r:.40}, not a whole number")
    return number


def _tasks(row: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """Instructions of an episode, which some converters write as one text; and a remark about a cell of another kind.

    Nothing is made of such a cell, as a part of it may be a name, a mark or a number as well as the instruction.
    """
    key = "task" if row.get("tasks") is None else "tasks"
    cell = row.get(key)
    values = [value for value in (cell if isinstance(cell, list | tuple) else [cell]) if not _is_missing(value)]
    texts = [value for value in values if isinstance(value, str) and is_instruction(value)]
    if len(texts) == len(values):
        return tuple(text for text in texts if text.strip()), ""
    return (), f"{key} is {cell!r:.60}, not a text or a list of texts; it gives no instruction"


def _is_missing(value: Any) -> bool:
    """Whether a value is none, as JSON, parquet and pandas write it."""
    return value is None or (isinstance(value, float) and math.isnan(value))
