"""The videos of a Moto dataset: one mp4 an episode, frame for frame that of the source.

MPEG-4 part 2, as Moto's own preprocessing writes through `cv2.VideoWriter`: every build of OpenCV reads it and finds
frames by their number in it, and it takes odd sizes, where H.264 does not. Measured with OpenCV 5.0 on 256 x 320
frames: three frames of a newly opened file in 17 ms (H.264: 50 ms), and 0.6 ms to encode one. No B-frames, a key frame
every 12 as `cv2.VideoWriter` has it: OpenCV goes back 16 frames for a seek, so that more key frames would not speed
it up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from lara_tokenizer.data import Episode
from lara_tokenizer.errors import EpisodeReadError
from lara_tokenizer.export.folder import ExportFolder
from lara_tokenizer.export.frames import frame_chunks
from lara_tokenizer.export.parallel import run_tasks

_CODEC: Final = "mpeg4"
_GOP, _QUANTIZER = 12, "2"  # of 31, less is better


@dataclass(frozen=True, slots=True)
class VideoTask:
    """All frames of one episode and camera, to `file`; `size` (H, W) where all videos must have one."""

    episode: Episode
    camera: str
    num_frames: int
    file: Path
    size: tuple[int, int] | None


def video_name(number: int, split: str) -> str:
    """How Moto names the video of an episode.

    >>> video_name(12, "train")
    'train_eps_00000012.mp4'
    """
    return f"{split}_eps_{number:08d}.mp4"


def write_videos(
    tasks: Iterable[VideoTask],
    folder: ExportFolder,
    workers: int | None = None,
    progress: Callable[[], object] | None = None,
) -> None:
    """Write the videos of all tasks; one that was finished by an earlier run is passed over.

    Args:
        tasks: asked for as they are needed.
        folder: remembers what is done.
        workers: processes; None takes one a core, 0 none but this one.
        progress: called for each video that is there.

    Raises:
        EpisodeReadError: for the first episode that cannot be read. What is finished by then is kept.
    """
    for task, _ in run_tasks(_write, _unfinished(tasks, folder, progress), workers):
        folder.mark_done(task.file.name)
        if progress is not None:
            progress()


def _unfinished(
    tasks: Iterable[VideoTask], folder: ExportFolder, progress: Callable[[], object] | None
) -> Iterator[VideoTask]:
    for task in tasks:
        if not folder.is_done(task.file.name):
            yield task
        elif progress is not None:
            progress()


def _write(task: VideoTask) -> None:
    """The video of a task, under its name once it is whole."""
    task.file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = task.file.with_suffix(".tmp")
    try:
        encode_mpeg4(unfinished, _chunks(task), task.episode.frame_index(task.camera).fps)
    finally:
        task.episode.close()
    os.replace(unfinished, task.file)


def _chunks(task: VideoTask) -> Iterator[np.ndarray]:
    for _, frames in frame_chunks(task.episode, task.camera, np.arange(task.num_frames)):
        size = frames.shape[1:3]
        if task.size is not None and size != task.size:
            raise EpisodeReadError(
                task.episode.id, f"its frames are {size}, those of the first episode {task.size} (height, width)"
            )
        yield frames


def encode_mpeg4(path: Path, chunks: Iterable[np.ndarray], fps: float) -> None:
    """Write uint8 (n, H, W, 3) RGB frames as an mp4. Equal frames give equal bytes."""
    import av

    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        options = {"qmin": _QUANTIZER, "qmax": _QUANTIZER, "threads": "1", "flags": "+bitexact"}
        # The format keeps the rate as 16-bit numbers.
        stream = container.add_stream(_CODEC, rate=Fraction(fps).limit_denominator(100), options=options)
        stream.pix_fmt, stream.gop_size = "yuv420p", _GOP
        for frames in chunks:
            if not stream.codec_context.is_open:
                stream.height, stream.width = frames.shape[1:3]
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
