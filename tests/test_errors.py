"""Names in messages: every control character is escaped, readable text of any language stays."""

from __future__ import annotations

import os
import sys
import unicodedata

import pytest

from lara_tokenizer.errors import EpisodeReadError, printable, printable_lines

CONTROLS = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in ("Cc", "Zl", "Zp")]


def test_no_control_character_is_left():
    shown = printable("".join(CONTROLS))
    assert shown.isascii()
    assert shown.isprintable()
    assert "\\x1b" in shown
    assert "\\x9b" in shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nerror: b", r"a\nerror: b"),
        ("\u202egpj.exe", r"\u202egpj.exe"),  # right-to-left override
        ("a\u2066b\u2069", r"a\u2066b\u2069"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
        ("Küche 厨房 кухня 👩\u200d🍳", "Küche 厨房 кухня 👩\u200d🍳"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_what_deceives_is_escaped_and_what_is_read_stays(name, shown):
    assert printable(name) == shown
    assert printable(shown) == shown


def test_lines_stay_lines_and_errors_are_one():
    assert printable_lines("a\x1b\nb\r\n") == "a\\x1b\nb\\r\n"
    assert str(EpisodeReadError("a\nb.mp4", "torn\x1b[2J")) == r"a\nb.mp4: torn\x1b[2J"
