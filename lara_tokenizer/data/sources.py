"""One source after the other: what it is, which reader takes it, and what its episodes are called among others."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lara_tokenizer.data.clip_list import find_list
from lara_tokenizer.data.discover import LOOKED_FOR, READABLE, Place, dataset_around, discover
from lara_tokenizer.data.episode import Episode
from lara_tokenizer.data.huggingface.dataset import find_datasets
from lara_tokenizer.data.lerobot.dataset import find_lerobot, is_hub_id
from lara_tokenizer.data.listing import Found
from lara_tokenizer.data.something_something import find_something_something
from lara_tokenizer.data.video.backends import video_reader_class
from lara_tokenizer.data.video.images import ImageFolderReader
from lara_tokenizer.data.video.reader import VideoReader
from lara_tokenizer.data.webdataset.dataset import find_webdataset

SCHEMES = ("video", "lerobot", "rlds", "datasets", "webdataset", "ssv2", "list")


@dataclass(slots=True)
class RootedSource:
    """A source and where it lies: `base` was named, `root` is the dataset's own folder; both None on the Hub.

    `is_file` marks a video, or a tar, that was named by itself: all of those together are one dataset.
    """

    found: Found
    base: Path | None
    root: Path | None
    is_file: bool = False

    def origin(self, episode: Episode) -> object:
        """What tells an episode from another of the same id: its file, or its dataset."""
        if isinstance(episode.reader, VideoReader):
            return episode.reader.path, episode.text
        return self.root, self.found.format, self.found.name, self.found.revision


@dataclass(frozen=True, slots=True)
class Finder:
    """The options that readers take, and one source at a time."""

    decoder: str
    cameras: tuple[str, ...]
    split: str | None
    subset: str | None
    streaming: bool

    def find(self, source: str | Path) -> list[RootedSource]:
        text = os.fspath(source)
        scheme, name = _scheme(text)
        if scheme == "list":
            return [self.find_list(name, [])]
        if scheme in ("lerobot", "datasets") and not os.path.exists(name):
            return [RootedSource(self._dataset(scheme, name), None, None)]
        if scheme is None and re.search(r"[*?{\[].*\.tar$", name):
            scheme = "webdataset"
        if scheme == "webdataset":
            return [RootedSource(self._dataset(scheme, name), *_folders(name))]
        if scheme not in (None, "video"):
            path = Path(os.path.abspath(name))
            if not path.exists():
                raise ValueError(f"source {text!r}: no such folder {name!r}")
            return [RootedSource(self._dataset(scheme, path), path, path)]
        if scheme is None and not os.path.exists(name) and is_hub_id(name) and "*" not in name:
            hint = f". If it is on the Hub, write 'lerobot:{name}' or 'datasets:{name}'"
            raise ValueError(f"source {text!r}: no such file or folder{hint}. Readable is {READABLE}")
        places, base = discover(name)
        return self._places(places, base, text, only_video=scheme == "video")

    def find_list(self, file: str | Path, sources: Sequence[str | Path]) -> RootedSource:
        if len(sources) > 1:
            raise ValueError(f"a list of clips takes one folder that its paths are relative to, got {len(sources)}")
        root = Path(sources[0]) if sources else None
        if root is not None and not root.is_dir():
            raise ValueError(f"source {str(root)!r}: no such folder; the paths of {file} are relative to it")
        base = Path(file).absolute().parent if root is None else root.absolute()
        return RootedSource(find_list(file, root=root, decoder=self.decoder), base, base)

    def _places(self, places: Sequence[Place], base: Path, text: str, *, only_video: bool) -> list[RootedSource]:
        videos = [place for place in places if place.kind in ("video", "images")]
        datasets = [] if only_video else [place for place in places if place.kind not in ("video", "images")]
        if only_video and not videos:
            raise ValueError(f"source {text!r}: no video in it. {LOOKED_FOR}")
        is_one_video = os.path.isfile(text.removeprefix("video:"))
        roots = [RootedSource(self._videos(videos, base, text), base, base, is_one_video)] if videos else []
        left_out: list[ValueError] = []
        for place in datasets:
            is_tar = place.path.is_file()
            folder = place.path.parent if is_tar else place.path
            try:
                roots.append(RootedSource(self._dataset(place.kind, place.path), base, folder, is_tar))
            except ValueError as error:
                left_out.append(error)
        if left_out and not roots:
            raise left_out[0]
        # One among many that cannot be read is no reason to read none.
        roots[0].found.notes += [f"left out: {error}" for error in left_out]
        return roots

    def _videos(self, videos: Sequence[Place], base: Path, text: str) -> Found:
        if named := [camera for camera in self.cameras if camera != "all"]:
            raise ValueError(f"camera {named[0]!r}: source {text!r} is plain video, with one camera that has no name")
        reader_class = video_reader_class(self.decoder)
        episodes = [
            Episode(
                video.path.relative_to(base).as_posix(),
                ImageFolderReader(video.path) if video.kind == "images" else reader_class(video.path),
            )
            for video in videos
        ]
        kinds = Counter(video.kind for video in videos)
        names = {"video": "video files", "images": "folders of images"}
        found = Found(
            " and ".join(names[kind] for kind in names if kinds[kind]), Path(text).name or base.name, episodes
        )
        if (inside := dataset_around(base)) is not None:
            found.notes.append(
                f"it lies inside the dataset {inside}, whose videos may hold several episodes each: name the dataset's "
                "folder, or pairs may reach from one episode into the next"
            )
        return found

    def _dataset(self, scheme: str, name: str | Path) -> Found:
        if self.subset is not None and scheme != "datasets":
            raise ValueError(f"subset {self.subset!r}: only Hugging Face datasets have subsets; this is {scheme}")
        if self.streaming and scheme != "datasets":
            raise ValueError(f"streaming: only Hugging Face datasets ('datasets:user/name') stream; this is {scheme}")
        match scheme:
            case "lerobot":
                return find_lerobot(name, cameras=self.cameras, decoder=self.decoder)
            case "rlds":
                from lara_tokenizer.data.rlds.dataset import find_rlds  # late: protobuf is for those who have RLDS

                return find_rlds(Path(name), cameras=self.cameras, split=self.split)
            case "datasets":
                return find_datasets(
                    str(name),
                    cameras=self.cameras,
                    split=self.split,
                    subset=self.subset,
                    streaming=self.streaming,
                    decoder=self.decoder,
                )
            case "webdataset":
                return find_webdataset(name, cameras=self.cameras, decoder=self.decoder)
            case _:
                return find_something_something(name, split=self.split, decoder=self.decoder)


def _scheme(text: str) -> tuple[str | None, str]:
    """ "lerobot:a/b" -> ("lerobot", "a/b"); a path that exists is a path, whatever its name."""
    # Two letters at least: one would be a Windows drive.
    prefix = None if os.path.exists(text) else re.match(r"([a-z][a-z0-9]+):", text)
    if prefix is None:
        return None, text
    if prefix[1] not in SCHEMES:
        raise ValueError(f"source {text!r}: there is no format {prefix[1]!r}. There are {', '.join(SCHEMES)}")
    return prefix[1], text[prefix.end() :]


def _folders(name: str) -> tuple[Path, Path]:
    """Base and root of tars: the folder before the first brace or glob."""
    path = Path(os.path.abspath(re.split(r"[*?{\[]", name)[0]))
    folder = path if path.is_dir() else path.parent
    return folder, folder


def merged(roots: Sequence[RootedSource]) -> list[Found]:
    """One `Found` a dataset, by name, with ids that are unique among all of them.

    What was named twice is read once. Raises ValueError where two different episodes would have one id.
    """
    common = _common_folder(roots)
    founds: list[tuple[str, Found]] = []
    files: dict[str, Found] = {}  # by format
    seen: dict[str, object] = {}
    for rooted in roots:
        found = rooted.found
        prefix = rooted.root.relative_to(common).as_posix() if rooted.root else found.name if len(roots) > 1 else "."
        found.episodes = list(_new_episodes(rooted, "" if prefix == "." else f"{prefix}/", seen))
        if rooted.is_file and (others := files.setdefault(found.format, found)) is not found:
            others.episodes += found.episodes
            others.notes += [note for note in found.notes if note not in others.notes]
            others.name = common.name
            continue
        founds.append((prefix, found))
    names = Counter(found.name for _, found in founds)
    for prefix, found in founds:
        for episode in found.episodes:
            episode.dataset = found.name if names[found.name] == 1 else f"{found.name} ({prefix})"
    return sorted((found for _, found in founds), key=lambda found: (found.name, found.format))


def _common_folder(roots: Sequence[RootedSource]) -> Path:
    """The folder that local ids are relative to."""
    local = [rooted.base for rooted in roots if rooted.base is not None]
    common = Path(os.path.commonpath(local)) if local else Path()
    # Beside datasets of the Hub, which are called by their names, a folder is called by its name too.
    return common.parent if local and len(local) < len(roots) else common


def _new_episodes(rooted: RootedSource, prefix: str, seen: dict[str, object]) -> Iterator[Episode]:
    """The episodes under their ids among all sources, less those that an earlier source gave; `seen` is added to."""
    for episode in rooted.found.episodes:
        episode.id = prefix + episode.id
        origin = rooted.origin(episode)
        if episode.id not in seen:
            seen[episode.id] = origin
            yield episode
        elif seen[episode.id] != origin:
            raise ValueError(
                f"two different episodes are called {episode.id!r}, one of them in {rooted.found.name}: encode these "
                "sources one by one"
            )
