"""Episodes kept as a folder of numbered images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lara_tokenizer.data.episode import FrameIndex, check_indices
from lara_tokenizer.errors import VideoDecodeError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def is_numbered_image(name: str) -> bool:
    """Whether a file name is that of one image of a sequence.

    >>> is_numbered_image("img_0012.png"), is_numbered_image("cover.png"), is_numbered_image("0012.txt")
    (True, False, False)
    """
    path = Path(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and any(c.isdigit() for c in path.stem)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key by which img_9 comes before img_10.

    >>> sorted(["img_10.png", "img_9.png"], key=natural_key)
    ['img_9.png', 'img_10.png']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


class ImageFolderReader:
    """A `FrameReader` for one folder of numbered images, in natural order, taken at `fps` frames per second.

    >>> ImageFolderReader("run1", fps=10).frames("", [0]).shape  # doctest: +SKIP
    (1, 256, 320, 3)
    """

    def __init__(self, folder: str | Path, fps: float) -> None:
        self.folder = Path(folder)
        self.fps = fps
        self._names: list[str] | None = None
        self._size: tuple[int, int] | None = None

    def index(self, camera: str = "") -> FrameIndex:
        """List the folder, once. Raises VideoDecodeError where it holds no sequence, or several."""
        names = self._list()
        return FrameIndex(np.arange(len(names)) / self.fps, self.fps)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order asked.

        Raises VideoDecodeError for an image that cannot be read or has another size than the first, and
        IndexError for an index outside the sequence.
        """
        names = self._list()
        numbers = check_indices(indices, len(names), self.folder)
        if self._size is None:
            self._size = self._read(names[0]).shape[:2]
        height, width = self._size
        out = np.empty((len(numbers), height, width, 3), np.uint8)
        for slot, number in enumerate(numbers):
            pixels = self._read(names[number])
            if pixels.shape[:2] != (height, width):
                raise VideoDecodeError(
                    self.folder,
                    f"{names[number]} is {pixels.shape[1]}x{pixels.shape[0]}, the first image {width}x{height}; "
                    "all images of an episode must have one size",
                )
            out[slot] = pixels
        return out

    def close(self) -> None:
        """Nothing stays open between calls."""

    def _list(self) -> list[str]:
        if self._names is None:
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
            self._names = sorted(names, key=natural_key)
        return self._names

    def _read(self, name: str) -> np.ndarray:
        try:
            with Image.open(self.folder / name) as image:
                if image.mode.startswith(("I", "F")):
                    raise VideoDecodeError(self.folder, f"{name} has {image.mode} pixels; 8 bits a channel are read")
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except VideoDecodeError:
            raise
        except Exception as error:
            # As with video, damaged files make PIL raise many types (OSError, SyntaxError, struct.error ...).
            raise VideoDecodeError(self.folder, f"{name} cannot be read ({error})") from error
