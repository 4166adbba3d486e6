"""Registry of dataset formats, and resolution of what a user names into listings with unique episode ids.

A new format is one module (or folder) with `LOOKED_FOR`, `detect` and `list_episodes`, and one line in `FORMATS`.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from lara_tokenizer.data import video
from lara_tokenizer.data.episode import Episode, FrameReader
from lara_tokenizer.data.folders import LeftOut, find_paths, is_file, walk_folders
from lara_tokenizer.data.listing import Listing, ListOptions, is_color_camera, without_color_words
from lara_tokenizer.data.merging import ResolvedSource
from lara_tokenizer.data.video.numbered import IMAGE_SUFFIXES, is_numbered_image, sequences_in
from lara_tokenizer.data.video.suffixes import UNREAD_SUFFIXES, VIDEO_SUFFIXES
from lara_tokenizer.errors import LaraTokenizerError, missing_extra

READABLE = (
    "a video file, a folder of videos, a folder of numbered images, a dataset's folder (LeRobotDataset, RLDS, "
    "Hugging Face datasets, WebDataset tars, Something-Something), a glob, a list of clips as 'list:clips.csv', or a "
    "dataset of the Hub as 'lerobot:user/name' or 'datasets:user/name'"
)


class FormatModule(Protocol):
    """The interface of a format's module."""

    LOOKED_FOR: str  # files by which the format is detected, for errors; "" for a format that must be named

    def detect(self, folder: Path, names: Set[str]) -> bool:
        """Whether a folder, whose entries are `names`, is a dataset of this format."""

    def list_episodes(self, source: str, options: ListOptions) -> Listing:
        """List the episodes of a path, or of a Hub repository. Raises ValueError."""


@dataclass(frozen=True, slots=True)
class Format:
    """One entry of the registry."""

    name: str  # prefix that selects the format explicitly, as in "rlds:oxe/viola"
    module: str  # module below `lara_tokenizer.data`; imported when first needed, as some import large libraries
    signs: str = ".*"
    """A pattern for names, files or folders, of which each dataset has one at least: only then `detect` is asked."""
    on_hub: bool = False  # whether a name that is no path is a repository on the Hub
    ignores_other_files: bool = False
    """Whether other files in a dataset's folder are not part of it, and are searched too."""
    extra: str | None = None  # the extra to install for it, if it needs optional packages

    def detects(self, folder: Path, names: Set[str]) -> bool:
        """Whether a folder, whose entries are `names`, is a dataset of this format; imports no module in vain."""
        return any(re.fullmatch(self.signs, name) for name in names) and self.load().detect(folder, names)

    def load(self) -> FormatModule:
        """The format's module. Raises ImportError, naming the extra, where a package is missing."""
        try:
            return cast(FormatModule, import_module(f"lara_tokenizer.data.{self.module}"))
        except ModuleNotFoundError as error:
            if self.extra is None or error.name is None:
                raise
            raise missing_extra(error.name, self.extra) from error


# In the order of detection: a LeRobotDataset contains parquet files too, so it comes before Hugging Face datasets.
FORMATS = {
    entry.name: entry
    for entry in (
        Format("lerobot", "lerobot.dataset", "meta", on_hub=True),
        Format("rlds", "rlds.dataset", r"features\.json|\d.*\..*\..*"),
        Format("ssv2", "something_something", r"labels|.*\.json"),
        Format("webdataset", "webdataset.dataset", r".*\.tar", ignores_other_files=True),
        Format("datasets", "huggingface.dataset", r"dataset_dict\.json|state\.json|data|.*\.parquet", on_hub=True),
        Format("list", "clip_list.dataset", ""),
    )
}


