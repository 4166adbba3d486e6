"""Instructions of a LeRobotDataset by task index, from `meta/tasks.jsonl` (v2.x) or `meta/tasks.parquet` (v3.0)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from lara_tokenizer._parse import read_json_lines, read_parquet
from lara_tokenizer.data.dataset_files import DatasetFiles
from lara_tokenizer.data.lerobot.info import TASKS_V3, whole_number
from lara_tokenizer.errors import EpisodeReadError, first_line

_INDEX = "task_index"
# pandas writes its index under its name, or as "__index_level_0__" where it has none.
_NUMBERS = re.compile("[-0-9][-0-9., ]*")
_TEXTS = ("task", "tasks", "__index_level_0__", "instruction", "language_instruction")


@lru_cache(maxsize=4)
def load_tasks(files: DatasetFiles, name: str) -> dict[int, str | None]:
    """The text of each task index; None where it is no instruction (`is_instruction`). Raises EpisodeReadError."""
    path = files.path(name)
    try:
        rows = _parquet_rows(path, name) if name == TASKS_V3 else _json_rows(path, name)
        return _by_index(rows, name)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise EpisodeReadError(name, first_line(error).removeprefix(f"{name}: ")) from error


def _by_index(rows: Iterable[tuple[Any, Any]], name: str) -> dict[int, str | None]:
    """Texts by index; rows without either are left out. Raises ValueError for an index with two texts."""
    tasks: dict[int, str] = {}
    for index, text in rows:
        number = whole_number(index)
        if number is None or not isinstance(text, str):
            continue
        if tasks.setdefault(number, text) != text:
            raise ValueError(f"{name}: {_INDEX} {number} is two tasks, {tasks[number]!r:.60} and {text!r:.60}")
    return {number: text if is_instruction(text) else None for number, text in tasks.items()}


def is_instruction(value: Any) -> bool:
    """Whether a cell is a text, and not a list, dict or number, or one of those printed as a text.

    >>> is_instruction("pick up the cup"), is_instruction("[left arm] open it"), is_instruction("['pick it']")
    (True, True, False)
    """
    return isinstance(value, str) and not _is_printed_value(value.strip())


def _is_printed_value(text: str) -> bool:
    """Whether a text is a list or dict as `str` prints it: brackets around quotes, numbers, brackets or nothing."""
    if text.startswith("array(["):
        return True
    if text[:1] not in ("[", "{", "(") or text[-1] not in "]})":
        return False
    inner = text[1:-1].strip()
    return not inner or inner[0] in "\"'[{(" or inner in ("None", "nan") or bool(_NUMBERS.fullmatch(inner))


def _json_rows(path: Path, name: str) -> Iterator[tuple[Any, Any]]:
    """Index and text of each line that can be read; an episode whose task is not among them fails alone."""
    for _, row in read_json_lines(path, name):
        if isinstance(row, dict):
            texts = [row[key] for key in _TEXTS if isinstance(row.get(key), str)]
            yield row.get(_INDEX), next(iter(texts), None)


def _parquet_rows(path: Path, name: str) -> Iterator[tuple[Any, Any]]:
    table = read_parquet(path, name)
    textual = [field.name for field in table.schema if is_text(field.type)]
    preferred = [*(column for column in _TEXTS if column in textual), *textual]
    if not preferred:
        raise ValueError(f"{name}: no column of texts in it (there are {', '.join(table.column_names) or 'none'})")
    indices = _index_column(table)
    if indices is None:
        raise ValueError(f"{name}: no column {_INDEX!r} in it (there are {', '.join(table.column_names)})")
    yield from zip(indices, table[preferred[0]].to_pylist(), strict=True)


def _index_column(table: pa.Table) -> Iterable[Any] | None:
    """Task indices of the rows: a column, or the index that pandas kept for them."""
    for column in (_INDEX, "__index_level_0__"):
        if column in table.column_names and pa.types.is_integer(table.schema.field(column).type):
            return table[column].to_pylist()
    try:  # a range, which pandas keeps as metadata alone
        index = json.loads((table.schema.metadata or {})[b"pandas"])["index_columns"][0]
        numbers = range(index["start"], index["stop"], index["step"])
    except (KeyError, IndexError, TypeError, ValueError, RecursionError):
        return None
    return numbers if len(numbers) == len(table) else None


def is_text(kind: pa.DataType) -> bool:
    """Whether a column type holds texts: any of Arrow's string types, or a dictionary of them.

    >>> is_text(pa.large_string()), is_text(pa.dictionary(pa.int32(), pa.string())), is_text(pa.int64())
    (True, True, False)
    """
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
