"""Reading of what somebody else wrote: JSON, YAML, file name templates, safetensors headers and parquet, within limits.

Metadata of datasets and checkpoints is written by custom scripts and downloaded from strangers. Every function here
returns a checked value or raises a ValueError of one line that names the file; none recurses without bound, allocates
what a few bytes promise, or lets a template reach beyond its fields.
"""

from __future__ import annotations

import json
import re
import stat
import string
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Any

from lara_tokenizer.errors import first_line, printable

if TYPE_CHECKING:
    import pyarrow as pa

MAX_JSON_BYTES = 2**28  # of a file; a larger one is not metadata
MAX_JSON_LINE_BYTES = 2**24  # of one line of a JSON lines file
MAX_JSON_VALUES = 10_000_000  # numbers, texts, lists and dictionaries: at some 64 bytes each these are 640 MB
MAX_JSON_DEPTH = 64  # lists and dictionaries within each other
MAX_YAML_BYTES = 2**20
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file, as in its own reader
MAX_YAML_VALUES = 100_000  # with every alias (*name) written out
MAX_PIXELS = 2**26  # of one picture (8192 x 8192): as uint8 RGB these are 200 MB
MAX_CELL_ROWS = 100_000_000  # rows of one parquet file; run-length encoding stores a billion in a kilobyte
MAX_TABLE_BYTES = 2**29  # of a parquet file of metadata in memory; a dictionary stores a text once for a million rows
_DTYPE_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
_DTYPE_BYTES |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8}
_FORMAT_SPEC = re.compile(r"(?:[^{}]?[<>=^])?0?[0-9]{0,2}[ds]?")  # ":03d", ":06", ":d", ":0>3", ":=03d", ":s"
_HUGE_NUMBER = re.compile(r"[0-9]{309}")  # no float holds an integer of so many digits
# An escaped backslash, a surrogate pair (both stay), or one half of a pair alone, which is no character.
_SURROGATES = re.compile(r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)")

_short = Repr()
_short.maxlevel, _short.maxlist, _short.maxtuple, _short.maxdict, _short.maxset = 2, 4, 4, 4, 4
_short.maxstring = _short.maxother = _short.maxlong = 80


def shown(value: object, width: int = 80) -> str:
    r"""A value from somebody else's file for a message: one short line, however large or nested the value is.

    >>> print(shown("data/\\x1b[2J"), shown([[["a"] * 1000] * 1000] * 1000, 24), shown("a" * 1000, 12))
    'data/\\x1b[2J' [[[...], [...], [...]... 'aaaaaaaa...
    """
    try:
        text = printable(_short.repr(value))
    except ValueError:  # an integer of thousands of digits
        text = type(value).__name__
    return text if len(text) <= width else f"{text[: width - 3]}..."


