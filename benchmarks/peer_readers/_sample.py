"""Small inputs of the exports that peers read: clips or a dataset, and a table of random codes that belongs to them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from random_data import RandomTokens, write_clip

from lara_tokenizer._files import file_sha256

FPS, SIDE = 10, 64
EPISODES = {"kitchen/a.mp4": (40, "Put the Cup on the plate"), "kitchen/b.mp4": (30, "open the drawer, slowly")}
LABELS = RandomTokens(8, 4, 128, ("latents",))  # of LeRobotDatasets


def write_clips(folder: Path, num_latents: int, codebook_size: int) -> tuple[Path, Path]:
    """(tokens, source): two clips and a row per frame of them. Every code occurs where there are enough frames."""
    rng = np.random.default_rng(0)
    table = RandomTokens(num_latents, 4, codebook_size, ("text",))
    tables = []
    for name, (length, text) in EPISODES.items():
        background = np.kron(rng.integers(0, 200, (8, 8, 3)), np.ones((SIDE // 8, SIDE // 8, 1))).astype(np.uint8)
        write_clip(
            folder / "clips" / name, (np.roll(background, 2 * t, axis=1) for t in range(length)), (SIDE, SIDE), FPS
        )
        # Each code once before any comes again: a reader that maps one code wrongly is noticed.
        codes = np.resize(rng.permutation(codebook_size), (length, num_latents)).astype(np.int16)
        tables.append(table.rows(rng, length, FPS, episode=name, text=text, codes=codes))
    return table.write(folder / "tokens.parquet", tables), folder / "clips"


def write_checkpoint(folder: Path) -> np.ndarray:
    """A file of weights with nothing but a codebook; float32 (K, D)."""
    codebook = np.random.default_rng(1).standard_normal((LABELS.codebook_size, LABELS.codebook_dim)).astype("<f4")
    entry = {"dtype": "F32", "shape": list(codebook.shape), "data_offsets": [0, codebook.nbytes]}
    header = json.dumps({"bottleneck.codebook.weight": entry}).encode()
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + codebook.tobytes())
    return codebook


def write_table(file: Path, lengths: Mapping[int, int], camera: str, fps: float, checkpoint: Path) -> Path:
    """Random codes and latents for episodes of a LeRobotDataset, with the codebook of `checkpoint`.

    lengths: episode index -> frames.
    """

    def episodes() -> Iterator[pa.Table]:
        rng = np.random.default_rng(0)
        for index, length in lengths.items():
            name = f"episode_{index:06d}"
            yield LABELS.rows(rng, length, fps, episode=name, episode_index=index, camera=camera)

    weights = checkpoint / "model.safetensors"
    model = {"id": "random", "revision": None, "weights_sha256": {weights.name: file_sha256(weights)}}
    return LABELS.write(file, episodes(), model=model, camera=camera)
