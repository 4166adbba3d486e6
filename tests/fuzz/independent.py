"""Frames of a video by other means than the project's: the ffmpeg program, and a plain loop over PyAV.

The rule for "right". Our frames are, in order, among those that ffmpeg decodes from the whole file (`-fps_mode
passthrough`), and all of them where the counts are equal. Blocks of 16 x 16 pixels may differ by `BLOCK_TOLERANCE` on
average, since colour conversions may round differently. Two things are not ours to judge:

- Damaged pictures are filled in by the decoder, and versions of FFmpeg fill in differently. So our frames may also be
  those, to the bit, of a plain loop over the whole file with the library that we use: that is what README promises.
- VP8 and VP9 have no checksum, and their decoders show what is in their memory where a packet is damaged. A picture in
  which ffmpeg and the plain loop differ has no right value: there only its place is compared.
- A damaged key frame may poison a decoder for good (FFV1 before version 3). Who starts at a later key frame sees what
  was recorded, so the picture of the undamaged clip at the same place is right, too.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

BLOCK_TOLERANCE = 2.0  # of 255; ffmpeg 5.1 and PyAV 18 agree to the bit on all seeds, other pairs may round otherwise
_MOST_BYTES = 2**28  # of raw video; more is not compared


def ffmpeg_frames(path: Path, stream: int, height: int, width: int) -> np.ndarray:
    """uint8 (m, height, width, 3): all frames that ffmpeg decodes; none where it gives another size."""
    done = subprocess.run(
        ["ffmpeg", "-nostdin", "-v", "quiet", "-threads", "1", "-i", f"file:{path}", "-map", f"0:{stream}",
         "-fps_mode", "passthrough", "-fs", str(_MOST_BYTES), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        capture_output=True, timeout=60,
    )  # fmt: skip
    size = height * width * 3
    raw = done.stdout if len(done.stdout) % size == 0 else b""
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def plain_frames(path: Path) -> tuple[int, list[np.ndarray]]:
    """The best video stream and every frame of it, decoded from the first packet on, without a seek."""
    import av

    frames: list[np.ndarray] = []
    with av.open(str(path.absolute()), metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return stream.index, frames
                for frame in packet.decode():
                    frames.append(np.rot90(frame.to_ndarray(format="rgb24", threads=1), frame.rotation // 90))
            except av.error.EOFError:
                return stream.index, frames
            except av.error.FFmpegError:
                continue  # as ffmpeg does: the next packet may be good


def are_right(
    frames: Sequence[np.ndarray],
    plain: Sequence[np.ndarray],
    by_ffmpeg: Sequence[np.ndarray],
    undamaged: Sequence[np.ndarray],
) -> bool:
    """Whether a clip's frames are right by the rule above."""
    if len(frames) == len(plain) == len(by_ffmpeg):
        return all(
            is_same(one, two, BLOCK_TOLERANCE)
            or is_same(one, three, 0)
            or not is_same(two, three, BLOCK_TOLERANCE)
            or (len(undamaged) == len(frames) and is_same(one, undamaged[k], 0))
            for k, (one, two, three) in enumerate(zip(frames, by_ffmpeg, plain, strict=True))
        )
    return are_among(frames, by_ffmpeg, BLOCK_TOLERANCE) or are_among(frames, plain, 0)


def are_among(frames: Sequence[np.ndarray], others: Sequence[np.ndarray], tolerance: float) -> bool:
    """Whether `frames` are among `others`, in their order; and equal one by one where there are as many."""
    if len(frames) == len(others):
        return all(is_same(one, other, tolerance) for one, other in zip(frames, others, strict=True))
    remaining = iter(others)
    return all(any(is_same(frame, other, tolerance) for other in remaining) for frame in frames)


def is_same(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    """Whether no 16 x 16 block differs by more than `tolerance` on average."""
    if one.shape != other.shape:
        return False
    difference = np.abs(one.astype(np.int16) - other)
    if tolerance == 0:
        return not difference.any()
    height, width = one.shape[0] // 16 * 16, one.shape[1] // 16 * 16
    if not height or not width:
        return bool(difference.mean() <= tolerance)
    blocks = difference[:height, :width].reshape(height // 16, 16, width // 16, 16, 3)
    return bool(blocks.mean((1, 3, 4)).max() <= tolerance)
