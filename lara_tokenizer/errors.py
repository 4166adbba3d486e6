"""Errors that people see. Each says what came, what is taken and what to do; none needs a traceback."""

from __future__ import annotations


class LaraTokenizerError(Exception):
    """Base of this package's own errors."""


class EpisodeReadError(LaraTokenizerError):
    """Something of one episode cannot be read: its frames, its actions, its text. Other episodes are unharmed.

    >>> str(EpisodeReadError("clip.mp4", "no video stream"))
    'clip.mp4: no video stream'
    """

    def __init__(self, path: object, reason: str) -> None:
        # Both go to Exception's args, so that the error survives the trip from a worker process.
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoDecodeError(EpisodeReadError):
    """A video, or one frame of it, cannot be read."""


class JobMismatchError(LaraTokenizerError):
    """The target belongs to another job (other weights, other options, another source)."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line: without the stack traces that native libraries add.

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
