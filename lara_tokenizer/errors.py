"""Exceptions with messages for users: what was given, what is accepted, what to do. None needs a traceback."""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"


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
        return printable(f"{self.path}: {self.reason}")


class VideoDecodeError(EpisodeReadError):
    """A video or image sequence, or one frame of it, cannot be decoded."""


class JobMismatchError(LaraTokenizerError):
    """The output was begun by another job: other weights, other options or another source."""


def printable(text: object) -> str:
    r"""A name or text as one line for a terminal or log: control characters and undecodable bytes are escaped.

    Names come from other people's files. An escape sequence in one would clear the screen or colour an error green, a
    newline would forge a line of output. Escaped are the Unicode categories Cc (C0 and C1 controls), Cf (direction
    overrides, but not the joiners of Persian and of emoji), Cs (bytes of a name that are not UTF-8), Zl and Zp.

    >>> print(printable("clip \x1b[31m.mp4"), printable("a\nb"), printable("caf\udce9.mp4"), printable("Tür 中"))
    clip \x1b[31m.mp4 a\nb caf\udce9.mp4 Tür 中
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_printable_character, text))


def _printable_character(character: str) -> str:
    is_escaped = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _JOINERS
    return character.encode("unicode_escape").decode() if is_escaped else character


def printable_lines(text: object) -> str:
    r"""A text of several lines, each as `printable`: the newlines stay.

    >>> print(printable_lines("Usage: encode\n\x1b[2Jdone"))
    Usage: encode
    \x1b[2Jdone
    """
    return "\n".join(map(printable, str(text).split("\n")))


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
