"""Episodes kept as a folder of numbered images."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from lara_tokenizer.data.episode import FrameIndex
from lara_tokenizer.data.video.media import EncodedImagesReader
from lara_tokenizer.errors import VideoDecodeError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def is_numbered_image(name: str) -> bool:
    """Whether a file name is that of one image of a sequence.

    >>> is_numbered_image("img_0012.png"), is_numbered_image("cover.png"), is_numbered_image("0012.txt")
    (True, False, False)
    """
    path = Path(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and any(c.isdigit() for c in path.stem)


def missing_number(names: Sequence[str]) -> str:
    """What is missing in a sequence of numbered names in natural order, for people; "" for nothing.

    Numbers may go up in steps of any one size. Where the gaps have no common step, they are time stamps, say, and
    nothing can be told.

    >>> missing_number(["f_1.png", "f_2.png", "f_4.png"]), missing_number(["f_0.png", "f_5.png", "f_10.png"])
    ('no number 3 between f_2.png and f_4.png', '')
    """
    columns = list(zip(*(re.findall(r"\d+", name) for name in names), strict=False))
    counted = [[int(number) for number in column] for column in columns if len(set(column)) > 1]
    if len(counted) != 1:
        return ""
    gaps = [later - earlier for earlier, later in pairwise(counted[0])]
    step = min(gaps)
    if step < 1 or any(gap % step for gap in gaps):
        return ""
    place = next((i for i, gap in enumerate(gaps) if gap != step), None)
    return (
        "" if place is None else f"no number {counted[0][place] + step} between {names[place]} and {names[place + 1]}"
    )


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key by which img_9 comes before img_10.

    >>> sorted(["img_10.png", "img_9.png"], key=natural_key)
    ['img_9.png', 'img_10.png']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


@dataclass(frozen=True, slots=True)
class _FolderImages:
    folder: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return self.names[i]

    def read(self, i: int) -> bytes:
        return (self.folder / self.names[i]).read_bytes()


class ImageFolderReader:
    """A `FrameReader` for one folder of numbered images, in natural order, taken at `fps` frames per second.

    Without `fps` the episode has to bring a rate.

    >>> ImageFolderReader("run1", fps=10).frames("", [0]).shape  # doctest: +SKIP
    (1, 256, 320, 3)
    """

    def __init__(self, folder: str | Path, fps: float = math.nan) -> None:
        self.folder = Path(folder)
        self.fps = fps
        self._listed: EncodedImagesReader | None = None

    def index(self, camera: str = "") -> FrameIndex:
        """List the folder, once. Raises VideoDecodeError where it holds no sequence, or several."""
        return self._list().index(camera)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order asked.

        Raises VideoDecodeError for an image that cannot be read or has another size than the first, and
        IndexError for an index outside the sequence.
        """
        return self._list().frames(camera, indices)

    def close(self) -> None:
        """Nothing stays open between calls."""

    def _list(self) -> EncodedImagesReader:
        if self._listed is None:
            try:
                names = [entry.name for entry in self.folder.iterdir() if is_numbered_image(entry.name)]
            except OSError as error:
                raise VideoDecodeError(self.folder, f"cannot be listed ({error.strerror})") from error
            names = [name for name in names if not name.startswith(".")]
            # rgb_001.png beside depth_001.png: one after the other they would be no film.
            patterns = sorted({re.sub(r"\d+", "*", name) for name in names})
            if len(patterns) != 1:
                found = f"several sequences ({', '.join(patterns[:4])})" if patterns else "no numbered images"
                raise VideoDecodeError(self.folder, f"{found}; an episode is one folder with one sequence")
            names.sort(key=natural_key)
            if missing := missing_number(names):
                raise VideoDecodeError(self.folder, f"{missing}: what comes after it would have a wrong time")
            images = _FolderImages(self.folder, tuple(names))
            self._listed = EncodedImagesReader(self.folder, images, self.fps)
        return self._listed
