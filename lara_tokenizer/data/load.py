"""From what a person points at to a list of episodes. Looks at names only, opens no file."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path

from lara_tokenizer.data.decoders import video_reader_class
from lara_tokenizer.data.episode import Episode
from lara_tokenizer.data.images import IMAGE_SUFFIXES, ImageFolderReader, is_numbered_image

VIDEO_SUFFIXES = (
    ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv",
)  # fmt: skip

Fps = float | Mapping[str, float] | None

_READABLE = "a video file, a folder of videos, a folder of numbered images, or a glob, each also as 'video:...'"


def load_episodes(
    source: str | Path | Sequence[str | Path],
    *,
    fps: Fps = None,
    decoder: str = "pyav",
    limit: int | None = None,
) -> list[Episode]:
    """List the episodes of a source, sorted by id.

    `source`: a video file, a folder (searched through, for videos and for folders of numbered images), a glob
    ("runs/*/front.mp4"), a list of these, each also as "video:...". An id is the path below the folder that was
    named, or below the nearest folder common to a list. No file is opened: a bad one fails later, by itself.

    `fps` overrides the rate that files state, for all or by glob ({"rt1_*": 3}, tried on the last part of the id
    and on the whole); folders of images need one. `decoder`: "pyav", or "decord" or "torchcodec" with their
    extras. `limit` keeps the first episodes only.

    Raises ValueError where nothing is found, a source or a rate makes no sense or a glob of `fps` matches
    nothing, and ImportError for a decoder that is not installed.

    >>> [episode.id for episode in load_episodes("videos/", fps={"rt1_*": 3})]  # doctest: +SKIP
    ['bridge_1.mp4', 'kitchen/rt1_7.mp4']
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit}: must be at least 1 episode")
    sources = [source] if isinstance(source, str | Path) else list(source)
    if not sources:
        raise ValueError("no source given. Name a video file, a folder or a glob")
    paths, root = _find(sources)
    by_id = dict(sorted((path.relative_to(root).as_posix(), path) for path in paths))
    rates = _rates(list(by_id), fps)
    reader_class = video_reader_class(decoder)
    episodes = []
    for episode_id, path in list(by_id.items())[:limit]:
        rate = rates[episode_id]
        if not path.is_dir():
            episodes.append(Episode(episode_id, reader_class(path), fps=rate))
        elif rate is not None:
            episodes.append(Episode(episode_id, ImageFolderReader(path, rate)))
        else:
            raise ValueError(
                f"{path} holds images, which have no rate of their own. Give their frames per second: "
                f"fps=10 or fps={{'{Path(episode_id).name}': 10}} (--fps 10 or --fps '{Path(episode_id).name}=10')"
            )
    return episodes


def _find(sources: Sequence[str | Path]) -> tuple[list[Path], Path]:
    """The videos and image folders of all sources, each once, and the folder that ids are relative to."""
    found: dict[Path, None] = {}
    roots = []
    for source in sources:
        paths, root = _find_one(source)
        found |= dict.fromkeys(paths)
        roots.append(root)
    return list(found), Path(os.path.commonpath(roots))


def _find_one(source: str | Path) -> tuple[list[Path], Path]:
    text = os.fspath(source)
    if not os.path.exists(text):
        # Two letters at least: one would be a Windows drive.
        prefix = re.match(r"([a-z]{2,}):", text)
        if prefix and prefix[1] != "video":
            raise ValueError(f"source {text!r}: '{prefix[1]}' sources are not readable yet. Readable is {_READABLE}")
        text = text.removeprefix("video:")
    path = Path(os.path.abspath(text))
    if path.is_dir():
        paths = list(_walk(path))
        # A folder of images is an episode itself: its id needs a name.
        root = path.parent if path in paths else path
    elif path.exists():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise ValueError(f"source {text!r}: one image is no episode. Name the folder that holds the sequence")
        return [path], path.parent
    elif glob.has_magic(text):
        paths = list(_match(text))
        root = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
    else:
        raise ValueError(f"source {text!r}: no such file or folder. Readable is {_READABLE}")
    if not paths:
        raise ValueError(
            f"source {text!r}: no video in it. Looked for files ending in {', '.join(VIDEO_SUFFIXES)} and folders "
            f"with numbered images ending in {', '.join(IMAGE_SUFFIXES)}"
        )
    return paths, root


def _match(pattern: str) -> Iterator[Path]:
    """What a glob matches: videos (any file where the glob itself spells its ending), and all below a folder."""
    spelled = Path(pattern).suffix.lower()
    for hit in sorted(glob.glob(pattern, recursive=True)):
        path = Path(os.path.abspath(hit))
        if path.is_dir():
            yield from _walk(path)
        elif path.suffix.lower() in {*VIDEO_SUFFIXES, spelled} - {*IMAGE_SUFFIXES}:
            yield path


def _walk(folder: Path) -> Iterator[Path]:
    """Videos below `folder`, and folders of images in the place of their images. Hidden names are left out.

    Images beside videos are taken for thumbnails and left out too.
    """
    seen = set()
    stack = [folder]
    while stack:
        here = stack.pop()
        # Symbolic links are followed, but not in circles.
        if (real := os.path.realpath(here)) in seen:
            continue
        seen.add(real)
        try:
            entries = sorted((e for e in os.scandir(here) if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            raise ValueError(f"folder {here} cannot be listed: {error.strerror}. Is it readable?") from error
        videos = [Path(e.path) for e in entries if e.name.lower().endswith(VIDEO_SUFFIXES) and not e.is_dir()]
        yield from videos
        if not videos and any(is_numbered_image(e.name) for e in entries):
            yield here
        stack += [Path(e.path) for e in entries if e.is_dir()]


def _rates(ids: Sequence[str], fps: Fps) -> dict[str, float | None]:
    """The overriding rate of each episode, None where the file's own counts."""
    by_glob = fps if isinstance(fps, Mapping) else {} if fps is None else {"*": fps}
    rates: dict[str, float | None] = dict.fromkeys(ids)
    for pattern, rate in by_glob.items():
        if not (isfinite(rate) and rate > 0):
            raise ValueError(f"fps {rate!r} for {pattern!r}: must be above 0 frames per second")
        matches = [i for i in ids if fnmatchcase(i, pattern) or fnmatchcase(i.rpartition("/")[2], pattern)]
        if not matches:
            some = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
            raise ValueError(f"fps: {pattern!r} matches no episode. There are: {some}")
        for episode_id in matches:
            other = rates[episode_id]
            if other is not None and other != rate:
                raise ValueError(f"fps: {pattern!r} says {rate:g} for {episode_id}, another glob {other:g}. Keep one")
            rates[episode_id] = rate
    return rates
