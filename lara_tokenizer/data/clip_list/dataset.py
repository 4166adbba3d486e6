"""Lists of clips: video files, or parts of them from a start to an end second, each with an optional label.

A .csv (or .tsv) has a column path and optionally start, end (seconds, or hh:mm:ss) and label, or the columns of a
published list of annotations. A .txt has one path per line.
"""

from __future__ import annotations

import codecs
import hashlib
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from lara_tokenizer.data.clip_list.columns import Clip, decode_list, read_lines, read_table
from lara_tokenizer.data.episode import Episode
from lara_tokenizer.data.folders import LeftOut, walk_folders
from lara_tokenizer.data.listing import DEFAULT_OPTIONS, Listing, ListOptions
from lara_tokenizer.data.segment import cut
from lara_tokenizer.data.video import video_reader_class
from lara_tokenizer.data.video.suffixes import VIDEO_SUFFIXES

LOOKED_FOR = ""


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
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"list {str(file)!r} cannot be read ({error.strerror})") from error
    text, is_table = decode_list(content, file), file.suffix.lower() in (".csv", ".tsv")
    clips, notes = read_table(file, text) if is_table else (read_lines(text), [])
    if not clips:
        raise ValueError(f"{file}: the list is empty")
    paths = _find_files(file, clips, folder, notes)
    # Ids of files outside the folder are relative to the nearest folder that contains all of them.
    inside = all(path.is_relative_to(folder) for path in paths)
    base = folder if inside else Path(os.path.commonpath([path.parent for path in paths]))
    reader_class = video_reader_class(options.decoder)
    episodes: dict[str, Episode] = {}
    lines: dict[str, int] = {}
    repeated = []
    for clip, path in zip(clips, paths, strict=True):
        name = path.relative_to(base).as_posix()
        signals = ("text",) if clip.label else ()
        episode = Episode(name, reader_class(path), text=clip.label, available_signals=signals)
        if clip.start is not None or clip.end is not None:
            episode = cut(episode, clip.start or 0.0, clip.end, text=clip.label, by_file_clock=True)
        if episode.id in episodes:
            _tell_apart(episode, episodes, f"{file}: lines {lines[episode.id]} and {clip.line}")
            repeated.append(episode.id)
        episodes[episode.id] = episode
        lines[episode.id] = clip.line
    if repeated:
        notes.append(f"{len(repeated)} lines label a part anew that an earlier line labels: {repeated[0]} and so on")
    # A changed list of the same name is another source, even with the same clips: labels may differ.
    digest = hashlib.sha256(content.removeprefix(codecs.BOM_UTF8)).hexdigest()
    return Listing("list of clips", file.name, list(episodes.values()), notes, revision=digest)


def _tell_apart(episode: Episode, earlier: Mapping[str, Episode], where: str) -> None:
    """Number the id of a part that has another label already: annotators describe overlapping actions one by one.

    Raises ValueError where an earlier line says the same.
    """
    name, count = episode.id, 1
    while episode.id in earlier:
        if earlier[episode.id].text == episode.text:
            raise ValueError(f"{where} both name {episode.id}")
        count += 1
        episode.id = f"{name}#{count}"


def _find_files(file: Path, clips: Sequence[Clip], folder: Path, notes: list[str]) -> list[Path]:
    """The file of each clip, relative to `folder`; ids of videos are looked up among the videos below it.

    A path without a suffix, or an id, is the one video of that name with any known suffix. Raises ValueError, naming
    the line, where several have it, and where no id has a video; a single clip without a file fails when it is read.
    """
    videos: dict[str, list[Path]] | None = None
    found: dict[str, Path] = {}
    for clip in clips:
        if clip.path in found:
            continue
        path = Path(os.path.abspath(folder / clip.path))
        if "\\" in clip.path and not path.exists():  # a list from Windows
            path = Path(os.path.abspath(folder / clip.path.replace("\\", "/")))
        found[clip.path] = path
        has_suffix = path.suffix.lower() in VIDEO_SUFFIXES
        if os.path.isfile(path) or (has_suffix and not clip.is_id):
            continue
        if videos is None:
            videos = _videos_by_stem(folder, notes)
        same = videos.get(path.stem if has_suffix else path.name, [])
        if has_suffix:
            same = [each for each in same if each.name == path.name]
        if not clip.is_id or "/" in clip.path:
            same = [each for each in same if each.parent == path.parent]
        if len(same) > 1:
            names = " and ".join(each.relative_to(folder).as_posix() for each in same[:2])
            raise ValueError(f"{file}, line {clip.line}: {clip.path!r} may be {names}. Write the path with its suffix")
        found[clip.path] = same[0] if same else path
    if clips[0].is_id and not any(os.path.isfile(path) for path in found.values()):
        raise ValueError(
            f"{file}, line {clips[0].line}: no video {clips[0].path!r} below {folder}, and none for the other ids"
        )
    return [found[clip.path] for clip in clips]


def _videos_by_stem(folder: Path, notes: list[str]) -> dict[str, list[Path]]:
    """The videos below a folder, by name without suffix; a file that several links lead to is there once."""
    videos: dict[str, dict[str, Path]] = {}
    left_out = LeftOut()
    for here, entries in walk_folders(folder, left_out):
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() in VIDEO_SUFFIXES:
                videos.setdefault(stem, {}).setdefault(os.path.realpath(entry.path), here / entry.name)
    notes += left_out.notes()
    return {stem: list(paths.values()) for stem, paths in videos.items()}
