"""A folder of clips and a table of tokens that belongs to it, with random codes: exports copy labels, no model runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from token_tables import edited, write_table


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
        sequences = {(*names, stride): episodes[names[0]] for *names, stride in product(episodes, cameras, strides)}
        columns = tuple(sorted({*columns, *(["text"] if texts else [])}))
        write_table(path, sequences, sizes=sizes, columns=columns, seed=seed, source=[], moving_pairs=None)
        names = pq.read_table(path, columns=["episode"])["episode"].to_pylist()
        values: dict[str, list] = {"episode_index": [(indices or {}).get(name) for name in names]}
        if texts:
            values["text"] = [texts.get(name) for name in names]
        return edited(path, path, values)

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
