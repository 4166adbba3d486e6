"""The episodes that a format lists at a path, and the options and camera choice that all formats share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lara_tokenizer.data.episode import Episode


@dataclass(frozen=True, slots=True)
class ListOptions:
    """Options of `load_episodes` that the formats apply; each format uses those that concern it."""

    cameras: tuple[str, ...] = ()  # names, last parts of names, or "all"; empty: the default camera
    decoder: str = "pyav"
    split: str | None = None
    subset: str | None = None  # configuration of a Hugging Face dataset
    streaming: bool = False  # leave a Hugging Face dataset on the Hub and download only what is read
    root: Path | None = None  # folder that the paths of a clip list are relative to; None: the list's own folder


DEFAULT_OPTIONS = ListOptions()

# Words in the name of a camera whose pictures are no colour video: depth maps, masks of objects, flow, normals, heat,
# and the infrared pictures of depth cameras.
_NOT_COLOR = re.compile(
    r"\w*depth\w*|disp(arit\w+)?|masks?|(sem|inst)?segs?|segm\w*|semantics?|panoptic|normals|(optical)?flow"
    r"|instances?|ids|(object|instance)ids?|heat(map)?s?|labelmaps?|point(cloud)?s|pointcloud|xyz|ir|infra(red)?|thermal"
)
_NORMALS = re.compile(r"normals?[\W_]*(maps?|images?)|surface[\W_]*normals?")
# Each name that these match has one of these parts.
_PARTS = (
    *("depth", "disp", "mask", "seg", "semantic", "panoptic", "normal", "flow", "instance", "ids", "heat", "labelmap"),
    *("point", "xyz", "ir", "infra", "thermal"),
)
_COLOR = ("rgb", "color", "colour", "image", "images", "img")


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """Description of a source for messages and for the metadata of a token table."""

    name: str
    format: str
    episodes: int  # number of episodes
    revision: str | None = None  # commit of a Hub repository, or SHA-256 of a clip list
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        is_on_hub = "/" in self.name
        at = f" at {self.revision[:12]}" if self.revision and is_on_hub else ""
        count = f"{self.episodes:,} episode{'s' * (self.episodes != 1)}"
        return "; ".join([f"{self.name}{at}: {self.format}, {count}", *self.notes])


@dataclass(slots=True)
class Listing:
    """The episodes of one source; no frame is decoded yet."""

    format: str  # for messages and metadata, such as "LeRobotDataset v2.1"
    name: str  # name of the folder or of the Hub repository
    episodes: list[Episode]  # episodes with ids that are unique within this listing
    notes: list[str] = field(default_factory=list)  # remarks for the user: a camera without files, a missing shard
    revision: str | None = None  # commit of a Hub repository, or SHA-256 of a clip list
    needs_rate: bool = False  # whether neither the dataset nor its images state a frame rate

    def info(self) -> SourceInfo:
        """Name, format, episode count and notes."""
        return SourceInfo(self.name, self.format, len(self.episodes), self.revision, tuple(self.notes))


def choose_cameras(
    available: Sequence[str],
    requested: Sequence[str],
    source: object,
    preferred: str | None = None,
    is_color: Callable[[str], bool] | None = None,
) -> tuple[tuple[str, ...], list[str]]:
    """The cameras to read, in the source's order, and notes about a default and about what "all" leaves out.

    Depth maps, masks and segmentations are stored like cameras, and are read only where they are named: neither the
    default nor "all" includes them, as their pictures would become action tokens like a film's.

    Args:
        available: the source's cameras in its own order, those without colour too.
        requested: names, last parts of names ("top" for "observation.images.top"), or "all".
        source: names the dataset in errors.
        preferred: default where nothing is requested and it is available; else the first camera with colour is.
        is_color: whether a camera is colour video; None: `is_color_camera`, by its name.

    Raises ValueError for a source without cameras, for one without a colour camera if none is named, and for a
    requested name that matches none or several.

    >>> choose_cameras(["observation.images.top", "observation.images.wrist"], ["wrist"], "demos")
    (('observation.images.wrist',), [])
    >>> choose_cameras(["top_depth", "top", "wrist"], [], "demos")
    (('top',), ["took camera 'top' of top_depth, top, wrist"])
    >>> choose_cameras(["top_depth", "top", "wrist"], ["all"], "demos")[0]
    ('top', 'wrist')
    """
    if not available:
        raise ValueError(f"{source}: it has no camera: no column, file or feature of it holds images")
    color = [camera for camera in available if (is_color or is_color_camera)(camera)]
    if not color and set(requested) <= {"all"}:
        raise ValueError(
            f"{source}: it has no colour camera, only {', '.join(map(repr, available))}. To read depth or masks, name "
            f"the camera: --camera {available[0]}"
        )
    if not requested:
        chosen = preferred if preferred is not None and preferred in available else color[0]
        notes = [f"took camera {chosen!r} of {', '.join(available)}"] if len(available) > 1 else []
        return (chosen,), notes
    selected: set[str] = set()
    for name in requested:
        matches = [name] if name in available else [each for each in available if last_part(each) == name]
        if name == "all":
            matches = color
        elif len(matches) != 1:
            problem = "names several of its cameras" if matches else "is no camera of it"
            raise ValueError(f"{source}: camera {name!r} {problem}. There are: {', '.join(available)}; or take 'all'")
        selected.update(matches)
    chosen_all = tuple(camera for camera in available if camera in selected)
    left_out = [camera for camera in available if camera not in selected] if "all" in requested else []
    notes = [f"'all' leaves out {', '.join(left_out)}: no colour video; name it to read it"] if left_out else []
    return chosen_all, notes


def last_part(camera: str) -> str:
    """The short name of a camera: the part after the last "." or "/".

    >>> last_part("observation.images.top"), last_part("wrist/rgb")
    ('top', 'rgb')
    """
    return camera.replace("/", ".").rpartition(".")[2]


def is_color_camera(name: str) -> bool:
    """Whether a camera is colour video by its name, not a depth map, mask, segmentation, flow or normals.

    >>> [is_color_camera(name) for name in ("observation.images.head_depth", "segmentRight", "cam_high", "masked")]
    [False, False, True, True]
    """
    lowered = name.lower()
    # Most names have none of these letters in them; a folder may hold a hundred thousand.
    if not any(part in lowered for part in _PARTS):
        return True
    return not (any(map(_NOT_COLOR.fullmatch, _words(name))) or _NORMALS.search(lowered))


def without_color_words(name: str) -> tuple[str, ...]:
    """The words and numbers of a name except those for colour, depth and masks: equal for recordings of one view.

    >>> without_color_words("left_depth_01"), without_color_words("rgb_left_01")
    (('left', '01'), ('left', '01'))
    """
    return tuple(word for word in _words(name) if not _NOT_COLOR.fullmatch(word) and word not in _COLOR)


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|\d+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
