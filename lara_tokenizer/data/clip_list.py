"""A list of clips: video files, or parts of them from a start to an end second, each with a label."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

from lara_tokenizer.data.decoders import video_reader_class
from lara_tokenizer.data.episode import Episode
from lara_tokenizer.data.found import Found
from lara_tokenizer.data.segment import cut

_COLUMNS = {
    "path": ("path", "video", "file", "filename", "video_path"),
    "start": ("start", "start_sec", "start_seconds", "start_time"),
    "end": ("end", "end_sec", "end_seconds", "end_time", "stop"),
    "label": ("label", "text", "caption", "narration", "instruction"),
}


def find_list(file: str | Path, *, root: Path | None = None, decoder: str = "pyav") -> Found:
    """The clips of a list: a .csv with a column path and, if wanted, start, end (seconds) and label; or a .txt.

    A .txt has a path a line, and nothing else. Paths are relative to `root`, or to the list's own folder. A clip with
    a start or an end is called "film.mp4#t=12.5,20". Raises ValueError for a list that cannot be read, naming the line.

    >>> [episode.id for episode in find_list("clips.csv").episodes]  # doctest: +SKIP
    ['kitchen/p01.mp4#t=12.5,20', 'kitchen/p02.mp4']
    """
    file = Path(file)
    folder = file.absolute().parent if root is None else root.absolute()
    rows = _read(file)
    if not rows:
        raise ValueError(f"{file}: the list is empty")
    reader_class = video_reader_class(decoder)
    episodes: dict[str, tuple[int, Episode]] = {}
    for line, row in rows:
        path = Path(os.path.abspath(folder / row["path"]))
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
        start, end = (_seconds(row[key], f"{file}, line {line}: {key}") for key in ("start", "end"))
        label = row["label"] or None
        episode = Episode(name, reader_class(path), text=label, offers=("text",) if label else ())
        if start is not None or end is not None:
            if end is not None and end <= (start or 0.0):
                raise ValueError(f"{file}, line {line}: the clip ends at {end:g} s, before it starts")
            episode = cut(episode, start or 0.0, end, text=label)
        if episode.id in episodes:
            raise ValueError(f"{file}: lines {episodes[episode.id][0]} and {line} both name {episode.id}")
        episodes[episode.id] = (line, episode)
    return Found("list of clips", file.name, [episode for _, episode in episodes.values()])


def _read(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and columns of each clip."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"list {str(file)!r} cannot be read ({error})") from error
    if file.suffix.lower() != ".csv":
        lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
        blank = dict.fromkeys(_COLUMNS, "")
        return [(number, blank | {"path": line}) for number, line in lines if line and not line.startswith("#")]
    reader = csv.reader(text.splitlines())
    header = [name.strip().lower() for name in next(reader, [])]
    places = {
        key: next((header.index(name) for name in names if name in header), None) for key, names in _COLUMNS.items()
    }
    if places["path"] is None:
        raise ValueError(f"{file}: its first line has no column 'path'; it is {','.join(header) or 'empty'}")
    rows = []
    for values in reader:
        if any(value.strip() for value in values):
            cells = {
                key: values[at].strip() if at is not None and at < len(values) else "" for key, at in places.items()
            }
            if not cells["path"]:
                raise ValueError(f"{file}, line {reader.line_num}: no path")
            rows.append((reader.line_num, cells))
    return rows


def _seconds(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{where} {text!r}: takes seconds, 0 or more")
    return value
