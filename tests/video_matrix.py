"""Frame exactness of every pair of codec and container, with true and with lying key flags, in each decoder.

    python tests/video_matrix.py               # all pairs, a table; exit status 1 where a frame is another one
    python tests/video_matrix.py h264 hevc     # these codecs

A reader's frames in random, strided and backward order are compared with one plain decode of the whole file. PyAV has
to be equal in every byte; decord and torchcodec equal but for rounding, or refuse with a `VideoDecodeError`.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import av
import numpy as np
from video_files import CODECS, CONTAINERS, number_in, numbered, write_clip
from video_flags import LIES, flag_keys

from lara_tokenizer.data.video.backends import video_reader_class
from lara_tokenizer.errors import VideoDecodeError

DECODERS = ("pyav", "torchcodec", "decord")
# Levels of 255 by which another library's rounding may differ, on the mean over a frame.
ROUNDING = 2.0
FRAMES = 80
VARIANTS = (("plain", 8), ("b_frames", 8), ("open_gop", 8), ("plain", FRAMES))
EQUAL = "equal"


def decode_plainly(path: Path) -> np.ndarray:
    """uint8 (n, H, W, 3): a loop over the whole file, without seeks."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def verdict(path: Path, decoder: str, expected: np.ndarray) -> str:
    """Whether the frames that a decoder gives in several orders are right: "equal", "refused: ..." or "WRONG: ..."."""
    try:
        count = video_reader_class(decoder)(path).index().num_frames
        if count != len(expected):
            return f"WRONG: counts {count} of {len(expected)}"
        for numbers in orders(count):
            reader = video_reader_class(decoder)(path)
            for some in numbers:
                wrong = _difference(reader.frames("", some), expected[some], decoder)
                if wrong:
                    return f"WRONG: {wrong} of {some[:8]}"
    except VideoDecodeError as error:
        return f"refused: {error.reason}"
    return EQUAL


def is_installed(decoder: str) -> bool:
    """Whether a decoding library can be imported."""
    try:
        video_reader_class(decoder)
    except ImportError:
        return False
    return True


def orders(count: int) -> list[list[list[int]]]:
    """Ways to read a video of `count` frames: each a list of calls, with the indices of each call."""
    shuffled = [int(i) for i in np.random.default_rng(0).permutation(count)]
    return [
        [[i] for i in range(count - 1, -1, -7)],
        [list(range(0, count, 5)), list(range(2, count, 7)), list(range(count))],
        [shuffled[:6], shuffled[6:12], *([i] for i in shuffled[:6])],
        [list(range(first, min(first + 5, count))) for first in range(count // 3, count, 5)],
        [[1, count - 2], [count // 2]],
    ]


def _difference(frames: np.ndarray, expected: np.ndarray, decoder: str) -> str:
    """A description of the first frame that is not the expected one; "" where all are."""
    if frames.shape != expected.shape:
        return f"shape {frames.shape}, not {expected.shape}"
    for k, (got, want) in enumerate(zip(frames, expected, strict=True)):
        off = np.abs(got.astype(int) - want).mean()
        if off > (0 if decoder == "pyav" else ROUNDING) or number_in(got) != number_in(want):
            return f"call's frame {k} shows {number_in(got)}, not {number_in(want)} (differs by {off:.1f})"
    return ""


def write_all(folder: Path, codecs: list[str]) -> Iterator[tuple[str, Path, np.ndarray]]:
    """Each clip that FFmpeg can write and read: its codec, variant, container and flags, its file and its frames."""
    frames = numbered(FRAMES)
    for codec, (variant, gop), container, lie in product(codecs, VARIANTS, CONTAINERS, ("", *LIES)):
        path = folder / f"clip.{container}"
        try:
            write_clip(path, codec, frames, variant=variant, gop=gop)
            if lie:
                flag_keys(path, lie)
            expected = decode_plainly(path)
            if [number_in(frame) for frame in expected] == [number_in(frame) for frame in frames]:
                yield f"{codec} {variant} gop {gop} {container} {f'{lie} key' if lie else 'true'}", path, expected
        except (ValueError, IndexError, KeyError, AttributeError, av.error.FFmpegError):
            continue  # no such pair or variant, or no flags in this container
        finally:
            path.unlink(missing_ok=True)


def main() -> None:
    """Print one row for each clip, and the sums."""
    av.logging.set_level(av.logging.PANIC)
    decoders = [decoder for decoder in DECODERS if is_installed(decoder)]
    sums: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for label, path, expected in write_all(Path(folder), sys.argv[1:] or list(CODECS)):
            row = [f"{decoder} {verdict(path, decoder, expected)}" for decoder in decoders]
            sums.update(cell.partition(":")[0] for cell in row)
            print(f"{label:45s} | {' | '.join(row)}", flush=True)  # noqa: T201
    print(*(f"{count:5d} {kind}" for kind, count in sorted(sums.items())), sep="\n")  # noqa: T201
    sys.exit(any("WRONG" in kind or kind == "pyav refused" for kind in sums))


if __name__ == "__main__":
    main()
