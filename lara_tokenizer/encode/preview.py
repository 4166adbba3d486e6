"""`draw_predictions`: frame t, the true future frame and the one that the decoder predicts from the codes, as an image.

Used by `lara-tok decode`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from lara_tokenizer._files import summarize_names
from lara_tokenizer.encode.job import EncodeJob, open_job
from lara_tokenizer.table.metadata import read_metadata
from lara_tokenizer.table.reader import read_tokens
from lara_tokenizer.table.source import Source, recorded_load_options

_DEFAULT_ROWS = {".png": 6, ".gif": 48}
_SIDE = 192  # pixels of a frame in the image
_MARGIN = 4
_CAPTION = 16
_TITLES = ("frame t", "true future", "predicted future")
_COLUMNS = ["episode", "camera", "stride", "frame_index", "future_frame_index", "codes", "valid"]


def draw_predictions(
    tokens: str | os.PathLike[str],
    source: Source,
    out: str | os.PathLike[str],
    *,
    episode: str | None = None,
    frames: Sequence[int] | None = None,
    model: str | os.PathLike[str] | None = None,
    device: str | None = None,
    from_list: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Draw predicted futures from a table's codes and its source's frames t.

    Args:
        tokens: the table, file or folder.
        source: the video it was made from.
        out: a .png with one row per pair, or a .gif with one frame per pair.
        episode: its id; default: the first in the table.
        frames: first frames of the pairs; default: some, evenly spread.
        model: the checkpoint; default: the id in the metadata.
        device: default: a GPU if there is one.
        from_list: the list of clips, if the table was made from one.

    Returns:
        {"out", "episode", "stride", "frames"}: what was drawn.

    Raises:
        JobMismatchError: the checkpoint's weights are not those that made the table.
        ValueError: there is no such episode or frame, the table has no codes, or `out` is neither .png nor .gif.

    >>> draw_predictions("tokens.parquet", "videos/", "futures.png")["frames"]  # doctest: +SKIP
    [0, 6, 12, 18, 24, 30]
    """
    path, file = Path(tokens), Path(out)
    kind = file.suffix.lower()
    if kind not in _DEFAULT_ROWS:
        raise ValueError(f"out {str(out)!r}: takes a name ending in {' or '.join(_DEFAULT_ROWS)}")
    metadata = read_metadata(path)
    if metadata["model"]["codebook_size"] is None:
        raise ValueError(f"{path}: made by a continuous bottleneck; it has no codes to decode")
    rows = _choose(_rows(path, episode), frames, _DEFAULT_ROWS[kind])
    load = recorded_load_options(metadata, source, from_list)
    with open_job(source, model or metadata["model"]["id"], device=device, **load) as job:
        job.check_made(path, metadata)
        images = [_draw(row, frames_of_row) for row, frames_of_row in zip(rows, _predict(job, rows), strict=True)]
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind == ".png":
        _stack([_header(images[0].width), *images]).save(file)
    else:
        titled = [_stack([_header(image.width), image]) for image in images]
        titled[0].save(file, save_all=True, append_images=titled[1:], duration=200, loop=0)
    return {
        "out": str(file),
        "episode": rows[0]["episode"],
        "stride": rows[0]["stride"],
        "frames": [row["frame_index"] for row in rows],
    }


def _rows(tokens: Path, episode: str | None) -> list[dict[str, Any]]:
    """The valid rows of one episode, its first camera and first stride."""
    table = read_tokens(tokens, _COLUMNS)
    names = sorted(table["episode"].unique().to_pylist())
    if not names:
        raise ValueError(f"{tokens}: the table is empty")
    name = names[0] if episode is None else episode
    if name not in names:
        raise ValueError(f"episode {name!r} is not in {tokens}. There are: {summarize_names(names, 5)}")
    table = table.filter(pc.equal(table["episode"].cast(pa.string()), name)).filter(pc.field("valid"))
    rows = table.to_pylist()
    if not rows:
        raise ValueError(f"episode {name!r} has no valid pair in {tokens}")
    first = rows[0]["camera"], rows[0]["stride"]
    return [row for row in rows if (row["camera"], row["stride"]) == first]


def _choose(rows: list[dict[str, Any]], frames: Sequence[int] | None, most: int) -> list[dict[str, Any]]:
    if frames is None:
        return [rows[index] for index in sorted({*np.linspace(0, len(rows) - 1, most).astype(int).tolist()})]
    by_frame = {row["frame_index"]: row for row in rows}
    if missing := [frame for frame in frames if frame not in by_frame]:
        raise ValueError(
            f"frame {missing[0]}: no valid pair starts there. They start at {min(by_frame)} to {max(by_frame)}"
        )
    return [by_frame[frame] for frame in frames]


def _predict(job: EncodeJob, rows: list[dict[str, Any]]) -> Iterator[tuple[np.ndarray, ...]]:
    """Current, true future and predicted frame of each row: uint8 (S, S, 3), as the model sees them."""
    import torch

    from lara_tokenizer.checkpoint import load_checkpoint

    name, camera = rows[0]["episode"], rows[0]["camera"]
    if name not in job.episodes:
        raise ValueError(f"episode {name!r} is not in the source")
    model, processor = load_checkpoint(job.checkpoint.folder)
    model.to(job.device)  # type: ignore[arg-type]  # transformers' annotation
    now, future = (
        processor.resize_frames(job.episodes[name].frames(camera, [row[column] for row in rows]))
        for column in ("frame_index", "future_frame_index")
    )
    with torch.inference_mode():
        predicted = model.decode(
            processor.normalize_frames(now).to(model.device),
            codes=torch.tensor([row["codes"] for row in rows], device=model.device),
        )
    return zip(
        now.permute(0, 2, 3, 1).numpy(),
        # The decoder predicts the stabilized future frame, so that is the one to compare with.
        processor.steady_future(now, future).permute(0, 2, 3, 1).numpy(),
        processor.postprocess(predicted),
        strict=True,
    )


def _draw(row: dict[str, Any], frames: Sequence[np.ndarray]) -> Image.Image:
    """The three frames side by side, and the codes below."""
    image = Image.new("RGB", (3 * _SIDE + 4 * _MARGIN, _SIDE + _CAPTION + _MARGIN), "white")
    for index, frame in enumerate(frames):
        resized = Image.fromarray(frame).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        image.paste(resized, (_MARGIN + index * (_SIDE + _MARGIN), 0))
    codes = " ".join(map(str, row["codes"]))
    caption = f"frame {row['frame_index']} to {row['future_frame_index']}   codes {codes}"
    ImageDraw.Draw(image).text((_MARGIN, _SIDE + 2), caption, fill="black")
    return image


def _header(width: int) -> Image.Image:
    image = Image.new("RGB", (width, _CAPTION), "white")
    for index, title in enumerate(_TITLES):
        ImageDraw.Draw(image).text((_MARGIN + index * (_SIDE + _MARGIN), 2), title, fill="black")
    return image


def _stack(images: Sequence[Image.Image]) -> Image.Image:
    stacked = Image.new("RGB", (images[0].width, sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        stacked.paste(image, (0, top))
        top += image.height
    return stacked
