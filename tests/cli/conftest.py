"""Running `lara-tok` in this process, and a folder of clips with a table made from it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest


class Ran(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def lara_tok(monkeypatch, capfd) -> Callable[..., Ran]:
    """lara_tok("encode", "videos/", "--out", path) -> Ran: through the entry point, errors and exit codes included."""
    from lara_tok.__main__ import main

    monkeypatch.setenv("TERM", "dumb")

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["lara-tok", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory, moving_square, write_video) -> Path:
    """Two clips of 30 and 24 frames at 10 frames per second."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "one.mp4", moving_square(30, seed=1, step=3))
    write_video(folder / "two.mp4", moving_square(24, seed=2, step=5))
    return folder


@pytest.fixture(scope="session")
def tokens(tmp_path_factory, clip_folder, tiny_checkpoint) -> Path:
    """The table of `clip_folder`, strides 0.5s and 1f."""
    from lara_tokenizer import encode_dataset

    out = tmp_path_factory.mktemp("tokens") / "tokens.parquet"
    encode_dataset(clip_folder, tiny_checkpoint, out=out, strides=["0.5s", "1f"], workers=0)
    return out
