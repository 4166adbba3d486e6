"""Fit the closed-form tokenizer (`lara_tokenizer/evaluate/controls/closed_form.py`) on clips without labels.

    python benchmarks/fit_closed_form.py ../shared/data/real_video \\
        --out lara_tokenizer/evaluate/controls/closed_form.safetensors

The folder has a MANIFEST.csv with a row per clip, of which `clip`, `repo`, `licence` and `cut_times` are read. The
frames of a pair are half a second apart, and each pair is used in both directions. No pair crosses a cut, pairs in
which nothing moves are dropped, and of DROID's only as many are drawn as there are others. Reading two hours of video
takes five minutes, the fit seconds.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from lara_tokenizer.data import load_episodes
from lara_tokenizer.evaluate.controls.closed_form import ClosedFormTokenizer
from lara_tokenizer.motion import grey_frames, optical_flow
from lara_tokenizer.thresholds import IDLE_MOTION

SECONDS = 0.5  # between the frames of a pair
STEP = 0.2  # seconds between the first frames of pairs
CAPPED, MOST = "droid", 0.5  # the source that is capped, and its share of the pairs


@dataclass(frozen=True, slots=True)
class Clip:
    """A row of the manifest."""

    path: str
    source: str
    licence: str
    cuts: tuple[float, ...]  # seconds


def clips(folder: Path) -> list[Clip]:
    """The clips of a folder, in the order of its manifest."""
    with (folder / "MANIFEST.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [
        Clip(
            row["clip"],
            row["repo"],
            row["licence"],
            tuple(float(time) for time in row["cut_times"].replace(";", " ").replace(",", " ").split()),
        )
        for row in rows
    ]


def pair_indices(timestamps: np.ndarray, cuts: tuple[float, ...]) -> Iterator[tuple[int, int]]:
    """(t, t+C) of each pair of a clip; none crosses a cut.

    >>> list(pair_indices(np.arange(15) / 10, (0.6,)))
    [(0, 5), (8, 13)]
    """
    starts = np.arange(timestamps[0], timestamps[-1] - SECONDS + 1e-6, STEP)
    for start in starts:
        now, future = (int(np.abs(timestamps - time).argmin()) for time in (start, start + SECONDS))
        # A cut is the time of the first frame after it; times in the manifest are rounded.
        if now < future and not any(timestamps[now] - 0.05 < cut <= timestamps[future] + 0.05 for cut in cuts):
            yield now, future


def flow_of(folder: Path, clip: Clip) -> np.ndarray:
    """Flow of the moving pairs of a clip in both directions: float32 (P, 2, F)."""
    (episode,) = load_episodes(folder / clip.path)
    camera = episode.cameras[0]
    pairs = np.array(list(pair_indices(episode.timestamps(camera), clip.cuts)), int).reshape(-1, 2)
    if not len(pairs):
        return np.empty((0, 2, 128), np.float32)
    frames, rows = np.unique(pairs, return_inverse=True)
    grey = grey_frames(episode.frames(camera, frames))
    episode.close()
    now, future = (grey[side] for side in rows.reshape(pairs.shape).T)
    moves = np.abs(future.astype(np.float32) - now).mean((1, 2)) / 255 >= IDLE_MOTION
    now, future = now[moves], future[moves]
    return np.stack([optical_flow(now, future), optical_flow(future, now)], 1)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of clips with a MANIFEST.csv.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
) -> None:
    """Fit and write the closed-form tokenizer."""
    listed = clips(folder)
    of_clip = []
    for index, clip in enumerate(listed):
        of_clip.append(flow_of(folder, clip))
        if index % 50 == 49:
            print(f"{index + 1} of {len(listed)} clips", flush=True)
    is_capped = np.concatenate(
        [np.full(len(flow), CAPPED in clip.source) for flow, clip in zip(of_clip, listed, strict=True)]
    )
    kept = balanced(is_capped)
    flow = np.concatenate(of_clip)[kept]
    flow = flow.reshape(-1, flow.shape[-1])
    tokenizer = ClosedFormTokenizer.fit(flow)
    tokenizer.save(out, about(folder, listed, len(kept)))
    latents = tokenizer.latents(flow)
    left = latents - tokenizer.quantized(tokenizer.codes(latents, len(tokenizer.codebooks)))
    print(f"{len(kept):,} pairs, {is_capped[kept].sum():,} of them of {CAPPED}, from {len(is_capped):,} that move")
    print(f"components have {latents.var(0).sum() / flow.var(0).sum():.1%} of the variance of flow")
    print(f"codes leave {left.var(0).sum() / latents.var(0).sum():.1%} of the variance of the components")
    print(f"{out}: {out.stat().st_size:,} bytes")


def balanced(is_capped: np.ndarray) -> np.ndarray:
    """The rows of all other sources, and as many of the capped one, drawn at random."""
    capped = np.flatnonzero(is_capped)
    most = int((~is_capped).sum() * MOST / (1 - MOST))
    return np.sort(np.concatenate([np.flatnonzero(~is_capped), np.random.default_rng(0).permutation(capped)[:most]]))


def about(folder: Path, listed: list[Clip], pairs: int) -> dict[str, Any]:
    """The note in the file's metadata."""
    return {
        "made_by": "benchmarks/fit_closed_form.py",
        "features": "DIS flow (OpenCV, medium) of 128 x 128 grey frames half a second apart, mean in 8 x 8 cells",
        "pairs": pairs,
        "directions_per_pair": 2,
        "sources": [
            {"repository": source, "licence": licence}
            for source, licence in sorted({(clip.source, clip.licence) for clip in listed})
        ],
        "manifest_sha256": hashlib.sha256((folder / "MANIFEST.csv").read_bytes()).hexdigest(),
    }


if __name__ == "__main__":
    typer.run(main)
