"""Seeing what codes say: frame t, the true future frame, and the one the decoder predicts (`lara-tok decode`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.table.metadata import read_metadata, token_files

if TYPE_CHECKING:
    from lara_tokenizer.data import Episode

_DEFAULT_ROWS = {".png": 6, ".gif": 48}
_SIDE = 192  # pixels of a frame in the picture
_MARGIN = 4
_CAPTION = 16
_TITLES = ("frame t", "true future", "predicted future")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of the picture. Frames are uint8 (S, S, 3) as the model sees them."""

    frame_index: int
    future_frame_index: int
    codes: list[int]
    frames: tuple[np.ndarray, np.ndarray, np.ndarray]


def draw_predictions(
    tokens: str | os.PathLike[str],
    source: Any,
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
        out: a .png with one line a pair, or a .gif with one picture a pair.
        episode: its id; default: the first in the table.
        frames: first frames of the pairs; default: some, evenly spread.
        model: where the checkpoint lies; default: the id in the metadata.
        device: default: a GPU where there is one.
        from_list: the list of clips, where the table was made from one.

    Returns:
        {"out", "episode", "stride", "frames"}: what was drawn.

    Raises:
        JobMismatchError: the checkpoint's weights are not those that made the table.
        ValueError: there is no such episode or frame, the table has no codes, or `out` is no .png or .gif.

    >>> draw_predictions("tokens.parquet", "videos/", "futures.png")["frames"]  # doctest: +SKIP
    [0, 6, 12, 18, 24, 30]
    """
    file = Path(out)
    if file.suffix.lower() not in _DEFAULT_ROWS:
        raise ValueError(f"out {str(out)!r}: takes a name ending in {' or '.join(_DEFAULT_ROWS)}")
    rows = _rows(Path(tokens), episode)
    rows = _choose(rows, frames, _DEFAULT_ROWS[file.suffix.lower()])
    predictions = _predict(Path(tokens), source, rows, model, device, from_list)
    pictures = [_line(prediction) for prediction in predictions]
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.lower() == ".png":
        _stack([_header(pictures[0].width), *pictures]).save(file)
    else:
        images = [_stack([_header(picture.width), picture]) for picture in pictures]
        images[0].save(file, save_all=True, append_images=images[1:], duration=200, loop=0)
    return {
        "out": str(file),
        "episode": rows[0]["episode"],
        "stride": rows[0]["stride"],
        "frames": [row["frame_index"] for row in rows],
    }


def _rows(tokens: Path, episode: str | None) -> list[dict[str, Any]]:
    """The valid rows of one episode, its first camera and first stride."""
    if read_metadata(tokens)["model"]["codebook_size"] is None:
        raise ValueError(f"{tokens}: made by a continuous bottleneck; it has no codes to decode")
    columns = ["episode", "camera", "stride", "frame_index", "future_frame_index", "codes", "valid"]
    table = pa.concat_tables(pq.read_table(path, columns=columns) for path in token_files(tokens))
    names = sorted(table["episode"].unique().to_pylist())
    if not names:
        raise ValueError(f"{tokens}: the table is empty")
    name = names[0] if episode is None else episode
    if name not in names:
        some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ValueError(f"episode {name!r} is not in {tokens}. There are: {some}")
    table = table.filter(pc.equal(table["episode"].cast(pa.string()), name)).filter(pc.field("valid"))
    rows = table.to_pylist()
    if not rows:
        raise ValueError(f"episode {name!r} has no valid pair in {tokens}")
    first = rows[0]["camera"], rows[0]["stride"]
    return [row for row in rows if (row["camera"], row["stride"]) == first]


def _choose(rows: list[dict[str, Any]], frames: Sequence[int] | None, most: int) -> list[dict[str, Any]]:
    if frames is None:
        return [rows[place] for place in sorted({*np.linspace(0, len(rows) - 1, most).astype(int).tolist()})]
    by_frame = {row["frame_index"]: row for row in rows}
    if missing := [frame for frame in frames if frame not in by_frame]:
        raise ValueError(
            f"frame {missing[0]}: no valid pair starts there. They start at {min(by_frame)} to {max(by_frame)}"
        )
    return [by_frame[frame] for frame in frames]


def _predict(
    tokens: Path,
    source: Any,
    rows: list[dict[str, Any]],
    model: str | os.PathLike[str] | None,
    device: str | None,
    from_list: str | os.PathLike[str] | None,
) -> list[Prediction]:
    import torch

    from lara_tokenizer.encode.prepare import prepared
    from lara_tokenizer.model import LatentActionProcessor, load_model
    from lara_tokenizer.table.source import check_revisions, recorded_load_options

    metadata = read_metadata(tokens)
    with prepared(
        source,
        model or metadata["model"]["id"],
        None,
        load=recorded_load_options(metadata, source, from_list),
        device=device,
    ) as preparation:
        check_revisions(metadata, preparation.sources)
        checkpoint = preparation.checkpoint
        if checkpoint.weights_sha256 != metadata["model"]["weights_sha256"]:
            raise JobMismatchError(
                f"{tokens} was made by other weights than those of {checkpoint.id!r}. Pass the right one with --model."
            )
        if rows[0]["episode"] not in preparation.episodes:
            raise ValueError(f"episode {rows[0]['episode']!r} is not in the source")
        lam = load_model(checkpoint.folder).eval().to(preparation.device)
        processor = LatentActionProcessor.from_pretrained(checkpoint.folder)
        now, future = (
            processor.resize_frames(_read(preparation.episodes[rows[0]["episode"]], rows, column))
            for column in ("frame_index", "future_frame_index")
        )
        with torch.inference_mode():
            predicted = lam.decode(
                processor.normalize_frames(now).to(lam.device),
                codes=torch.tensor([row["codes"] for row in rows], device=lam.device),
            )
        columns = [
            now.permute(0, 2, 3, 1).numpy(),
            processor.steady_future(now, future).permute(0, 2, 3, 1).numpy(),
            processor.postprocess(predicted),
        ]
    return [
        Prediction(row["frame_index"], row["future_frame_index"], row["codes"], (shown[0], shown[1], shown[2]))
        for row, *shown in zip(rows, *columns, strict=True)
    ]


def _read(episode: Episode, rows: list[dict[str, Any]], column: str) -> np.ndarray:
    return episode.frames(rows[0]["camera"], [row[column] for row in rows])


def _line(prediction: Prediction) -> Image.Image:
    """The three frames side by side, and the codes below."""
    image = Image.new("RGB", (3 * _SIDE + 4 * _MARGIN, _SIDE + _CAPTION + _MARGIN), "white")
    for place, frame in enumerate(prediction.frames):
        shown = Image.fromarray(frame).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        image.paste(shown, (_MARGIN + place * (_SIDE + _MARGIN), 0))
    codes = " ".join(map(str, prediction.codes))
    caption = f"frame {prediction.frame_index} to {prediction.future_frame_index}   codes {codes}"
    ImageDraw.Draw(image).text((_MARGIN, _SIDE + 2), caption, fill="black")
    return image


def _header(width: int) -> Image.Image:
    image = Image.new("RGB", (width, _CAPTION), "white")
    for place, title in enumerate(_TITLES):
        ImageDraw.Draw(image).text((_MARGIN + place * (_SIDE + _MARGIN), 2), title, fill="black")
    return image


def _stack(images: Sequence[Image.Image]) -> Image.Image:
    picture = Image.new("RGB", (images[0].width, sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        picture.paste(image, (0, top))
        top += image.height
    return picture
