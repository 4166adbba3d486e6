"""Rows of a table of clips as people write and publish them: the columns by their usual names, checked line by line."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Names of each column, the preferred one first. Times relative to a whole video come before those relative to a clip.
_NAMES = {
    "path": ("path", "video", "file", "filename", "file_name", "filepath", "file_path", "video_path", "video_file"),
    "start": (
        *("start", "start_sec", "start_seconds", "start_second", "start_s", "start_time", "start_timestamp"),
        *("parent_start_sec", "video_start_sec", "time_start", "begin", "clip_start_sec"),
    ),
    "end": (
        *("end", "end_sec", "end_seconds", "end_second", "end_s", "end_time", "end_timestamp", "stop", "stop_sec"),
        *("stop_time", "stop_timestamp", "parent_end_sec", "video_end_sec", "time_end", "clip_end_sec"),
    ),
    "label": ("label", "text", "caption", "narration", "narration_text", "instruction", "language_instruction"),
}
# Columns that name a video without its suffix, as EPIC-KITCHENS, Ego4D and Something-Something publish them.
_IDS = ("video_id", "video_uid", "parent_video_uid", "video_name", "vid", "clip_uid", "clip_id", "id")
_DURATIONS = ("duration", "duration_sec", "duration_seconds", "duration_s", "dur", "clip_duration")
# An unknown column with such a name is an error where the known ones give no start or no end: it probably does.
_TIMES = re.compile(r"start|stop|end|time|frame|begin|onset|offset|finish|until|seconds")
_TIME_WORDS = frozenset(
    ["from", "to", "till", "in", "out", "t", "t0", "t1", "t2", "ts", "te", "s", "e", "sec", "secs", "ss"]
)
_LENGTH_WORDS = frozenset(["duration", "dur", "length", "len"])  # without a start they are the film's
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d{1,2}(?:\.\d*)?)")  # hh:mm:ss.ff, mm:ss.ff
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")
_LINE_END = re.compile(r"\r\n|\r|\n")
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_BOMS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True, slots=True)
class Clip:
    """One line of a list: the path as written, start and end in seconds, and the label."""

    line: int
    path: str
    start: float | None = None
    end: float | None = None
    label: str | None = None
    is_id: bool = False  # whether `path` is a video's name without folder and suffix


def decode_list(content: bytes, file: Path) -> str:
    """The text of a list, by its byte order mark or as UTF-8; of a .txt, bytes of file names that are not UTF-8 stay.

    Raises ValueError, naming the line, for another encoding and for NUL characters.

    >>> decode_list("path\\n".encode("utf-16"), Path("clips.csv"))
    'path\\n'
    """
    encoding = next((name for mark, name in _BOMS.items() if content.startswith(mark)), "utf-8-sig")
    # File names are bytes on this system: a list made by `find` holds them as they are.
    errors = "surrogateescape" if file.suffix.lower() not in (".csv", ".tsv") else "strict"
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file}, line {line}: byte {content[error.start]:#x} is not {encoding.removesuffix('-sig').upper()}. Save "
            "the list as UTF-8 (of Windows-1252: iconv -f WINDOWS-1252 -t UTF-8)"
        ) from error
    if "\0" in text:
        line = len(_LINE_END.findall(text, 0, text.index("\0"))) + 1
        raise ValueError(f"{file}, line {line}: a NUL character. Is it text? Save the list as UTF-8")
    return text


def read_lines(content: str) -> list[Clip]:
    """One path per line; empty lines and lines that begin with # are skipped."""
    # Not splitlines: that also splits at characters that may be part of a file name.
    lines = [(line, text.strip()) for line, text in enumerate(_LINE_END.split(content), 1)]
    return [Clip(line, text) for line, text in lines if text and not text.startswith("#")]


def read_table(file: Path, content: str) -> tuple[list[Clip], list[str]]:
    """The clips of a .csv or .tsv, and notes about unused columns.

    Raises ValueError, naming the line, for a header without a path, for a quote that is not closed, for a row with
    more cells than the header or without one that is used, and for times that are none.
    """
    separator = "\t" if file.suffix.lower() == ".tsv" else ","
    rows = _rows(file, content, separator)
    header = [name.strip().lower() for name in next(rows, (1, []))[1]]
    columns = _find_columns(file, header, separator)
    is_id = header[columns["path"]] in _IDS
    clips, table = [], []
    for line, row in rows:
        if not any(value.strip() for value in row):
            continue
        where = f"{file}, line {line}"
        if any(value.strip() for value in row[len(header) :]):
            raise ValueError(
                f"{where}: {len(row)} cells, and the first line names {len(header)} columns. Write a text that "
                f'contains {_SEPARATORS[separator]} in "quotes"'
            )
        if len(row) <= max(columns.values()):
            missing = next(header[i] for i in sorted(columns.values()) if i >= len(row))
            raise ValueError(
                f"{where}: no cell for the column {missing!r}. Write an empty one, or is the list cut off?"
            )
        cells = {key: row[i].strip() for key, i in columns.items()}
        clips.append(_clip(where, line, cells, is_id=is_id))
        table.append(row)
    if ("start" in columns) != ("end" in columns or "duration" in columns):
        _check_other_columns(file, header, columns, table)
    return clips, _notes(header, columns)


