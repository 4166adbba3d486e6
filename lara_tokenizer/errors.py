"""Exceptions with messages for users: what was given, what is accepted, what to do. None needs a traceback."""

from __future__ import annotations


class LaraTokenizerError(Exception):
    """Base class of this package's exceptions."""


class EpisodeReadError(LaraTokenizerError):
    """Frames, actions or text of one episode cannot be read; other episodes are unaffected.

    >>> str(EpisodeReadError("clip.mp4", "no video stream"))
    'clip.mp4: no video stream'
    """

    def __init__(self, path: object, reason: str) -> None:
        # Pickling rebuilds an exception from Exception's args, so both arguments must be among them: errors of worker
        # processes reach the main process that way.
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoDecodeError(EpisodeReadError):
    """A video or image sequence, or one frame of it, cannot be decoded."""


class JobMismatchError(LaraTokenizerError):
    """The output was begun by another job: other weights, other options or another source."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the stack traces that native libraries append.

    >>> first_line(OSError("disk full\\n  at write()")), first_line(KeyError())
    ('disk full', 'KeyError')
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__


def missing_extra(package: str, extra: str) -> ImportError:
    """The error for an optional dependency that is not installed.

    >>> str(missing_extra("metaworld", "sim"))
    "metaworld needs the 'sim' extra: pip install 'lara-tokenizer[sim]'"
    """
    return ImportError(f"{package} needs the '{extra}' extra: pip install 'lara-tokenizer[{extra}]'")