def load_json(content: str | bytes, name: object) -> Any:
    """The value of a JSON text; a byte order mark before it is skipped, of two equal keys the last one counts.

    NaN and Infinity are taken, as Python and pandas write them.

    Args:
        content: the text, or its bytes in UTF-8.
        name: the file, for errors.

    Raises ValueError, naming the file, for anything that is not JSON, is nested deeper than `MAX_JSON_DEPTH`, has more
    than `MAX_JSON_VALUES` values, or an integer beyond the range of a float. Half of a surrogate pair, as of an emoji
    that a script cut in two, becomes U+FFFD.

    >>> load_json(b'\\xef\\xbb\\xbf{"fps": 10}', "info.json")
    {'fps': 10}
    >>> load_json("[" * 100_000, "info.json")
    Traceback (most recent call last):
    ValueError: info.json: not JSON (nested too deeply)
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content.removeprefix("\ufeff")
        nestings = text.count("[") + text.count("{")
        if text.count(",") + nestings > MAX_JSON_VALUES:
            raise ValueError(f"more than {MAX_JSON_VALUES:,} values")
        if "\\ud" in text or "\\uD" in text:
            text = _SURROGATES.sub(lambda match: "\\ufffd" if match[1] else match[0], text)
        value = json.loads(text)
        if _HUGE_NUMBER.search(text):
            json.loads(text, parse_int=_bounded_int)
    except RecursionError:
        raise ValueError(f"{name}: not JSON (nested too deeply)") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, integers of thousands of digits
        raise ValueError(f"{name}: not JSON ({first_line(error)})") from error
    if nestings > MAX_JSON_DEPTH and _is_deeper(value, MAX_JSON_DEPTH):
        raise ValueError(f"{name}: not JSON (nested too deeply)")
    return value


def read_json(file: Path, name: object | None = None) -> Any:
    """The value of a JSON file; `name` replaces its path in errors.

    Raises OSError where the file cannot be read, and ValueError as `load_json`.
    """
    name = file if name is None else name
    return load_json(_read_bytes(file, name, MAX_JSON_BYTES), name)


def read_json_object(file: Path, name: object | None = None) -> dict[str, Any]:
    """The dictionary in a JSON file. Raises as `read_json`, and ValueError for a file that holds something else."""
    name = file if name is None else name
    value = read_json(file, name)
    if not isinstance(value, dict):
        raise ValueError(f"{name}: holds {shown(value, 40)}, expected names and values, {{...}}")
    return value


def read_json_lines(file: Path, name: object | None = None) -> Iterator[tuple[int, Any | ValueError]]:
    """Line number (from 1) and value of each line that is not empty; a ValueError in its place if it is not JSON.

    Raises OSError where the file cannot be read.
    """
    name = file if name is None else name
    _check_regular(file, name)
    with file.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_JSON_LINE_BYTES), b""), 1):
            where, is_cut = f"{name}, line {number}", False
            while len(line) == MAX_JSON_LINE_BYTES and not line.endswith(b"\n"):
                is_cut, line = True, stream.readline(MAX_JSON_LINE_BYTES)
            if is_cut:
                yield number, ValueError(f"{where}: not JSON (longer than {MAX_JSON_LINE_BYTES:,} bytes)")
                continue
            content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not content.strip():
                continue
            try:
                yield number, load_json(content, where)
            except ValueError as error:
                yield number, error


def load_yaml(content: str | bytes, name: object) -> Any:
    """The value of a YAML text, as plain data: tags that would build Python objects are refused.

    Raises ValueError, naming the file, for anything that is not YAML, nested deeper than `MAX_JSON_DEPTH`, longer than
    `MAX_YAML_BYTES`, or of more than `MAX_YAML_VALUES` values once its aliases are written out.

    >>> load_yaml("training: {steps: 10}", "lam.yaml")
    {'training': {'steps': 10}}
    >>> load_yaml("&a [*a]", "lam.yaml")
    Traceback (most recent call last):
    ValueError: lam.yaml: not YAML that is taken here (*a contains itself)
    """
    import yaml

    if len(content) > MAX_YAML_BYTES:
        raise ValueError(f"{name}: {len(content):,} bytes; a YAML file of settings has up to {MAX_YAML_BYTES:,}")
    try:
        # Before anything is built: building recurses, and repeats what an alias stands for.
        _check_yaml_events(yaml.parse(content, Loader=yaml.SafeLoader))
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: not YAML: {printable(' '.join(str(error).split()))[:300]}") from None
    # Values that do not fit their tag raise nearly anything: `!!timestamp x` an AttributeError, `!!bool x` a KeyError.
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{name}: not YAML that is taken here ({printable(first_line(error))[:300]})") from error


def read_yaml(file: Path, name: object | None = None) -> Any:
    """The value of a YAML file. Raises OSError where it cannot be read, and ValueError as `load_yaml`."""
    name = file if name is None else name
    return load_yaml(_read_bytes(file, name, MAX_YAML_BYTES), name)


def _check_yaml_events(events: Iterator[Any]) -> None:
    """Raise ValueError for depth, a number of values, or aliases beyond the limits, without building anything."""
    import yaml

    total = 0
    sizes: dict[str, int] = {}  # values of each anchored node that is complete
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and `total` where the node began
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            # An anchor that is unknown is reported by the composer, with its line.
            if event.anchor not in sizes and any(anchor == event.anchor for anchor, _ in open_nodes):
                raise ValueError(f"*{event.anchor} contains itself")
            total += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.NodeEvent):
            total += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, total - 1))
            elif event.anchor is not None:
                sizes[event.anchor] = 1
        if len(open_nodes) > MAX_JSON_DEPTH:
            raise ValueError("nested too deeply")
        if total > MAX_YAML_VALUES:
            raise ValueError(f"more than {MAX_YAML_VALUES:,} values, with its aliases written out")


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
                found = field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise ValueError(
                    f"field {{{printable(found[:40])}}}; there are {', '.join(values)}, with a width such as :03d"
                )
        return template.format_map(values)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{name}: file name template {shown(template)} cannot be used: {first_line(error)}") from error


def safetensors_header(file: Path, name: object | None = None) -> tuple[dict[str, dict[str, Any]], int]:
    """Entries of a safetensors file ({name: {dtype, shape, data_offsets}}) and the offset of its first data byte.

    The format is a length (8 bytes, little endian), a JSON header of that length, then the numbers, without gaps.

    Raises OSError where the file cannot be read, and ValueError, naming it, where it is truncated, damaged or something
    else.
    """
    name = file if name is None else name
    _check_regular(file, name)
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start == b"version ":  # of https://git-lfs.github.com/spec/v1
            raise ValueError(f"{name}: a Git LFS pointer, not the weights. Download the file itself (git lfs pull)")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(
                f"{name}: damaged, or no safetensors file: of {size:,} bytes its header would be {length:,}. Download "
                "it again"
            )
        header = load_json(stream.read(length), f"{name}: its header")
    if not isinstance(header, dict):
        raise ValueError(f"{name}: its header holds {shown(header, 40)}, expected names and tensors")
    header.pop("__metadata__", None)
    places = [_checked_entry(tensor, entry, name) for tensor, entry in header.items()]
    end = 0
    for first, last in sorted(places):
        if first != end:
            raise ValueError(f"{name}: its tensors overlap or leave gaps at byte {end:,}. Download it again")
        end = last
    if 8 + length + end != size:
        raise ValueError(
            f"{name}: {size:,} bytes, and its header describes {8 + length + end:,}: truncated or damaged. Download it "
            "again"
        )
    return header, 8 + length


def _checked_entry(tensor: str, entry: Any, name: object) -> tuple[int, int]:
    """First and last byte of a tensor in the data. Raises ValueError for an entry that contradicts itself."""
    try:
        shape, (first, last), width = entry["shape"], entry["data_offsets"], _DTYPE_BYTES[entry["dtype"]]
        if not all(type(each) is int and each >= 0 for each in (*shape, first, last)):
            raise ValueError
        numbers = prod(shape) if len(shape) <= 64 else -1
        if last - first != numbers * width:
            raise ValueError
    except (TypeError, KeyError, ValueError):
        raise ValueError(
            f"{name}: the entry of tensor {shown(tensor)} in its header cannot be: {shown(entry)}. Download it again"
        ) from None
    return first, last


def read_parquet(file: Path, name: object | None = None, *, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole parquet file of metadata, or some of its columns.

    Raises OSError where the file cannot be read, and ValueError, naming it, where it is damaged, lacks a column, or
    promises more than `MAX_CELL_ROWS` rows or `MAX_TABLE_BYTES` bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = file if name is None else name
    try:
        with pq.ParquetFile(file) as opened:
            check_parquet_rows(opened.metadata.num_rows, name)
            schema = opened.schema_arrow
        if missing := [column for column in columns or () if column not in schema.names]:
            found = printable(", ".join(schema.names))[:300]
            raise ValueError(f"{name}: no column {missing[0]!r} in it (there are {found})")
        read = schema if columns is None else pa.schema([schema.field(column) for column in columns], schema.metadata)
        return _read_within(file, read, name)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    # Damage is an OSError for Arrow, too; names that are not UTF-8 fail in Python.
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"{name}: cannot be read as parquet ({printable(first_line(error))[:300]})") from error


def _read_within(file: Path, schema: pa.Schema, name: object) -> pa.Table:
    """The columns of `schema`, at most `MAX_TABLE_BYTES` in memory. Raises ValueError for more.

    The sizes that a footer states are not asked for: pyarrow aborts the process where they contradict each other.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A text that a dictionary stores once for a million rows stays there until its size is known.
    texts = [each.name for each in schema if _is_text(each.type)]
    # Those within lists and structs cannot be left there: few rows at once.
    nested = [each for each in schema if each.name not in texts and re.search("string|binary", str(each.type))]
    batches, size = [], 0
    with pq.ParquetFile(file, read_dictionary=texts) as opened:
        # One thread: worker processes share the cores.
        step = 256 if nested else 65_536
        for batch in opened.iter_batches(batch_size=step, columns=schema.names, use_threads=False):
            size += sum(_unpacked_bytes(column) for column in batch.columns)
            if size > MAX_TABLE_BYTES:
                raise ValueError(f"{name}: its rows take more than the {MAX_TABLE_BYTES:,} bytes that are read")
            batches.append(batch)
    return pa.Table.from_batches(batches).cast(schema) if batches else schema.empty_table()


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    of_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(is_one(kind) for is_one in of_text)


