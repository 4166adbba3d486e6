"""A uniform shuffle of more lines than fit in memory: scatter over buckets at random, then permute each bucket."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

# Lines of one bucket are held at once.
_BUCKET_LINES = 32_768
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
    scratch.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    files = [scratch / f"{number:05d}" for number in range(max(1, -(-total // _BUCKET_LINES)))]
    with ExitStack() as stack:
        buckets = [stack.enter_context(file.open("wb")) for file in files]
        draws: list[int] = []
        for line in lines:
            if not draws:
                draws = rng.integers(len(buckets), size=_DRAWS).tolist()
            buckets[draws.pop()].write(line)
    with out.open("wb") as stream:
        for file in files:
            held = file.read_bytes().splitlines(keepends=True)
            stream.writelines(held[place] for place in rng.permutation(len(held)).tolist())
            file.unlink()
    scratch.rmdir()
