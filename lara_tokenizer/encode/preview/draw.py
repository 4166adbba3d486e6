"""`draw_predictions`: frame t, the true future frame and the one that the decoder predicts from the codes, drawn.

Used by `lara-tok decode`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lara_tokenizer.table.source import Source

_DEFAULT_ROWS = {".png": 6, ".gif": 48, ".mp4": 240}


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
    # Loaded only now: a wrong suffix is told at once.
    from lara_tokenizer.encode.job import open_job
    from lara_tokenizer.encode.preview.picture import save
    from lara_tokenizer.encode.preview.predictions import gain_over_copying, predict
    from lara_tokenizer.encode.preview.rows import choose_rows
    from lara_tokenizer.table.metadata import read_metadata
    from lara_tokenizer.table.source import recorded_load_options

    metadata = read_metadata(path)
    if metadata["model"]["codebook_size"] is None:
        raise ValueError(f"{path}: made by a continuous bottleneck; it has no codes to decode")
    rows = choose_rows(path, episode, camera, stride, frames, _DEFAULT_ROWS[kind])
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
