"""The frames of exported pairs as JPEG files, each written once; episodes in parallel, finished ones remembered.

images/<episode>/img_00012.jpg             frame 12; with several cameras images/<episode>/<camera>/...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lara_tokenizer.data import Episode
from lara_tokenizer.export.folder import ExportFolder
from lara_tokenizer.export.frames import frame_chunks
from lara_tokenizer.export.names import check_distinct, track_path
from lara_tokenizer.export.parallel import run_tasks

IMAGES = "images"
JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class PictureTask:
    """Frames of one episode and camera: int (n,), increasing, to `<folder>/img_<frame>.jpg`."""

    episode: Episode
    camera: str
    frames: np.ndarray
    folder: Path


def picture_name(episode: str, camera: str, frame: int) -> str:
    """Where a frame lies below the export's folder, with "/" between folders.

    The number has five digits at least, as LAPA names its pictures.

    >>> picture_name("kitchen/a.mp4", "", 12)
    'images/kitchen/a.mp4/img_00012.jpg'
    """
    return f"{picture_folder(episode, camera)}/{frame_file(frame)}"


def picture_folder(episode: str, camera: str) -> str:
    """The folder of an episode's pictures, below the export's."""
    return f"{IMAGES}/{track_path(episode, camera)}"


def frame_file(frame: int) -> str:
    """The file of a frame within its folder."""
    return f"img_{frame:05d}.jpg"


def write_pictures(
    tasks: Iterable[PictureTask],
    folder: ExportFolder,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write the pictures of all tasks; one that was finished by an earlier run is passed over.

    Args:
        tasks: asked for as they are needed.
        folder: remembers what is done.
        workers: processes; None takes one a core, 0 none but this one.
        progress: called with the number of pictures written for each finished task.

    Raises:
        EpisodeReadError: for the first episode that cannot be read. What is finished by then is kept.
    """
    to_do = (task for task in tasks if not folder.is_done(part_of(task)))
    for task, count in run_tasks(_write, to_do, workers):
        folder.mark_done(part_of(task))
        if progress is not None:
            progress(count)


def part_of(task: PictureTask) -> str:
    """The name under which an export's folder remembers that a task is done."""
    return json.dumps(["pictures", task.episode.id, task.camera])


def _write(task: PictureTask) -> int:
    """All pictures of a task; returns how many."""
    task.folder.mkdir(parents=True, exist_ok=True)
    try:
        for numbers, frames in frame_chunks(task.episode, task.camera, task.frames):
            for number, pixels in zip(numbers.tolist(), frames, strict=True):
                Image.fromarray(pixels).save(task.folder / frame_file(number), quality=JPEG_QUALITY)
    finally:
        task.episode.close()
    return len(task.frames)


def check_picture_folders(tracks: Iterable[tuple[str, str]]) -> None:
    """Raises ValueError where two of (episode, camera) would have one folder."""
    check_distinct(tracks, picture_folder, "pictures")
