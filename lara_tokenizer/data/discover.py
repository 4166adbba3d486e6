"""From a path or a glob to what lies there: datasets of a known format, and videos and folders of images.

Looks at names, and at the small files by which datasets are known. Opens no video.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.data.lerobot.dataset import is_lerobot
from lara_tokenizer.data.something_something import is_something_something
from lara_tokenizer.data.video.images import IMAGE_SUFFIXES, is_numbered_image
from lara_tokenizer.data.video.reader import VIDEO_SUFFIXES
from lara_tokenizer.data.webdataset.dataset import is_webdataset

READABLE = (
    "a video file, a folder of videos, a folder of numbered images, a dataset's folder (LeRobotDataset, RLDS, "
    "Hugging Face datasets, WebDataset tars, Something-Something), a glob, a list of clips as 'list:clips.csv', or a "
    "dataset of the Hub as 'lerobot:user/name' or 'datasets:user/name'"
)
LOOKED_FOR = (
    "Looked for meta/info.json (LeRobotDataset), features.json and dataset_info.json (RLDS), *.tar with videos or "
    "frames (WebDataset), state.json, dataset_dict.json or *.parquet with videos or images (Hugging Face datasets), "
    f"labels/*.json with *.webm (Something-Something), files ending in {', '.join(VIDEO_SUFFIXES)}, and folders with "
    f"numbered images ending in {', '.join(IMAGE_SUFFIXES)}"
)

# Beside the files of a dataset a few others may lie, such as a table of tokens.
_TABLES_LOOKED_AT = 4


@dataclass(frozen=True, slots=True)
class Place:
    """Something readable: `kind` is "video" (a file), "images" (a folder of them) or a scheme of `load_episodes`."""

    kind: str
    path: Path


def discover(text: str) -> tuple[list[Place], Path]:
    """What a path or a glob names, and the folder that ids are relative to. Raises ValueError where that is nothing."""
    path = Path(os.path.abspath(text))
    if path.is_dir():
        places = list(walk(path))
        # A folder of images is an episode itself: its id needs a name.
        root = path.parent if Place("images", path) in places else path
    elif path.exists():
        return [_file(path, text)], path.parent
    elif glob.has_magic(text):
        places = list(_match(text))
        root = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
    else:
        raise ValueError(f"source {text!r}: no such file or folder. Readable is {READABLE}")
    if not places:
        around = dataset_around(path)
        hint = f" It lies inside the dataset {around}: name that folder." if around else ""
        raise ValueError(f"source {text!r}: nothing readable in it.{hint} {LOOKED_FOR}")
    return places, root


def walk(folder: Path) -> Iterator[Place]:
    """What is readable below `folder`: datasets whole, videos, and folders of images in the place of their images.

    Hidden names are left out. Images beside videos are taken for thumbnails and left out too.
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
        if (kind := _dataset(here, {e.name for e in entries})) is not None:
            yield Place(kind, here)
            if kind != "webdataset":
                continue  # whatever else lies in it belongs to it; tars leave other files alone
        videos = [Path(e.path) for e in entries if e.name.lower().endswith(VIDEO_SUFFIXES) and not e.is_dir()]
        yield from (Place("video", path) for path in videos)
        if not videos and any(is_numbered_image(e.name) for e in entries):
            yield Place("images", here)
        stack += [Path(e.path) for e in entries if e.is_dir()]


def _dataset(folder: Path, names: set[str]) -> str | None:
    """The format of a folder that is a dataset, as a scheme; `names` are those in it, to ask the disk for little.

    A LeRobotDataset holds parquet too, so the order matters.
    """
    if "meta" in names and is_lerobot(folder):
        return "lerobot"
    if "features.json" in names or any(name[0].isdigit() and name.count(".") == 2 for name in names):
        from lara_tokenizer.data.rlds.dataset import rlds_root  # late: protobuf is for those who have RLDS

        if rlds_root(folder) is not None:
            return "rlds"
    if any(name == "labels" or name.endswith(".json") for name in names) and is_something_something(folder):
        return "ssv2"
    if any(name.endswith(".tar") for name in names) and is_webdataset(folder):
        return "webdataset"
    is_saved = {"dataset_dict.json", "state.json", "data"} & names or any(name.endswith(".parquet") for name in names)
    return "datasets" if is_saved and is_saved_dataset(folder) else None


def dataset_around(folder: Path) -> Path | None:
    """The LeRobotDataset that a folder lies in."""
    return next((parent for parent in list(folder.parents)[:3] if is_lerobot(parent)), None)


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder is what Hugging Face `datasets` saves: save_to_disk, or parquet with videos or images in it.

    Parquet alone says nothing: tables of tokens are parquet too.
    """
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return True
    tables = next((found for name in ("*.parquet", "data/*.parquet") if (found := sorted(folder.glob(name)))), [])
    return any(_holds_pictures(table) for table in tables[:_TABLES_LOOKED_AT])


def _holds_pictures(table: Path) -> bool:
    try:
        features = (pq.read_schema(table).metadata or {}).get(b"huggingface", b"")
    except (pa.ArrowException, OSError):
        return False
    return b'"Video"' in features or b'"Image"' in features


def _file(path: Path, text: str) -> Place:
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        raise ValueError(f"source {text!r}: one image is no episode. Name the folder that holds the sequence")
    if suffix == ".tar":
        return Place("webdataset", path)
    if suffix in (".csv", ".tsv", ".txt"):
        raise ValueError(f"source {text!r}: no video. If it is a list of clips, write 'list:{text}' (or --from {text})")
    if suffix in (".json", ".jsonl", ".parquet", ".npz", ".npy", ".h5", ".hdf5"):
        raise ValueError(f"source {text!r}: no video. Name the folder of the dataset that it belongs to")
    return Place("video", path)


def _match(pattern: str) -> Iterator[Place]:
    """What a glob matches: videos (any file where the glob itself spells its ending), and all below a folder."""
    spelled = Path(pattern).suffix.lower()
    for hit in sorted(glob.glob(pattern, recursive=True)):
        path = Path(os.path.abspath(hit))
        if path.is_dir():
            yield from walk(path)
        elif path.suffix.lower() in {*VIDEO_SUFFIXES, spelled} - {*IMAGE_SUFFIXES}:
            yield Place("video", path)
