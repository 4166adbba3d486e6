"""A folder of clips and a table of tokens that belongs to it, with random codes: exports copy labels, no model runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lara_tokenizer.table.metadata import with_metadata
from lara_tokenizer.table.schema import FORMAT_VERSION, token_schema

FPS = 10


def metadata_of(num_latents: int, codebook_dim: int, codebook_size: int | None, strides: Sequence[str]) -> dict:
    """The metadata of a table, as encode writes it."""
    return {
        "format_version": FORMAT_VERSION,
        "model": {
            "id": "tiny-lam",
            "revision": None,
            "weights_sha256": {"model.safetensors": "0" * 64},
            "config_sha256": "1" * 64,
            "processor_sha256": "2" * 64,
            "num_latents": num_latents,
            "codebook_size": codebook_size,
            "codebook_dim": codebook_dim,
        },
        "strides": list(strides),
        "every": "1f",
        "columns": [],
        "keep_tail": True,
        "min_motion": 0.0,
        "batch_size": 64,
        "dtype": "float32",
        "device": "cpu",
        "source": [],
        "load": {"decoder": "pyav"},
        "versions": {},
        "episodes": {"count": 0, "ids_sha256": "", "failed": 0},
    }


def rows_of(
    episode: str,
    num_frames: int,
    stride: str,
    camera: str,
    index: int | None,
    rng: np.random.Generator,
    schema: pa.Schema,
    sizes: tuple[int, int, int | None],
    text: str | None,
) -> pa.Table:
    """One row per frame; those whose future frame would lie past the end are invalid."""
    num_latents, codebook_dim, codebook_size = sizes
    gap = int(stride.removesuffix("f"))
    frames = np.arange(num_frames, dtype=np.int32)
    valid = frames + gap < num_frames
    codes = rng.integers(0, codebook_size or 1, (num_frames, num_latents)).astype(np.int16)
    latents = rng.standard_normal((num_frames, num_latents * codebook_dim)).astype(np.float16)
    codes[~valid], latents[~valid] = -1, np.nan
    margin, motion = rng.random((2, num_frames)).astype(np.float32)
    columns: dict[str, Any] = {
        "episode": pa.array([episode] * num_frames).dictionary_encode(),
        "episode_index": pa.array([index] * num_frames, pa.int64()),
        "camera": pa.array([camera] * num_frames).dictionary_encode(),
        "stride": pa.array([stride] * num_frames).dictionary_encode(),
        "frame_index": pa.array(frames),
        "future_frame_index": pa.array(np.where(valid, frames + gap, -1).astype(np.int32)),
        "timestamp": pa.array(frames / FPS),
        "future_timestamp": pa.array((frames + gap) / FPS, mask=~valid),
        "code_margin": pa.array(margin, mask=~valid | (codebook_size is None)),
        "motion": pa.array(motion, mask=~valid),
        "valid": pa.array(valid),
        "text": pa.array([text] * num_frames, pa.string()).dictionary_encode(),
    }
    for name, values in (("codes", codes), ("latents", latents)):
        if name in schema.names:
            columns[name] = pa.FixedSizeListArray.from_arrays(
                pa.array(values.reshape(-1)), type=schema.field(name).type
            )
    return pa.table([columns[name] for name in schema.names], schema=schema)


@pytest.fixture(scope="session")
def write_tokens() -> Callable[..., Path]:
    """write_tokens(path, {"a.mp4": 24}, strides=("5f",), cameras=("",), sizes=(N, D, K or None), columns=("latents",),
    texts={}, indices={}, seed=0) -> path: a table as encode writes it, with `keep_tail`."""

    def write(
        path: Path,
        episodes: Mapping[str, int],
        strides: Sequence[str] = ("5f",),
        cameras: Sequence[str] = ("",),
        sizes: tuple[int, int, int | None] = (4, 3, 16),
        columns: tuple[str, ...] = ("latents",),
        texts: Mapping[str, str] | None = None,
        indices: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> Path:
        rng = np.random.default_rng(seed)
        columns = tuple(sorted({*columns, *(["text"] if texts else [])}))
        schema = token_schema(*sizes, columns)
        tables = [
            rows_of(
                episode,
                num_frames,
                stride,
                camera,
                (indices or {}).get(episode),
                rng,
                schema,
                sizes,
                (texts or {}).get(episode),
            )
            for episode, num_frames in sorted(episodes.items())
            for camera in sorted(cameras)
            for stride in sorted(strides)
        ]
        table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        schema = with_metadata(schema, metadata_of(*sizes, strides))
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.cast(schema), path, row_group_size=50)
        return path

    return write


@pytest.fixture(scope="session")
def clips(tmp_path_factory, moving_square, write_video) -> Path:
    """a.mp4 of 24 and b/left.mp4 of 30 frames, 64 x 64, at 10 frames per second."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "a.mp4", moving_square(24, seed=2, step=5))
    write_video(folder / "b" / "left.mp4", moving_square(30, seed=1))
    return folder


@pytest.fixture
def tokens(tmp_path, write_tokens) -> Path:
    """A table for `clips`: stride 5f, N 4 codes of K 16, D 3, latents, an instruction for each."""
    texts = {"a.mp4": "push the box", "b/left.mp4": "Open the drawer"}
    return write_tokens(tmp_path / "tokens.parquet", {"a.mp4": 24, "b/left.mp4": 30}, texts=texts)
