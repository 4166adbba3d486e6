"""Reading of metadata that somebody else wrote: JSON, file name templates and parquet, each within limits.

Metadata of datasets and checkpoints is written by custom scripts and downloaded from strangers. Every function here
returns a checked value or raises a ValueError of one line that names the file; none recurses without bound, allocates
what a few bytes promise, or lets a template reach beyond its fields.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lara_tokenizer.errors import first_line

if TYPE_CHECKING:
    import pyarrow as pa

MAX_JSON_BYTES = 2**30  # a larger file is not metadata
MAX_JSON_DEPTH = 64  # lists and dictionaries within each other
MAX_PIXELS = 2**26  # of one picture (8192 x 8192): as uint8 RGB these are 200 MB
MAX_CELL_ROWS = 100_000_000  # rows of one parquet file; run-length encoding stores a billion in a kilobyte
_FORMAT_SPEC = re.compile(r"0?[0-9]{0,2}d?")  # ":03d", ":06", ":d"


def load_json(content: str | bytes, name: object) -> Any:
    """The value of a JSON text; a byte order mark before it is skipped.

    Args:
        content: the text, or its bytes in UTF-8.
        name: the file, for errors.

    Raises ValueError, naming the file, for anything that is not JSON or is nested deeper than `MAX_JSON_DEPTH`.

    >>> load_json(b'\\xef\\xbb\\xbf{"fps": 10}', "info.json")
    {'fps': 10}
    >>> load_json("[" * 100_000, "info.json")
    Traceback (most recent call last):
    ValueError: info.json: not JSON (nested too deeply)
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content.removeprefix("\ufeff")
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"{name}: not JSON (nested too deeply)") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, integers of thousands of digits
        raise ValueError(f"{name}: not JSON ({first_line(error)})") from error
    if _is_deeper(value, MAX_JSON_DEPTH):
        raise ValueError(f"{name}: not JSON (nested too deeply)")
    return value


def read_json(file: Path, name: object | None = None) -> Any:
    """The value of a JSON file; `name` replaces its path in errors.

    Raises OSError where the file cannot be read, and ValueError as `load_json`.
    """
    name = file if name is None else name
    if (size := file.stat().st_size) > MAX_JSON_BYTES:
        raise ValueError(f"{name}: {size:,} bytes, more than the {MAX_JSON_BYTES:,} that metadata may have")
    return load_json(file.read_bytes(), name)


def read_json_lines(file: Path, name: object | None = None) -> Iterator[tuple[int, Any | ValueError]]:
    """Line number (from 1) and value of each line that is not empty; a ValueError in its place if it is not JSON.

    Raises OSError where the file cannot be read.
    """
    name = file if name is None else name
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not content.strip():
                continue
            try:
                yield number, load_json(content, f"{name}, line {number}")
            except ValueError as error:
                yield number, error


def format_template(template: object, values: Mapping[str, object], name: object) -> str:
    """A file name template such as "data/chunk-{chunk_index:03d}.parquet" with its fields replaced.

    Only the fields in `values` are taken, and only with a width of at most two digits: no attributes, no
    indices, no conversions. Raises ValueError, naming the file `name`, for any other template.

    >>> format_template("{episode_index:06d}.mp4", {"episode_index": 3}, "info.json")
    '000003.mp4'
    """
    try:
        if not isinstance(template, str):
            raise ValueError("it is not a text")
        for _, field, spec, conversion in string.Formatter().parse(template):
            if field is not None and (field not in values or conversion or not _FORMAT_SPEC.fullmatch(spec or "")):
                shown = field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise ValueError(f"field {{{shown[:40]}}}; there are {', '.join(values)}, with a width such as :03d")
        return template.format_map(values)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        shown = repr(template)[:80]
        raise ValueError(f"{name}: file name template {shown} cannot be used: {first_line(error)}") from error


def read_parquet(file: Path, name: object | None = None, *, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole parquet file of metadata, or some of its columns.

    Raises OSError where the file cannot be read, and ValueError, naming it, where it is damaged, lacks a column or
    promises more than `MAX_CELL_ROWS` rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = file if name is None else name
    try:
        with pq.ParquetFile(file) as opened:
            check_parquet_rows(opened.metadata.num_rows, name)
            if missing := [column for column in columns or () if column not in opened.schema_arrow.names]:
                raise ValueError(
                    f"{name}: no column {missing[0]!r} in it (there are {', '.join(opened.schema_arrow.names)})"
                )
            # One thread: worker processes share the cores.
            return opened.read(columns=None if columns is None else list(columns), use_threads=False)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (pa.ArrowException, OSError, MemoryError) as error:  # damage is an OSError for Arrow, too
        raise ValueError(f"{name}: cannot be read as parquet ({first_line(error)})") from error


def check_parquet_rows(rows: int, name: object) -> None:
    """Raise ValueError, naming the file, for more than `MAX_CELL_ROWS` rows or a negative number of them."""
    if not 0 <= rows <= MAX_CELL_ROWS:
        raise ValueError(f"{name}: its footer promises {rows:,} rows; up to {MAX_CELL_ROWS:,} are read")


def _is_deeper(value: Any, limit: int) -> bool:
    """Whether lists and dictionaries are nested deeper than `limit`, found without recursion."""
    level = [value]
    for _ in range(limit):
        containers = [
            each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list))
        ]
        level = [item for container in containers for item in container if isinstance(item, (dict, list))]
        if not level:
            return False
    return True