def _unpacked_bytes(column: pa.Array) -> int:
    """Bytes of a column with each text of its dictionary written out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not isinstance(column, pa.DictionaryArray) or not _is_text(column.type.value_type):
        return column.nbytes
    return column.indices.nbytes + (pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0)


def check_parquet_rows(rows: int, name: object) -> None:
    """Raise ValueError, naming the file, for more than `MAX_CELL_ROWS` rows or a negative number of them."""
    if not 0 <= rows <= MAX_CELL_ROWS:
        raise ValueError(f"{name}: its footer promises {rows:,} rows; up to {MAX_CELL_ROWS:,} are read")


def _is_deeper(value: Any, limit: int) -> bool:
    """Whether lists and dictionaries are nested deeper than `limit`, found without recursion."""
    level = [value]
    for _ in range(limit):
        items = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list)))
        level = [item for container in items for item in container if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


def _bounded_int(digits: str) -> int:
    if len(digits) > 308:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _read_bytes(file: Path, name: object, limit: int) -> bytes:
    """The bytes of a regular file. Raises ValueError for more than `limit`, or a pipe or device."""
    _check_regular(file, name)
    with file.open("rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{name}: more than the {limit:,} bytes that metadata may have")
    return content


def _check_regular(file: Path, name: object) -> None:
    """Raise ValueError for a folder, a pipe, which would be waited for, or a device, which never ends."""
    mode = file.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ValueError(f"{name}: a folder, not a file")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{name}: a pipe or device, not a file")
