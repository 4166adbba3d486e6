"""The undamaged videos: most codecs in most containers, with true and with lying key flags."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from video_files import numbered, write_clip
from video_flags import flag_keys

FPS = 10
FRAMES = 36

# Codec, variant, container and lie about key frames, as in `video_files` and `video_flags`.
SEEDS: tuple[tuple[str, str, str, str], ...] = (
    ("h264", "b_frames", "mp4", ""), ("h264", "open_gop", "mp4", ""), ("h264", "b_frames", "mp4", "all"),
    ("h264", "plain", "frag.mp4", ""), ("h264", "b_frames", "frag.mp4", "all"), ("h264", "b_frames", "mkv", ""),
    ("h264", "plain", "mkv", "some"), ("h264", "plain", "avi", ""), ("h264", "open_gop", "ts", ""),
    ("h264", "plain", "mov", ""), ("h264", "plain", "flv", ""), ("hevc", "b_frames", "mp4", ""),
    ("hevc", "open_gop", "mkv", ""), ("hevc", "open_gop", "ts", ""), ("hevc", "plain", "mov", "all"),
    ("vp8", "b_frames", "webm", ""), ("vp8", "plain", "mkv", "all"), ("vp9", "b_frames", "webm", ""),
    ("vp9", "plain", "mp4", ""), ("av1", "plain", "mp4", ""), ("av1", "b_frames", "mkv", ""),
    ("mpeg1", "b_frames", "mpg", ""), ("mpeg2", "b_frames", "ts", ""), ("mpeg2", "open_gop", "mp4", "all"),
    ("mpeg2", "plain", "mpg", ""), ("mpeg4", "b_frames", "mp4", "all"), ("mpeg4", "plain", "avi", ""),
    ("mpeg4", "b_frames", "wmv", ""), ("h263", "plain", "avi", "all"), ("h263", "plain", "wmv", ""),
    ("wmv1", "plain", "wmv", ""), ("wmv2", "plain", "wmv", "all"), ("msmpeg4v3", "plain", "avi", "all"),
    ("flv1", "plain", "flv", ""), ("mjpeg", "plain", "avi", ""), ("mjpeg", "plain", "mov", ""),
    ("ffv1", "plain", "mkv", ""), ("ffv1", "plain", "avi", "all"), ("prores", "plain", "mov", ""),
)  # fmt: skip


def write_seeds(folder: Path) -> Iterator[Path]:
    """A file of 36 numbered frames for each of `SEEDS`."""
    folder.mkdir(parents=True, exist_ok=True)
    for codec, variant, container, lie in SEEDS:
        path = folder / f"{codec}_{variant}{lie and f'_{lie}'}.{container}"
        write_clip(path, codec, numbered(FRAMES), variant=variant)
        yield flag_keys(path, lie) if lie else path


def plain_clip(path: Path, count: int, first: int = 0) -> Path:
    """An ordinary h264 video of frames that show the numbers from `first` on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_clip(path, "h264", numbered(count, first), fps=FPS)
