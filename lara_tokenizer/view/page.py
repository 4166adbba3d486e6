"""The page: all that it shows is in it, as text and as pictures in data URIs; its script draws, and decides nothing."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from lara_tokenizer._templates import resource, template_environment
from lara_tokenizer.errors import printable
from lara_tokenizer.table.reader import TokenTable
from lara_tokenizer.thresholds import IDLE_MOTION
from lara_tokenizer.version import __version__
from lara_tokenizer.view.clips import Clip
from lara_tokenizer.view.nearest import equal_by_chance, nearest_moments

LONGEST_SIDE = 320  # pixels of a picture
WEBP = {"quality": 60, "method": 2}  # a frame of robot video takes 5 KB


def write_page(
    file: Path, clips: Sequence[Clip], table: TokenTable, notes: Sequence[str], progress: Callable[[int, int], None]
) -> None:
    """Write the page of some clips. Raises EpisodeReadError."""
    total, done = sum(len(clip.pictures) for clip in clips), 0
    pictures: list[list[str]] = []
    for clip in clips:
        pictures.append([])
        for image in clip.images(LONGEST_SIDE, "WebP", **WEBP):
            pictures[-1].append(b64encode(image).decode())
            done += 1
            progress(done, total)
    page = (
        template_environment(__package__)
        .get_template("page.html.j2")
        .render(
            table=table,
            clips=clips,
            notes=notes,
            by_chance=equal_by_chance(np.concatenate([clip.codes for clip in clips])),
            moments=sum(len(clip.frames) for clip in clips),
            data=Markup(_script_json(page_data(clips, table, pictures))),
            style=Markup(resource(__package__, "page.css")),
            script=Markup(resource(__package__, "page.js")),
            version=__version__,
        )
    )
    # The name of an episode may hold bytes that are no text.
    file.write_text(page, encoding="utf-8", errors="backslashreplace", newline="\n")


def page_data(clips: Sequence[Clip], table: TokenTable, pictures: Sequence[Sequence[str]]) -> dict[str, Any]:
    """All that the script draws, as plain JSON; moments are counted through all clips."""
    codes = np.concatenate([clip.codes for clip in clips])
    clip_of = np.repeat(np.arange(len(clips)), [len(clip.frames) for clip in clips])
    frames, futures = (np.concatenate([getattr(clip, name) for clip in clips]) for name in ("frames", "futures"))
    return {
        "positions": table.num_latents,
        "idle": IDLE_MOTION,
        "clips": [_clip_data(clip, images) for clip, images in zip(clips, pictures, strict=True)],
        "nearest": nearest_moments(codes, clip_of, frames, futures),
    }


def _clip_data(clip: Clip, images: Sequence[str]) -> dict[str, Any]:
    return {
        "name": printable(clip.name),
        "text": clip.text and printable(clip.text),
        "frames": clip.frames.tolist(),
        "futures": clip.futures.tolist(),
        "times": clip.times.round(4).tolist(),
        "futureTimes": clip.future_times.round(4).tolist(),
        "now": np.searchsorted(clip.pictures, clip.frames).tolist(),
        "future": np.searchsorted(clip.pictures, clip.futures).tolist(),
        "codes": clip.codes.tolist(),
        "margins": _numbers(clip.margins),
        "motions": _numbers(clip.motions),
        "pictures": list(images),
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    """Values for a curve; None where one is missing."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]


def _script_json(data: dict[str, Any]) -> str:
    """JSON that may stand in a <script> element: no text in it can end the element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
