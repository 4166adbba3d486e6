"""Two clips, one with a name and an instruction that are markup, and a table of random codes for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from token_tables import write_table

FRAMES = {"a <b>.mp4": 14, "long/b.mp4": 20}


@pytest.fixture(scope="session")
def clips(tmp_path_factory, moving_square, write_video) -> Path:
    """A folder of clips, 64 x 64, at 10 frames per second."""
    folder = tmp_path_factory.mktemp("clips")
    for seed, (name, count) in enumerate(FRAMES.items()):
        write_video(folder / name, moving_square(count, seed=seed, step=5))
    return folder


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """A table for `clips`: stride 5f, N 4 codes of K 16, the instruction "do <episode>"; nine and fifteen moments."""
    sequences = {(name, "", "5f"): count for name, count in FRAMES.items()}
    return write_table(tmp_path_factory.mktemp("table") / "tokens.parquet", sequences, columns=("text",), source=[])
