"""Lists of clips: video files, or parts of them from a start to an end second, each with an optional label.

A .csv (or .tsv) has a column path and optionally start, end (seconds, or hh:mm:ss) and label. A .txt has one path per
line.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import re
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from lara_tokenizer.data.episode import Episode, first_of
from lara_tokenizer.data.listing import DEFAULT_OPTIONS, Listing, ListOptions
from lara_tokenizer.data.segment import cut
from lara_tokenizer.data.video import video_reader_class

LOOKED_FOR = ""

_COLUMNS = {
    "path": ("path", "video", "file", "filename", "video_path"),
    "start": ("start", "start_sec", "start_seconds", "start_time", "start_timestamp"),
    "end": ("end", "end_sec", "end_seconds", "end_time", "end_timestamp", "stop", "stop_timestamp"),
    "label": ("label", "text", "caption", "narration", "instruction"),
}
# An unknown column with such a name is an error, not ignored: it probably gives times that the user relies on.
_TIMES = re.compile(r"start|stop|end|time|frame|begin")


@dataclass(frozen=True, slots=True)
class _Clip:
    """One line of the list: the path as written, start and end in seconds, and the label."""

    line: int
    path: str
    start: float | None = None
    end: float | None = None
    label: str | None = None


def detect(folder: Path, names: Set[str]) -> bool:
    """Always False: a text file may be anything, so a list is read only if the user calls it one."""
    return False


def list_episodes(source: str, options: ListOptions = DEFAULT_OPTIONS) -> Listing:
    """The clips of a list, with paths relative to `options.root` or to the list's own folder.

    A clip with a start or an end has the id "film.mp4#t=12.5,20". The listing's `revision` is the SHA-256 of the list.
    Raises ValueError, naming the line, for a list that cannot be read.

    >>> [episode.id for episode in list_episodes("clips.csv").episodes]  # doctest: +SKIP
    ['kitchen/p01.mp4#t=12.5,20', 'kitchen/p02.mp4']
    """
    file = Path(source)
    folder = file.absolute().parent if options.root is None else options.root.absolute()
    content = _content(file)
    clips, notes = _read_csv(file, content) if file.suffix.lower() in (".csv", ".tsv") else (_read_lines(content), [])
    if not clips:
        raise ValueError(f"{file}: the list is empty")
    paths = [Path(os.path.abspath(folder / clip.path)) for clip in clips]
    # Ids of files outside the folder are relative to the nearest folder that contains all of them.
    inside = all(path.is_relative_to(folder) for path in paths)
    base = folder if inside else Path(os.path.commonpath([path.parent for path in paths]))
    reader_class = video_reader_class(options.decoder)
    episodes: dict[str, Episode] = {}
    lines: dict[str, int] = {}
    for clip, path in zip(clips, paths, strict=True):
        name = path.relative_to(base).as_posix()
        signals = ("text",) if clip.label else ()
        episode = Episode(name, reader_class(path), text=clip.label, available_signals=signals)
        if clip.start is not None or clip.end is not None:
            episode = cut(episode, clip.start or 0.0, clip.end, text=clip.label, by_file_clock=True)
        if episode.id in episodes:
            raise ValueError(f"{file}: lines {lines[episode.id]} and {clip.line} both name {episode.id}")
        episodes[episode.id] = episode
        lines[episode.id] = clip.line
    # A changed list of the same name is another source, even with the same clips: labels may differ.
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Listing("list of clips", file.name, list(episodes.values()), notes, revision=digest)


def _content(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"list {str(file)!r} cannot be read ({error})") from error


def _read_lines(content: str) -> list[_Clip]:
    """One path per line; empty lines and lines that begin with # are skipped."""
    # Not splitlines: that also splits at characters that may be part of a file name.
    lines = [(line, text.strip()) for line, text in enumerate(content.split("\n"), 1)]
    return [_Clip(line, text) for line, text in lines if text and not text.startswith("#")]


def _read_csv(file: Path, content: str) -> tuple[list[_Clip], list[str]]:
    """The clips, and a note about unused columns."""
    reader = csv.reader(io.StringIO(content, newline=""), delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
    header = [name.strip().lower() for name in next(reader, [])]
    columns = {key: first_of(names, header) for key, names in _COLUMNS.items()}
    positions = {key: None if name is None else header.index(name) for key, name in columns.items()}
    if positions["path"] is None:
        raise ValueError(f"{file}: its first line has no column 'path'; it is {','.join(header) or 'empty'}")
    unused = [name for i, name in enumerate(header) if i not in positions.values()]
    if unknown := [name for name in unused if _TIMES.search(name)]:
        raise ValueError(
            f"{file}: column {unknown[0]!r} is not known. Parts of a film are given by start and end, in seconds or as "
            "hh:mm:ss"
        )
    clips = []
    for row in reader:
        if not any(value.strip() for value in row):
            continue
        cells = {key: row[i].strip() if i is not None and i < len(row) else "" for key, i in positions.items()}
        clips.append(_clip(f"{file}, line {reader.line_num}", reader.line_num, cells))
    return clips, [f"columns {', '.join(unused)} are not used"] if unused else []


def _clip(where: str, line: int, cells: dict[str, str]) -> _Clip:
    if not cells["path"]:
        raise ValueError(f"{where}: no path")
    start, end = (_seconds(cells[key], f"{where}: {key}") for key in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"{where}: the clip ends at {end:g} s, before it starts")
    return _Clip(line, cells["path"], start, end, cells["label"] or None)


def _seconds(text: str, where: str) -> float | None:
    """Seconds from "12.5" or "hh:mm:ss.s"; None for an empty cell."""
    if not text:
        return None
    try:
        value = 0.0
        for part in text.split(":"):
            value = 60 * value + float(part)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{where} {text!r}: takes seconds, 0 or more, or hh:mm:ss")
    return value