def resolve_source(source: str | Path, options: ListOptions) -> list[ResolvedSource]:
    """Detect the formats of one source, explicit by prefix or from its files, and list its episodes.

    Raises ValueError for an unknown prefix, and where nothing readable is found, with all that was looked for.
    """
    text = os.fspath(source)
    prefix, name = _split_prefix(text)
    entry = FORMATS.get(prefix or "")
    if prefix is None and re.search(r"[*?{\[].*\.tar$", name):
        entry = FORMATS["webdataset"]
    if entry is None:
        return _resolve_by_detection(name, text, options, only_video=prefix == "video")
    if entry.on_hub and not os.path.exists(name):
        return [ResolvedSource(_list(entry, name, options), None, None)]
    if entry.name == "list":
        return [resolve_list(name, [], options)]
    if entry.name == "webdataset":
        # The folder before the first brace or glob.
        path = Path(os.path.abspath(re.split(r"[*?{\[]", name)[0]))
        folder = path if path.is_dir() else path.parent
        return [ResolvedSource(_list(entry, name, options), folder, folder)]
    path = Path(os.path.abspath(name))
    if not path.exists():
        raise ValueError(f"source {text!r}: no such folder {name!r}")
    return [ResolvedSource(_list(entry, str(path), options), path, path)]


