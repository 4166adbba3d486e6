"""`draw_predictions`: frame t, the true future frame and the one that the decoder predicts from the codes, drawn.

Used by `lara-tok decode`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lara_tokenizer._files import summarize_names
from lara_tokenizer.encode.job import open_job
from lara_tokenizer.encode.preview.picture import save
from lara_tokenizer.encode.preview.predictions import gain_over_copying, predict
from lara_tokenizer.table.metadata import read_metadata
from lara_tokenizer.table.reader import read_tokens
from lara_tokenizer.table.source import Source, recorded_load_options

_DEFAULT_ROWS = {".png": 6, ".gif": 48, ".mp4": 240}
_COLUMNS = ["episode", "camera", "stride", "frame_index", "future_frame_index", "timestamp", "codes", "valid"]


def draw_predictions(
    tokens: str | os.PathLike[str],
    source: Source,
    out: str | os.PathLike[str],
    *,
    episode: str | None = None,
    camera: str | None = None,
    stride: str | None = None,
    frames: Sequence[int] | None = None,
    model: str | os.PathLike[str] | None = None,
    device: str | None = None,
    from_list: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Draw predicted futures from a table's codes and its source's frames t, and how good they are.

    Args:
        tokens: the table, file or folder.
        source: the video it was made from.
        out: a .png with one row per pair, or a .gif or .mp4 with one frame per pair.
        episode: its id; default: the first in the table.
        camera, stride: of the episode's; default: its first.
        frames: first frames of the pairs; default: some, evenly spread.
        model: the checkpoint; default: the id in the metadata.
        device: default: a GPU if there is one.
        from_list: the list of clips, if the table was made from one.

    Returns:
        {"out", "episode", "camera", "stride", "frames", "gain_over_copying", "gains"}: what was drawn. `gains` are
        those of the pairs, `gain_over_copying` that of all: 1 - error / error of showing frame t again; None where the
        two frames are equal.

    Raises:
        JobMismatchError: the checkpoint's weights are not those that made the table.
        ValueError: there is no such episode, camera, stride or frame, the table has no codes, or `out` has another
            suffix.

    >>> draw_predictions("tokens.parquet", "videos/", "futures.png")["frames"]  # doctest: +SKIP
    [0, 6, 12, 18, 24, 30]
    """
    path, file = Path(tokens), Path(out)
    kind = file.suffix.lower()
    if kind not in _DEFAULT_ROWS:
        raise ValueError(f"out {str(out)!r}: takes a name ending in {', '.join(_DEFAULT_ROWS)}")
    metadata = read_metadata(path)
    if metadata["model"]["codebook_size"] is None:
        raise ValueError(f"{path}: made by a continuous bottleneck; it has no codes to decode")
    rows = _choose(_rows(path, episode, camera, stride), frames, _DEFAULT_ROWS[kind])
    load = recorded_load_options(metadata, source, from_list)
    with open_job(source, model or metadata["model"]["id"], device=device, **load) as job:
        job.check_made(path, metadata)
        predictions = list(predict(job, rows))
    file.parent.mkdir(parents=True, exist_ok=True)
    save(file, rows, predictions)
    return {
        "out": str(file),
        "episode": rows[0]["episode"],
        "camera": rows[0]["camera"],
        "stride": rows[0]["stride"],
        "frames": [row["frame_index"] for row in rows],
        "gain_over_copying": gain_over_copying(predictions),
        "gains": [gain_over_copying([each]) for each in predictions],
    }


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
