"""Frames of exported pairs: decoded in chunks, and written as JPEG files, each once.

images/<episode>/img_00012.jpg             frame 12; with several cameras images/<episode>/<camera>/...
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lara_tokenizer.data import Episode
from lara_tokenizer.export.paths import check_distinct, sequence_path

IMAGES = "images"
_JPEG_QUALITY = 95
_CHUNK_BYTES = 32 * 2**20
_FIRST_CHUNK = 4  # frames, until their size is known


@dataclass(frozen=True, slots=True)
class ImageTask:
    """Frames of one episode and camera, int (n,), increasing, to be written as `<folder>/img_<frame>.jpg`."""

    episode: Episode
    camera: str
    frames: np.ndarray
    folder: Path

    @property
    def part(self) -> str:
        """The name under which the export's folder records that the images are finished."""
        return json.dumps(["pictures", self.episode.id, self.camera])

    @property
    def files(self) -> list[Path]:
        """The images."""
        return [self.folder / frame_file(frame) for frame in self.frames.tolist()]


def image_name(episode: str, camera: str, frame: int) -> str:
    """The path of a frame's image below the export's folder, with "/" between folders.

    The index has at least five digits, as in LAPA's image names.

    >>> image_name("kitchen/a.mp4", "", 12)
    'images/kitchen/a.mp4/img_00012.jpg'
    """
    return f"{image_folder(episode, camera)}/{frame_file(frame)}"


def image_folder(episode: str, camera: str) -> str:
    """The folder of an episode's images, below the export's.

    >>> image_folder("kitchen/a.mp4", "wrist")
    'images/kitchen/a.mp4/wrist'
    """
    return f"{IMAGES}/{sequence_path(episode, camera)}"


def frame_file(frame: int) -> str:
    """The file of a frame within its folder.

    >>> frame_file(12)
    'img_00012.jpg'
    """
    return f"img_{frame:05d}.jpg"


def check_image_folders(sequences: Iterable[tuple[str, str]]) -> None:
    """Raises ValueError where two of (episode, camera) would have one folder."""
    check_distinct(sequences, image_folder, "images")


def write_images(task: ImageTask) -> None:
    """Write all images of a task. Raises EpisodeReadError."""
    task.folder.mkdir(parents=True, exist_ok=True)
    try:
        for indices, frames in frame_chunks(task.episode, task.camera, task.frames):
            for index, pixels in zip(indices.tolist(), frames, strict=True):
                Image.fromarray(pixels).save(task.folder / frame_file(index), quality=_JPEG_QUALITY)
    finally:
        task.episode.close()


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """The bytes of the JPEG file that `write_images` writes of a frame, uint8 (H, W, 3)."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_JPEG_QUALITY)
    return stream.getvalue()


def frame_chunks(episode: Episode, camera: str, indices: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames `indices` (n,), in order, in chunks of at most about 32 MB, since a long episode may not fit in memory.

    Yields (indices of the chunk (m,), RGB frames uint8 (m, H, W, 3)). Raises EpisodeReadError.
    """
    start, count = 0, _FIRST_CHUNK
    while start < len(indices):
        chunk = indices[start : start + count]
        frames = episode.frames(camera, chunk)
        yield chunk, frames
        start += len(chunk)
        count = max(1, _CHUNK_BYTES // frames[0].nbytes)
