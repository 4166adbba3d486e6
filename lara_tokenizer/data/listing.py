"""What a reader of one format found where a person pointed, and the choice of cameras that all formats share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lara_tokenizer.data.episode import Episode


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What a source was found to be.

    `revision` is a Hub commit, or the sha256 of a list; `notes` say what a person should know.
    """

    name: str
    format: str
    episodes: int
    revision: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        is_on_hub = "/" in self.name
        at = f" at {self.revision[:12]}" if self.revision and is_on_hub else ""
        count = f"{self.episodes:,} episode{'s' * (self.episodes != 1)}"
        return "; ".join([f"{self.name}{at}: {self.format}, {count}", *self.notes])


@dataclass(slots=True)
class Found:
    """One source, listed: no frame is decoded yet.

    `format` is for people and metadata ("LeRobotDataset v2.1"), `name` the folder's or the Hub's name for it. Ids of
    `episodes` are unique within it. `notes` say what a person should know (a camera without files, a missing shard).
    `revision` is a Hub commit, or the sha256 of a list. `needs_rate`: neither the dataset nor its pictures have a frame
    rate.
    """

    format: str
    name: str
    episodes: list[Episode]
    notes: list[str] = field(default_factory=list)
    revision: str | None = None
    needs_rate: bool = False

    def facts(self) -> SourceFacts:
        """The same for people: counts in place of episodes."""
        return SourceFacts(self.name, self.format, len(self.episodes), self.revision, tuple(self.notes))


def choose_cameras(
    available: Sequence[str], asked: Sequence[str], source: object, preferred: str | None = None
) -> tuple[tuple[str, ...], list[str]]:
    """The cameras to read, in the source's order, and a note where the choice was ours.

    `available` are the source's cameras in its own order; `asked` are names, their last parts ("top" for
    "observation.images.top") or "all"; nothing asked takes `preferred`, or the first. Raises ValueError for a source
    without cameras, and for a camera that it does not have or that could be several.

    >>> choose_cameras(["observation.images.top", "observation.images.wrist"], ["wrist"], "demos")
    (('observation.images.wrist',), [])
    >>> choose_cameras(["top", "wrist"], [], "demos")[1]
    ["took camera 'top' of top, wrist"]
    """
    if not available:
        raise ValueError(f"{source}: it has no camera: no column, file or feature of it holds pictures")
    if not asked:
        chosen = preferred if preferred is not None and preferred in available else available[0]
        notes = [f"took camera {chosen!r} of {', '.join(available)}"] if len(available) > 1 else []
        return (chosen,), notes
    wanted: set[str] = set()
    for name in asked:
        matches = [name] if name in available else [each for each in available if last_part(each) == name]
        if name == "all":
            matches = list(available)
        elif len(matches) != 1:
            what = "names several of its cameras" if matches else "is no camera of it"
            raise ValueError(f"{source}: camera {name!r} {what}. There are: {', '.join(available)}; or take 'all'")
        wanted.update(matches)
    return tuple(camera for camera in available if camera in wanted), []


def last_part(camera: str) -> str:
    """What people call a camera for short.

    >>> last_part("observation.images.top"), last_part("wrist/rgb")
    ('top', 'rgb')
    """
    return camera.replace("/", ".").rpartition(".")[2]
