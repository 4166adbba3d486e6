"""Instructions as files hold them: bytes of some encoding, strings with a byte order mark, lists of strings."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decode_text(data: bytes, errors: str = "replace") -> str:
    """Text from UTF-8, or from UTF-16 that its byte order mark tells; bytes that are neither become U+FFFD.

    With `errors` "strict" they raise UnicodeDecodeError.

    >>> decode_text(b"\\xef\\xbb\\xbfpick up"), decode_text("pick".encode("utf-16"))
    ('pick up', 'pick')
    """
    return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig", errors)


def instruction(value: Any) -> str | None:
    """The instruction in a value: a string or UTF-8 bytes without spaces around it, or the first one of a list.

    None for an empty text, for a list without one, and for values of other types.

    >>> instruction(" pick up "), instruction(b"open"), instruction(["", "push", "shove"]), instruction({"en": 1})
    ('pick up', 'open', 'push', None)
    """
    if isinstance(value, bytes):
        value = decode_text(value)
    if isinstance(value, str):
        return value.removeprefix("\ufeff").strip() or None
    if isinstance(value, Sequence):
        flat = (text for each in value if isinstance(each, str | bytes) and (text := instruction(each)))
        return next(flat, None)
    return None
