"""Two generated clips and a table of random codes that belongs to them; and whose file it is that reads them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.table.metadata import with_metadata
from lara_tokenizer.table.schema import FORMAT_VERSION, token_schema

FPS, GAP, SIDE, CODEBOOK_DIM = 10, 5, 64, 4
EPISODES = {"kitchen/a.mp4": (40, "Put the Cup on the plate"), "kitchen/b.mp4": (30, "open the drawer, slowly")}


def write_sample(folder: Path, num_latents: int, codebook_size: int) -> tuple[Path, Path]:
    """(tokens, source) in `folder`: a pair a frame of two clips, every code at least once where there are enough."""
    rng = np.random.default_rng(0)
    schema = token_schema(num_latents, CODEBOOK_DIM, codebook_size, ("text",))
    tables = []
    for name, (num_frames, text) in EPISODES.items():
        _write_clip(folder / "clips" / name, num_frames, rng)
        frames = np.arange(num_frames, dtype=np.int32)
        valid = frames + GAP < num_frames
        first = rng.permutation(codebook_size)
        codes = np.resize(first, (num_frames, num_latents)).astype(np.int16)
        codes[~valid] = -1
        columns: dict[str, Any] = {
            "episode": pa.array([name] * num_frames).dictionary_encode(),
            "episode_index": pa.nulls(num_frames, pa.int64()),
            "camera": pa.array([""] * num_frames).dictionary_encode(),
            "stride": pa.array([f"{GAP}f"] * num_frames).dictionary_encode(),
            "frame_index": frames,
            "future_frame_index": np.where(valid, frames + GAP, -1).astype(np.int32),
            "timestamp": frames / FPS,
            "future_timestamp": pa.array((frames + GAP) / FPS, mask=~valid),
            "codes": pa.FixedSizeListArray.from_arrays(codes.reshape(-1), type=schema.field("codes").type),
            "code_margin": pa.array(rng.random(num_frames, np.float32), mask=~valid),
            "motion": pa.array(rng.random(num_frames, np.float32), mask=~valid),
            "valid": valid,
            "text": pa.array([text] * num_frames).dictionary_encode(),
        }
        tables.append(pa.table([columns[field] for field in schema.names], schema=schema))
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    metadata = {
        "format_version": FORMAT_VERSION,
        "model": {"id": "random", "num_latents": num_latents, "codebook_dim": CODEBOOK_DIM}
        | {"codebook_size": codebook_size, "revision": None, "weights_sha256": {}},
        "strides": [f"{GAP}f"],
        "source": [],
        "load": {"decoder": "pyav"},
    }
    tokens = folder / "tokens.parquet"
    pq.write_table(table.cast(with_metadata(schema, metadata)), tokens)
    return tokens, folder / "clips"


def _write_clip(path: Path, num_frames: int, rng: np.random.Generator) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    background = np.kron(rng.integers(0, 200, (8, 8, 3)), np.ones((SIDE // 8, SIDE // 8, 1))).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for number in range(num_frames):
            pixels = np.roll(background, 2 * number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def check_file(checkout: Path, name: str, blob: str) -> str:
    """`name` with a word on whether it is the file of the commit that was read; `blob` is git's hash of that one."""
    content = (checkout / name).read_bytes()
    is_same = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == blob
    return f"{name} ({'as in that commit' if is_same else 'NOT as in that commit'})"
