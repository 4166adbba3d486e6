"""Names of episodes and cameras as relative paths: ASCII, inside their folder, and distinct for distinct names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from urllib.parse import quote

_SAFE = " #=,+@()[]"  # besides letters, digits and "_.-~"
_LONGEST_COMPONENT = 255  # bytes, of Linux' and macOS' file systems
_LONGEST_PATH = 1024  # of an episode, below an export: the system's limit, often 4096, is on whole paths
_DIGEST = 16  # hex digits that replace the end of a name that is too long
_EMPTY = "%"  # no other text is quoted as a lone percent sign


def safe_component(text: str) -> str:
    """One part of a path, percent-encoded as in a URL; one that no file system has room for ends in a digest.

    >>> safe_component("wrist/left"), safe_component(".."), safe_component("")
    ('wrist%2Fleft', '%2E%2E', '%')
    """
    quoted = quote(text, safe=_SAFE, errors="surrogateescape")
    if not quoted.strip("."):
        return quoted.replace(".", "%2E") or _EMPTY
    if quoted.startswith("__"):  # WebDataset reserves such names for itself
        quoted = "%5F" + quoted[1:]
    return shortened(quoted, _LONGEST_COMPONENT)


def safe_path(*parts: str) -> str:
    """Names joined into one path, never absolute or upwards; a "/" within a name makes folders.

    >>> safe_path("kitchen/a.mp4", "wrist"), safe_path("../a")
    ('kitchen/a.mp4/wrist', '%2E%2E/a')
    """
    return "/".join(safe_component(component) for part in parts for component in part.split("/"))


def shortened(path: str, longest: int) -> str:
    """A path of at most `longest` characters; one that had to be cut ends in a digest of the whole."""
    if len(path) <= longest:
        return path
    digest = hashlib.sha256(path.encode()).hexdigest()[:_DIGEST]
    return f"{path[: longest - _DIGEST - 1].rstrip('/.')}-{digest}"


def sequence_path(episode: str, camera: str) -> str:
    """An episode's path, followed by its camera where that has a name.

    One that no file system has room for ends in a folder named by a digest.

    >>> sequence_path("kitchen/a.mp4", ""), sequence_path("kitchen/a.mp4", "wrist/left")
    ('kitchen/a.mp4', 'kitchen/a.mp4/wrist%2Fleft')
    """
    path = f"{safe_path(episode)}/{safe_component(camera)}" if camera else safe_path(episode)
    if len(path) <= _LONGEST_PATH:
        return path
    return f"{path[:_LONGEST_PATH].rpartition('/')[0]}/{hashlib.sha256(path.encode()).hexdigest()}"


def check_distinct(sequences: Iterable[tuple[str, str]], name_of: Callable[[str, str], str], what: str) -> None:
    """Raises ValueError where two of (episode, camera) map to one name; `what` is the plural of what is named."""
    seen: dict[str, tuple[str, str]] = {}
    for sequence in sequences:
        other = seen.setdefault(name_of(*sequence), sequence)
        if other != sequence:
            raise ValueError(
                f"{what} of episode {sequence[0]!r} camera {sequence[1]!r} and of {other[0]!r} camera {other[1]!r} "
                "would have the same names. Export one of these cameras (--camera)."
            )
