"""A uniform shuffle of more lines than fit in memory: scatter over buckets at random, then permute each bucket."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

# Lines of one bucket are held at once; buckets differ a little in size, up to twice this is no trouble.
_BUCKET_LINES = 32_768
# Files open at once. More lines than they hold are scattered again, bucket by bucket.
_BUCKETS = 128
_DRAWS = 4096


def write_shuffled(lines: Iterable[bytes], total: int, out: Path, seed: int) -> None:
    """Write `lines`, each ending in a newline, to `out` in an order that follows from `seed` and `total` alone.

    Args:
        lines: about `total` of them; no more than a bucket is held in memory.
        total: decides the number of buckets.
        out: the file; scattered lines lie beside it in `<out>.shuffle/` meanwhile.
    """
    scratch = out.with_name(out.name + ".shuffle")
    shutil.rmtree(scratch, ignore_errors=True)
    with out.open("wb") as stream:
        _shuffle(lines, total, stream, scratch, np.random.default_rng(seed))


def _shuffle(lines: Iterable[bytes], total: int, stream: BinaryIO, scratch: Path, rng: np.random.Generator) -> None:
    if total <= 2 * _BUCKET_LINES:
        held = list(lines)
        stream.writelines(held[place] for place in rng.permutation(len(held)).tolist())
        return
    counts = _scatter(lines, min(_BUCKETS, -(-total // _BUCKET_LINES)), scratch, rng)
    for file, count in counts.items():
        with file.open("rb") as bucket:
            _shuffle(bucket, count, stream, file.with_name(file.name + ".shuffle"), rng)
        file.unlink()
    scratch.rmdir()


def _scatter(lines: Iterable[bytes], buckets: int, scratch: Path, rng: np.random.Generator) -> dict[Path, int]:
    """Each line into one of the buckets; returns the files with their numbers of lines."""
    scratch.mkdir(parents=True)
    files = [scratch / f"{number:05d}" for number in range(buckets)]
    counts = [0] * buckets
    with ExitStack() as stack:
        streams = [stack.enter_context(file.open("wb")) for file in files]
        draws: list[int] = []
        for line in lines:
            if not draws:
                draws = rng.integers(buckets, size=_DRAWS).tolist()
            place = draws.pop()
            counts[place] += 1
            streams[place].write(line)
    return dict(zip(files, counts, strict=True))
