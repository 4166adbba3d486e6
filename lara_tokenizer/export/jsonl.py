"""Formats with one JSON line per pair: train.jsonl in shuffled order, and the first frame of each pair as an image.

<out>/
    train.jsonl
    images/<episode>/img_00012.jpg      see `images`
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import compress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lara_tokenizer.export.folder import ExportFolder, Progress, counter
from lara_tokenizer.export.images import ImageTask, check_image_folders, frame_file, image_folder, write_images
from lara_tokenizer.export.source_match import MatchedSource, instructions
from lara_tokenizer.table.reader import TokenSequence

LINES = "train.jsonl"

# The lines of a sequence's selected pairs in the order of frames, each with its newline, given for each of these pairs
# the path of its image (as JSON text without quotes) and its instruction.
LinesOf = Callable[[TokenSequence, list[str], list[str]], Iterator[bytes]]

# Lines of one bucket are in memory at once. Buckets differ a little in size; up to twice this is harmless.
_BUCKET_LINES = 32_768
# Files open at once. More lines than these buckets hold are scattered again, bucket by bucket.
_BUCKETS = 128
_DRAWS = 4096  # random numbers per call of the generator


def check_jsonl(matched: MatchedSource, instruction: str | None, seed: int) -> int:
    """Check the options before anything is written; returns the length of the longest instruction in characters.

    Raises:
        ValueError: a negative seed; two cameras whose images would have the same names; an episode without instruction
            if no default is given.
    """
    if seed < 0:
        raise ValueError(f"seed {seed}: takes 0 or more")
    check_image_folders(matched.selected)
    texts = (instructions(episode, sequence, instruction) for episode, sequence in matched.sequences("text"))
    return max(len(text) for of_sequence in texts for text in set(of_sequence))


def jsonl_files(matched: MatchedSource, images: bool) -> Iterator[str]:
    """Names of the files of such an export, with its images or without."""
    yield LINES
    for _, sequence in matched.sequences() if images else ():
        folder = image_folder(sequence.episode, sequence.camera)
        yield from (f"{folder}/{frame_file(frame)}" for frame in sequence.frames[sequence.selected].tolist())


def write_jsonl(
    folder: ExportFolder,
    matched: MatchedSource,
    lines_of: LinesOf,
    *,
    instruction: str | None,
    seed: int,
    images: bool,
    workers: int | None,
    progress: Progress | None,
    before_lines: Callable[[Callable[[int], object]], object] | None = None,
) -> None:
    """Write train.jsonl and, before it, the images if they are requested.

    Args:
        lines_of: produces the lines of one sequence.
        instruction: for episodes without one.
        workers: processes that write images; None uses one per core, 0 none but this one.
        progress: called with (done, total) of images, plus pairs that `before_lines` finished; of lines without these.
        before_lines: further work on every pair, between images and lines: called once, with a function to be called
            with the count of newly finished pairs.
    """
    out, rounds = folder.path / LINES, images + (before_lines is not None)
    show = counter(progress, matched.num_pairs * max(1, rounds))
    if images:
        folder.run_tasks(write_images, _image_tasks(matched, folder.path), workers, lambda task: show(len(task.frames)))
    if not folder.is_done(LINES, [out]):
        if before_lines is not None:
            before_lines(show)
        lines = _lines(matched, lines_of, instruction, show if not rounds else lambda count: None)
        write_shuffled(lines, matched.num_pairs, out, seed)
        folder.mark_done(LINES, [out])


def _lines(
    matched: MatchedSource, lines_of: LinesOf, instruction: str | None, show: Callable[[int], object]
) -> Iterator[bytes]:
    for episode, sequence in matched.sequences("codes", "text"):
        # The whole sequence is checked, also rows that are not selected: as `check_jsonl` did.
        texts = instructions(episode, sequence, instruction)
        path = json.dumps(image_folder(sequence.episode, sequence.camera))[1:-1]
        images = [f"{path}/{frame_file(frame)}" for frame in sequence.frames[sequence.selected].tolist()]
        yield from lines_of(sequence, images, list(compress(texts, sequence.selected)))
        show(len(images))


def _image_tasks(matched: MatchedSource, path: Path) -> Iterator[ImageTask]:
    """The first frames of the selected pairs, one task per sequence."""
    for episode, sequence in matched.sequences():
        if sequence.selected.any():
            folder = path / image_folder(sequence.episode, sequence.camera)
            yield ImageTask(episode, sequence.camera, sequence.frames[sequence.selected], folder)


def write_shuffled(lines: Iterable[bytes], total: int, out: Path, seed: int) -> None:
    """Write more lines than fit in memory in a uniformly random order that depends on `seed` and `total` alone.

    Lines are scattered over buckets at random, then each bucket is permuted in memory.

    Args:
        lines: about `total` of them, each ending in a newline; consumed lazily.
        total: decides the count of buckets.
        out: the file; scattered lines are beside it in `<out>.shuffle/` meanwhile.
    """
    scratch = out.with_name(out.name + ".shuffle")
    shutil.rmtree(scratch, ignore_errors=True)
    with out.open("wb") as stream:
        _shuffle(lines, total, stream, scratch, np.random.default_rng(seed))


def _shuffle(lines: Iterable[bytes], total: int, stream: BinaryIO, scratch: Path, rng: np.random.Generator) -> None:
    if total <= 2 * _BUCKET_LINES:
        in_memory = list(lines)
        stream.writelines(in_memory[index] for index in rng.permutation(len(in_memory)).tolist())
        return
    counts = _scatter(lines, min(_BUCKETS, -(-total // _BUCKET_LINES)), scratch, rng)
    for file, count in counts.items():
        with file.open("rb") as bucket:
            _shuffle(bucket, count, stream, file.with_name(file.name + ".shuffle"), rng)
        file.unlink()
    scratch.rmdir()


def _scatter(lines: Iterable[bytes], buckets: int, scratch: Path, rng: np.random.Generator) -> dict[Path, int]:
    """Write each line to one of the buckets; returns the files with their counts of lines."""
    scratch.mkdir(parents=True)
    files = [scratch / f"{index:05d}" for index in range(buckets)]
    counts = [0] * buckets
    with ExitStack() as stack:
        streams = [stack.enter_context(file.open("wb")) for file in files]
        draws: list[int] = []
        for line in lines:
            if not draws:
                draws = rng.integers(buckets, size=_DRAWS).tolist()
            bucket = draws.pop()
            counts[bucket] += 1
            streams[bucket].write(line)
    return dict(zip(files, counts, strict=True))
