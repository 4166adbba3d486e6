"""A list of clips: video files, or parts of them from a start to an end second, each with a label."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from lara_tokenizer.data.episode import Episode
from lara_tokenizer.data.listing import Found
from lara_tokenizer.data.names import first_of
from lara_tokenizer.data.segment import cut
from lara_tokenizer.data.video.backends import video_reader_class

_COLUMNS = {
    "path": ("path", "video", "file", "filename", "video_path"),
    "start": ("start", "start_sec", "start_seconds", "start_time", "start_timestamp"),
    "end": ("end", "end_sec", "end_seconds", "end_time", "end_timestamp", "stop", "stop_timestamp"),
    "label": ("label", "text", "caption", "narration", "instruction"),
}
# A column of such a name is one that a person counts on; it is not passed over.
_TIMES = re.compile(r"start|stop|end|time|frame|begin")


@dataclass(frozen=True, slots=True)
class _Clip:
    """A line of the list: `path` as it is written, seconds, and the label."""

    line: int
    path: str
    start: float | None = None
    end: float | None = None
    label: str | None = None


def find_list(file: str | Path, *, root: Path | None = None, decoder: str = "pyav") -> Found:
    """The clips of a list: a .csv with a column path and, if wanted, start, end (seconds) and label; or a .txt.

    A .txt has a path a line, and nothing else. Paths are relative to `root`, or to the list's own folder. A clip with
    a start or an end is called "film.mp4#t=12.5,20". `revision` is the list's sha256. Raises ValueError for a list that
    cannot be read, naming the line.

    >>> [episode.id for episode in find_list("clips.csv").episodes]  # doctest: +SKIP
    ['kitchen/p01.mp4#t=12.5,20', 'kitchen/p02.mp4']
    """
    file = Path(file)
    folder = file.absolute().parent if root is None else root.absolute()
    content = _content(file)
    clips, notes = _read_csv(file, content) if file.suffix.lower() in (".csv", ".tsv") else (_read_lines(content), [])
    if not clips:
        raise ValueError(f"{file}: the list is empty")
    paths = [Path(os.path.abspath(folder / clip.path)) for clip in clips]
    # Films from elsewhere are called by their place below the folder that all have in common.
    inside = all(path.is_relative_to(folder) for path in paths)
    base = folder if inside else Path(os.path.commonpath([path.parent for path in paths]))
    reader_class = video_reader_class(decoder)
    episodes: dict[str, Episode] = {}
    lines: dict[str, int] = {}
    for clip, path in zip(clips, paths, strict=True):
        name = path.relative_to(base).as_posix()
        episode = Episode(name, reader_class(path), text=clip.label, offers=("text",) if clip.label else ())
        if clip.start is not None or clip.end is not None:
            episode = cut(episode, clip.start or 0.0, clip.end, text=clip.label)
        if episode.id in episodes:
            raise ValueError(f"{file}: lines {lines[episode.id]} and {clip.line} both name {episode.id}")
        episodes[episode.id], lines[episode.id] = episode, clip.line
    # Another list under the same name is another source: labels may have changed.
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Found("list of clips", file.name, list(episodes.values()), notes, revision=digest)


def _content(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"list {str(file)!r} cannot be read ({error})") from error


def _read_lines(content: str) -> list[_Clip]:
    """A path a line; other things than line ends that Python takes for them are part of a name."""
    lines = [(number, line.strip()) for number, line in enumerate(content.split("\n"), 1)]
    return [_Clip(number, line) for number, line in lines if line and not line.startswith("#")]


def _read_csv(file: Path, content: str) -> tuple[list[_Clip], list[str]]:
    """The clips, and a note about columns that are not used."""
    reader = csv.reader(io.StringIO(content, newline=""), delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
    header = [name.strip().lower() for name in next(reader, [])]
    found = {key: first_of(names, header) for key, names in _COLUMNS.items()}
    places = {key: None if name is None else header.index(name) for key, name in found.items()}
    if places["path"] is None:
        raise ValueError(f"{file}: its first line has no column 'path'; it is {','.join(header) or 'empty'}")
    unused = [name for at, name in enumerate(header) if at not in places.values()]
    if unknown := [name for name in unused if _TIMES.search(name)]:
        raise ValueError(
            f"{file}: column {unknown[0]!r} is not known. Parts of a film are given by start and end, in seconds or as "
            "hh:mm:ss"
        )
    clips = []
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        cells = {key: values[at].strip() if at is not None and at < len(values) else "" for key, at in places.items()}
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
    """Seconds, or "hh:mm:ss.s"."""
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
