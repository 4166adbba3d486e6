"""The rows of a table that are drawn: of one episode, camera and stride."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lara_tokenizer._files import summarize_names
from lara_tokenizer.table.reader import read_tokens

_COLUMNS = ["episode", "camera", "stride", "frame_index", "future_frame_index", "timestamp", "codes", "valid"]


def choose_rows(
    tokens: Path,
    episode: str | None,
    camera: str | None,
    stride: str | None,
    frames: Sequence[int] | None,
    most: int,
) -> list[dict[str, Any]]:
    """Valid rows of a table.

    Args:
        tokens: the table.
        episode, camera, stride: one each; None for the first there is.
        frames: first frames of the pairs; None for `most`, evenly spread.

    Raises ValueError for an episode, camera, stride or frame that the table does not have.
    """
    return _choose(_rows(tokens, episode, camera, stride), frames, most)


def _rows(tokens: Path, episode: str | None, camera: str | None, stride: str | None) -> list[dict[str, Any]]:
    """The valid rows of one episode, camera and stride, each the first where it is not given."""
    table = read_tokens(tokens, _COLUMNS)
    if not table.num_rows:
        raise ValueError(f"{tokens}: the table is empty")
    wanted = {"episode": episode, "camera": camera, "stride": stride}
    where = str(tokens)
    for column, value in wanted.items():
        table, name = _with(table, column, value, where)
        where = f"{where}, {column} {name!r}"
    table = table.filter(pc.field("valid"))
    if not table.num_rows:
        raise ValueError(f"{where}: no valid pair")
    return table.to_pylist()


def _with(table: pa.Table, column: str, value: str | None, where: str) -> tuple[pa.Table, str]:
    """The rows with a value, or with the first one there is, and that value."""
    names = sorted(table[column].unique().to_pylist())
    name = names[0] if value is None else value
    if name not in names:
        raise ValueError(f"{column} {name!r} is not in {where}. There are: {summarize_names(map(str, names), 5)}")
    return table.filter(pc.equal(table[column].cast(pa.string()), name)), name


def _choose(rows: list[dict[str, Any]], frames: Sequence[int] | None, most: int) -> list[dict[str, Any]]:
    if frames is None:
        return [rows[index] for index in sorted({*np.linspace(0, len(rows) - 1, most).astype(int).tolist()})]
    by_frame = {row["frame_index"]: row for row in rows}
    if missing := [frame for frame in frames if frame not in by_frame]:
        raise ValueError(
            f"frame {missing[0]}: no valid pair starts there. They start at {min(by_frame)} to {max(by_frame)}"
        )
    return [by_frame[frame] for frame in frames]
