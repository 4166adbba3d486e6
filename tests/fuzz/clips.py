"""Small videos whose frames carry their number, in many codecs and containers."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

HEIGHT, WIDTH = 64, 128
FPS = 10
_BITS = 8  # columns of one macroblock each, so that a damaged block damages a digit

# (file name, encoder, pixel format, options of the encoder, options of the container). "_" begins what tells files of
# one codec and container apart.
CLIPS: tuple[tuple[str, str, str, dict[str, str], dict[str, str]], ...] = (
    ("h264.mp4", "libx264", "yuv420p", {"bf": "2"}, {}),
    ("h264_open.mp4", "libx264", "yuv420p", {"bf": "2", "x264-params": "open-gop=1"}, {"movflags": "faststart"}),
    ("h264_fragments.mp4", "libx264", "yuv420p", {}, {"movflags": "frag_keyframe+empty_moov"}),
    ("h264_refresh.mp4", "libx264", "yuv420p", {"x264-params": "intra-refresh=1"}, {}),
    ("h264.mkv", "libx264", "yuv420p", {"bf": "2"}, {}),
    ("h264.avi", "libx264", "yuv420p", {"bf": "0"}, {}),
    ("h264.ts", "libx264", "yuv420p", {"bf": "2"}, {}),
    ("h264.mov", "libx264", "yuv444p", {}, {}),
    ("h264.flv", "libx264", "yuv420p", {}, {}),
    ("hevc.mp4", "libx265", "yuv420p", {"x265-params": "log-level=none:keyint=8"}, {}),
    ("hevc.mkv", "libx265", "yuv420p", {"x265-params": "log-level=none:keyint=8"}, {}),
    ("hevc.ts", "libx265", "yuv420p", {"x265-params": "log-level=none:keyint=8"}, {}),
    ("vp8.webm", "libvpx", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "5"}, {}),
    ("vp9.webm", "libvpx-vp9", "yuv420p", {}, {}),
    ("vp9.mp4", "libvpx-vp9", "yuv420p", {}, {}),
    ("av1.mp4", "libsvtav1", "yuv420p", {"svtav1-params": "keyint=8", "preset": "12"}, {}),
    ("av1.mkv", "libsvtav1", "yuv420p", {"svtav1-params": "keyint=8", "preset": "12"}, {}),
    ("mpeg2.ts", "mpeg2video", "yuv420p", {"bf": "2"}, {}),
    ("mpeg2.mpg", "mpeg2video", "yuv420p", {"bf": "2"}, {}),
    ("mpeg4.mp4", "mpeg4", "yuv420p", {"bf": "2"}, {}),
    ("mpeg4.avi", "mpeg4", "yuv420p", {}, {}),
    ("h263.avi", "h263p", "yuv420p", {}, {}),
    ("wmv2.wmv", "wmv2", "yuv420p", {}, {}),
    ("msmpeg4.avi", "msmpeg4", "yuv420p", {}, {}),
    ("mjpeg.avi", "mjpeg", "yuvj420p", {}, {}),
    ("ffv1.mkv", "ffv1", "yuv444p", {"level": "3", "g": "8"}, {}),
    ("prores.mov", "prores_ks", "yuv422p10le", {}, {}),
    ("gif.gif", "gif", "rgb8", {}, {}),
)  # fmt: skip


def numbered_frames(count: int, first: int = 0) -> np.ndarray:
    """uint8 (count, 64, 128, 3): frame t shows `first` + t in binary above a moving texture; all frames differ."""
    rng = np.random.default_rng(7)
    texture = rng.integers(40, 216, (4, WIDTH // 8, 3)).repeat(8, 0).repeat(8, 1)
    frames = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    for t in range(count):
        digits = np.array([(first + t) >> bit & 1 for bit in range(_BITS)]).repeat(WIDTH // _BITS)[None, :, None]
        frames[t, :16], frames[t, 16:32] = 30 + 190 * digits, 220 - 190 * digits
        frames[t, 32:] = np.roll(texture, (3 * (first + t), 5 * (first + t)), (0, 1))
    return frames


def read_number(frame: np.ndarray) -> int | None:
    """The number that a frame of `numbered_frames` shows; None where it cannot be read."""
    if frame.shape != (HEIGHT, WIDTH, 3):
        return None
    columns = frame.mean(2).reshape(HEIGHT, _BITS, WIDTH // _BITS)
    digits, inverse = columns[4:12, :, 4:12].mean((0, 2)), columns[20:28, :, 4:12].mean((0, 2))
    if (np.abs(digits - inverse) < 60).any():
        return None
    return int(((digits > inverse) << np.arange(_BITS)).sum())


def write_clip(
    path: Path,
    frames: np.ndarray,
    encoder: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    fps: float = FPS,
) -> Path:
    """`frames` as a video with a key frame in each eight."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001), options=options or {})
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *frames.shape[1:3], pixels, 8
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_clips(folder: Path, frames: np.ndarray) -> Iterator[Path]:
    """A file for each entry of `CLIPS` whose encoder this PyAV has."""
    import av

    for name, encoder, pixels, options, container_options in CLIPS:
        if encoder in av.codecs_available:
            yield write_clip(folder / name, frames, encoder, pixels, options, container_options)