def resolve_list(file: str | Path, folders: Sequence[str | Path], options: ListOptions) -> ResolvedSource:
    """List the clips of a list; the one folder, if any is given, is the one that its paths are relative to."""
    if len(folders) > 1:
        raise ValueError(f"a list of clips takes one folder that its paths are relative to, got {len(folders)}")
    root = Path(folders[0]) if folders else None
    if root is not None and not root.is_dir():
        raise ValueError(f"source {str(root)!r}: no such folder; the paths of {file} are relative to it")
    base = Path(file).absolute().parent if root is None else root.absolute()
    listing = FORMATS["list"].load().list_episodes(os.fspath(file), ListOptions(decoder=options.decoder, root=root))
    return ResolvedSource(listing, base, base)


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of a Hub id, "user/name" with an optional "@revision".

    >>> is_hub_id("lerobot/pusht"), is_hub_id("a/b@v2.1"), is_hub_id("data/sets/x"), is_hub_id("pusht")
    (True, True, False, False)
    """
    parts = text.partition("@")[0].split("/")
    return len(parts) == 2 and all(part and part[0] not in ".~" for part in parts)


def _split_prefix(text: str) -> tuple[str | None, str]:
    """ "lerobot:a/b" as ("lerobot", "a/b"). A path that exists is a path, whatever its name."""
    # Two letters at least: a single one would be a Windows drive.
    match = None if os.path.exists(text) else re.match(r"([a-z][a-z0-9]+):", text)
    if match is None:
        return None, text
    prefixes = ("video", *FORMATS)
    if match[1] not in prefixes:
        raise ValueError(f"source {text!r}: there is no format {match[1]!r}. There are {', '.join(prefixes)}")
    return match[1], text[match.end() :]


def _list(entry: Format, source: str, options: ListOptions) -> Listing:
    """The listing of a format, after refusing options that it would ignore."""
    if options.subset is not None and entry.name != "datasets":
        raise ValueError(f"subset {options.subset!r}: only Hugging Face datasets have subsets; this is {entry.name}")
    if options.streaming and entry.name != "datasets":
        raise ValueError(f"streaming: only Hugging Face datasets ('datasets:user/name') stream; this is {entry.name}")
    return entry.load().list_episodes(source, options)


def _resolve_by_detection(name: str, text: str, options: ListOptions, *, only_video: bool) -> list[ResolvedSource]:
    """List what a path or a glob contains: videos and folders of images as one dataset, and each dataset."""
    left_out = _LeftOut()
    contents, base = _discover(name, left_out, only_video=only_video)
    videos = [(kind, path) for kind, path in contents if kind in ("video", "images")]
    if only_video and not videos:
        raise ValueError(f"source {text!r}: no video in it. {_looked_for()}")
    is_file = os.path.isfile(name)
    sources = [ResolvedSource(_list_videos(videos, base, text, options), base, base, is_file)] if videos else []
    unreadable: list[Exception] = []
    for kind, path in contents:
        if only_video or kind not in FORMATS:
            continue
        is_tar = path.is_file()
        try:
            listing = _list(FORMATS[kind], str(path), options)
        except (ValueError, OSError, LaraTokenizerError) as error:
            unreadable.append(error)
            continue
        sources.append(ResolvedSource(listing, base, path.parent if is_tar else path, is_tar))
    if unreadable and not sources:
        raise unreadable[0]
    # One unreadable dataset among several does not keep the others from being read.
    sources[0].listing.notes += [*left_out.notes(), *(f"left out: {error}" for error in unreadable)]
    return sources


def _list_videos(videos: Sequence[tuple[str, Path]], base: Path, text: str, options: ListOptions) -> Listing:
    if named := [camera for camera in options.cameras if camera != "all"]:
        raise ValueError(f"camera {named[0]!r}: source {text!r} is plain video, with one camera that has no name")
    for option, value in (("split", options.split), ("subset", options.subset), ("streaming", options.streaming)):
        if value:
            raise ValueError(f"{option}: source {text!r} is plain video, which has none. Leave --{option} out")
    reader_class = video.video_reader_class(options.decoder)
    episodes = []
    for kind, path in videos:
        name = path.relative_to(base).as_posix()
        parts = sequences_in(path) if kind == "images" else []
        readers: dict[str, FrameReader] = {
            f"{name}/{each.name}": video.ImageFolderReader(path, sequence=each) for each in parts
        }
        if len(readers) < max(len(parts), 1):
            readers = {name: video.ImageFolderReader(path) if kind == "images" else reader_class(path)}
        episodes += [Episode(each, reader) for each, reader in readers.items()]
    kinds = {kind for kind, _ in videos}
    names = {"video": "video files", "images": "folders of images"}
    listing = Listing(
        " and ".join(names[kind] for kind in names if kind in kinds), Path(text).name or base.name, episodes
    )
    if (dataset := _dataset_around(base)) is not None:
        listing.notes.append(
            f"it lies inside the dataset {dataset}, whose videos may hold several episodes each: name the dataset's "
            "folder, or pairs may reach from one episode into the next"
        )
    return listing


def _discover(name: str, left_out: _LeftOut, *, only_video: bool) -> tuple[list[tuple[str, Path]], Path]:
    """Everything that a path or a glob contains, as (kind, path), and the folder that ids are relative to.

    `left_out` is extended by what is not read.
    `kind` is "video" (a file), "images" (a folder) or a name in `FORMATS`. Raises ValueError where nothing is found.
    """
    path = Path(os.path.abspath(name))
    if path.is_dir():
        contents = list(_walk(path, left_out))
        # A folder of images is itself an episode, so its id has to contain its name.
        base = path.parent if ("images", path) in contents else path
    elif path.exists():
        return [(_file_kind(path, name), path)], path.parent
    elif glob.has_magic(name):
        contents = list(_match(name, left_out))
        base = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
    else:
        hint = ""
        if not only_video and is_hub_id(name):
            hint = f". If it is on the Hub, write 'lerobot:{name}' or 'datasets:{name}'"
        raise ValueError(f"source {name!r}: no such file or folder{hint}. Readable is {READABLE}")
    if not contents:
        dataset = _dataset_around(path)
        hint = f" It lies inside the dataset {dataset}: name that folder." if dataset else ""
        hint += "".join(f" {note}." for note in left_out.notes())
        raise ValueError(f"source {name!r}: nothing readable in it.{hint} {_looked_for()}")
    return contents, base


def _looked_for() -> str:
    """The files by which each format is detected, for errors."""
    markers = [marker for entry in FORMATS.values() if (marker := entry.load().LOOKED_FOR)]
    return (
        f"Looked for {', '.join(markers)}, files ending in {', '.join(VIDEO_SUFFIXES)}, and folders with numbered "
        f"images ending in {', '.join(IMAGE_SUFFIXES)}"
    )


@dataclass(slots=True)
class _LeftOut(LeftOut):
    """Paths that a walk did not enter, and counts of recordings whose suffix is not read."""

    suffixes: Counter[str] = field(default_factory=Counter)
    colorless: list[str] = field(default_factory=list)  # depth or masks beside the colour film of the same view

    def notes(self) -> list[str]:
        """One sentence for each kind."""
        notes = LeftOut.notes(self)
        if self.colorless:
            first = f"{self.colorless[0]}{' ...' * (len(self.colorless) > 1)}"
            notes.append(
                f"{len(self.colorless)} recordings of depth or masks beside their colour film are left out: {first}. "
                "Name them to read them"
            )
        if self.suffixes:
            kinds = ", ".join(f"{suffix} ({count})" for suffix, count in sorted(self.suffixes.items()))
            notes.append(
                f"{self.suffixes.total()} files with other suffixes were not looked at: {kinds}. A glob such as "
                f"'*{min(self.suffixes)}' names them; raw streams (.h264) need --fps"
            )
        return notes


def _walk(folder: Path, left_out: _LeftOut) -> Iterator[tuple[str, Path]]:
    """Everything readable below a folder, as (kind, path); `left_out` is extended. Hidden names are skipped.

    Images in a folder with videos are taken for thumbnails and skipped too.
    """
    for here, entries in walk_folders(folder, left_out):
        names = {e.name for e in entries}
        try:
            dataset = next((each for each in FORMATS.values() if each.detects(here, names)), None)
        except OSError as error:  # a folder may be listed but not entered
            left_out.unreadable.append(f"{here} ({error.strerror})")
            continue
        if dataset is not None:
            yield dataset.name, here
            if not dataset.ignores_other_files:
                entries.clear()
        videos = [Path(e.path) for e in entries if e.name.lower().endswith(VIDEO_SUFFIXES) and is_file(e)]
        colorless = _beside_color([path.name for path in videos], names)
        left_out.colorless += [os.path.relpath(path, folder) for path in videos if path.name in colorless]
        yield from (("video", path) for path in videos if path.name not in colorless)
        if not videos and any(is_numbered_image(e.name) for e in entries):
            if here != folder and _beside_color([here.name], os.listdir(here.parent)):
                left_out.colorless.append(os.path.relpath(here, folder))
            else:
                yield "images", here
        left_out.suffixes.update(
            Path(e.name).suffix.lower() for e in entries if e.name.lower().endswith(UNREAD_SUFFIXES)
        )


def _beside_color(names: Iterable[str], neighbours: Iterable[str]) -> set[str]:
    """Those recordings of depth or masks that a colour film of the same view is beside: left_depth.mp4, left.mp4.

    A view is what is left of a name without words for colour, depth and masks.
    """
    colorless = {name for name in names if not is_color_camera(os.path.splitext(name)[0])}
    if not colorless:
        return colorless
    films = [Path(name).stem for name in neighbours if Path(name).suffix.lower() in ("", *VIDEO_SUFFIXES)]
    views = {without_color_words(film) for film in films if is_color_camera(film)}
    return {name for name in colorless if without_color_words(Path(name).stem) in views}


def _match(pattern: str, left_out: _LeftOut) -> Iterator[tuple[str, Path]]:
    """Everything that a glob matches: videos, files of any suffix that the glob spells out, and contents of folders."""
    suffix = Path(pattern).suffix.lower()
    for hit in find_paths(pattern, left_out):
        path = Path(os.path.abspath(hit))
        if path.is_dir():
            yield from _walk(path, left_out)
        elif path.suffix.lower() in {*VIDEO_SUFFIXES, suffix} - {*IMAGE_SUFFIXES}:
            yield "video", path


def _file_kind(path: Path, text: str) -> str:
    """The kind of a single file. Raises ValueError for one that is not an episode by itself."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        raise ValueError(f"source {text!r}: one image is not an episode. Name the folder that holds the sequence")
    if suffix in (".csv", ".tsv", ".txt"):
        raise ValueError(f"source {text!r}: no video. If it is a list of clips, write 'list:{text}' (or --from {text})")
    if suffix in (".json", ".jsonl", ".parquet", ".npz", ".npy", ".h5", ".hdf5"):
        raise ValueError(f"source {text!r}: no video. Name the folder of the dataset that it belongs to")
    return "webdataset" if suffix == ".tar" else "video"


def _dataset_around(folder: Path) -> Path | None:
    """The LeRobotDataset that a folder is part of, whose videos may each contain several episodes."""
    around = (parent for parent in list(folder.parents)[:3] if (parent / "meta").is_dir())
    return next((parent for parent in around if FORMATS["lerobot"].detects(parent, {"meta"})), None)
