"""Names of episodes and cameras as paths: ASCII, below where they are put, other names for others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from urllib.parse import quote

_SAFE = " #=,+@()[]"  # besides letters, digits and "_.-~"
_LONGEST_COMPONENT = 255  # bytes, of Linux' and macOS' file systems
_DIGEST = 16  # hex digits that stand for the end of a name that is too long
_EMPTY = "%"  # what no text is written as


def safe_component(text: str) -> str:
    """A part of a path, written as in a URL: "/" too, "." and "..", and "__" in front, which WebDataset takes for its
    own. One that no file system has room for ends in a digest.

    >>> safe_component("wrist/left"), safe_component(".."), safe_component("")
    ('wrist%2Fleft', '%2E%2E', '%')
    """
    quoted = quote(text, safe=_SAFE, errors="surrogateescape")
    if not quoted.strip("."):
        return quoted.replace(".", "%2E") or _EMPTY
    if quoted.startswith("__"):
        quoted = "%5F" + quoted[1:]
    return shortened(quoted, _LONGEST_COMPONENT)


def safe_path(*parts: str) -> str:
    """Parts one below the other, each of them a name that may have folders of its own. Never absolute, never upwards.

    >>> safe_path("kitchen/a.mp4", "wrist"), safe_path("../a")
    ('kitchen/a.mp4/wrist', '%2E%2E/a')
    """
    return "/".join(safe_component(component) for part in parts for component in part.split("/"))


def shortened(path: str, longest: int) -> str:
    """A path of at most `longest` characters; one that had to be cut ends in a digest of all of it."""
    if len(path) <= longest:
        return path
    digest = hashlib.sha256(path.encode()).hexdigest()[:_DIGEST]
    return f"{path[: longest - _DIGEST - 1].rstrip('/.')}-{digest}"


def track_path(episode: str, camera: str) -> str:
    """An episode's path, and the camera below it where it has a name.

    >>> track_path("kitchen/a.mp4", ""), track_path("kitchen/a.mp4", "wrist/left")
    ('kitchen/a.mp4', 'kitchen/a.mp4/wrist%2Fleft')
    """
    return f"{safe_path(episode)}/{safe_component(camera)}" if camera else safe_path(episode)


def check_distinct(tracks: Iterable[tuple[str, str]], name_of: Callable[[str, str], str], what: str) -> None:
    """Raises ValueError where two of (episode, camera) have one name; `what` would bear it ("pictures")."""
    seen: dict[str, tuple[str, str]] = {}
    for track in tracks:
        other = seen.setdefault(name_of(*track), track)
        if other != track:
            raise ValueError(
                f"{what} of episode {track[0]!r} camera {track[1]!r} and of {other[0]!r} camera {other[1]!r} would "
                "have the same names. Export one of these cameras (--camera)."
            )