def _rows(file: Path, content: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each row with the number of its first line. Raises ValueError for a quoted field that swallows other rows."""
    lines = _LINE_END.split(content)
    # Strict: otherwise a quote that is not closed ends silently at the end of the file, or at the next quote.
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    columns = 0
    while True:
        first = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{file}, line {first}: not CSV ({error}). Is a quote that opens there never closed? A quote inside a "
                "quoted text is written twice"
            ) from error
        if row is None:
            return
        columns = columns or len(row)
        # A text may run over several lines, but a line that has all columns of a row is probably one.
        swallowed = (n for n in range(first, reader.line_num) if lines[n].count(separator) >= max(columns - 1, 1))
        if (inner := next(swallowed, None)) is not None:
            raise ValueError(
                f"{file}, line {first}: a quoted text that opens there runs on to line {reader.line_num}, and line "
                f"{inner + 1} looks like a row of its own. Close the quote, or take the line breaks out of the text"
            )
        yield first, row


def _find_columns(file: Path, header: Sequence[str], separator: str) -> dict[str, int]:
    """The position of each column that is used. Raises ValueError where there is no path, or a choice is unclear."""
    named = {key: next((name for name in names if name in header), None) for key, names in _NAMES.items()}
    if named["path"] is None:
        named["path"] = _id_column(header, named["start"])
        if named["path"] == "clip_uid" and {"clip_start_sec", "clip_end_sec"} <= set(header):
            named |= {"start": "clip_start_sec", "end": "clip_end_sec"}
        elif named["path"] in ("clip_uid", "clip_id") and str(named["start"]).startswith(("video_", "parent_")):
            raise ValueError(
                f"{file}: {named['start']!r} counts from the start of the whole video, {named['path']!r} names a clip "
                "of it. Name the video (video_uid), or the times in the clip (start, end)"
            )
    if named["path"] is None:
        other = next((each for each in _SEPARATORS if each != separator and each in "".join(header)), None)
        hint = f". Its columns are separated by {_SEPARATORS[other]}: write " if other else ""
        hint += "a .tsv" if other == "\t" else f"{_SEPARATORS[separator]} instead" if other else ""
        raise ValueError(
            f"{file}: its first line has no column 'path'; it is {','.join(header)[:200] or 'empty'}{hint}"
        )
    for name in named.values():
        if name is not None and header.count(name) > 1:
            raise ValueError(f"{file}: its first line has {header.count(name)} columns {name!r}. Rename or remove one")
    if named["start"] is not None and named["end"] is None:
        named["duration"] = next((name for name in _DURATIONS if name in header), None)
    unused = [name for name in header if name not in named.values()]
    is_whole = named["start"] is named["end"] is None
    if named["start"] is None or (named["end"] is None and named.get("duration") is None):
        for name in unused:
            if _TIMES.search(name) or set(re.split(r"[^a-z0-9]+", name)) & (
                _TIME_WORDS if is_whole else _TIME_WORDS | _LENGTH_WORDS
            ):
                raise ValueError(_unknown_time(file, name))
    return {key: header.index(name) for key, name in named.items() if name is not None}


def _unknown_time(file: Path, name: str) -> str:
    return (
        f"{file}: column {name!r} is not known. Parts of a film are given by start and end, in seconds or as hh:mm:ss"
        + (". Frame numbers are not taken: divide by the rate" if "frame" in name else "")
    )


def _check_other_columns(
    file: Path, header: Sequence[str], columns: Mapping[str, int], table: Sequence[Sequence[str]]
) -> None:
    """Raise ValueError where a list gives a start or an end only, and another column may be the other by its cells."""
    for i, name in enumerate(header):
        cells = [row[i].strip() for row in table if i < len(row) and row[i].strip()]
        if (
            i not in columns.values()
            and cells
            and all(_CLOCK.fullmatch(cell) or _NUMBER.fullmatch(cell) for cell in cells)
        ):
            raise ValueError(f"{_unknown_time(file, name)}. If its numbers are no times, remove it from the list")


def _id_column(header: Sequence[str], start: str | None) -> str | None:
    """The column that names a video; the one of a clip where times are relative to the clip."""
    existing = [name for name in _IDS if name in header]
    if start is not None and start.startswith("clip_") and "clip_uid" in existing:
        return "clip_uid"
    return next(iter(existing), None)


def _notes(header: Sequence[str], columns: Mapping[str, int]) -> list[str]:
    unused = [name for i, name in enumerate(header) if i not in columns.values()]
    notes = [f"columns {', '.join(unused)} are not used"] if unused else []
    if any(_TIMES.search(name) for name in unused) and "start" in columns:
        ends = ["duration" if "duration" in columns else "end"]
        notes.append(f"times are those of {' and '.join(header[columns[key]] for key in ('start', *ends))}")
    return notes


def _clip(where: str, line: int, cells: Mapping[str, str], *, is_id: bool) -> Clip:
    if not cells["path"]:
        raise ValueError(f"{where}: no path")
    if _LINE_END.search(cells["path"]):
        raise ValueError(f"{where}: the path runs over several lines. Is a quote that opens there never closed?")
    start, end, length = (_seconds(cells.get(key, ""), f"{where}: {key}") for key in ("start", "end", "duration"))
    if length is not None:
        end = round((start or 0.0) + length, 6)
    # A part of no length is listed and is too short to encode: published annotations contain some.
    if end is not None and end < (start or 0.0):
        raise ValueError(f"{where}: the clip ends at {end:g} s, before it starts")
    return Clip(line, cells["path"], start, end, cells.get("label") or None, is_id)


def _seconds(text: str, where: str) -> float | None:
    """Seconds from "12.5" or "hh:mm:ss.s"; None for an empty cell."""
    if not text:
        return None
    clock = _CLOCK.fullmatch(text)
    if clock is not None and float(clock[3]) < 60 and (clock[1] is None or int(clock[2]) < 60):
        return 3600 * float(clock[1] or 0) + 60 * float(clock[2]) + float(clock[3])
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{where} {text!r}: takes seconds, 0 or more, or hh:mm:ss")
    return value
