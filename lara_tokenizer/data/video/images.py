"""Sequences of encoded images: from any place that stores their bytes, and from folders of numbered images."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lara_tokenizer.data.episode import CameraReaders, FrameIndex, FrameReader, check_indices, natural_key
from lara_tokenizer.errors import EpisodeReadError, VideoDecodeError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def is_numbered_image(name: str) -> bool:
    """Whether a file name looks like one image of a numbered sequence.

    >>> is_numbered_image("img_0012.png"), is_numbered_image("cover.png"), is_numbered_image("0012.txt")
    (True, False, False)
    """
    path = Path(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and any(c.isdigit() for c in path.stem)


def missing_number(names: Sequence[str]) -> str:
    """Message about the first gap in a sequence of numbered names in natural order; "" where there is none.

    Numbers may increase in steps of any constant size. Gaps without a common step (time stamps, for instance) are not
    reported.

    >>> missing_number(["f_1.png", "f_2.png", "f_4.png"]), missing_number(["f_0.png", "f_5.png", "f_10.png"])
    ('no number 3 between f_2.png and f_4.png', '')
    """
    columns = list(zip(*(re.findall(r"\d+", name) for name in names), strict=False))
    counted = [[int(number) for number in column] for column in columns if len(set(column)) > 1]
    # With several changing numbers in the names it is unknown which one counts the frames.
    if len(counted) != 1:
        return ""
    gaps = [later - earlier for earlier, later in pairwise(counted[0])]
    step = min(gaps)
    if step < 1 or any(gap % step for gap in gaps):
        return ""
    i = next((i for i, gap in enumerate(gaps) if gap != step), None)
    return "" if i is None else f"no number {counted[0][i] + step} between {names[i]} and {names[i + 1]}"


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode one image (JPEG, PNG, ...) to uint8 (H, W, 3) in RGB, upright; `name` names it in errors.

    Raises VideoDecodeError for other or damaged data, and for more than 8 bits per channel.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                raise VideoDecodeError(name, f"{name} has {image.mode} pixels; 8 bits per channel are supported")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except VideoDecodeError:
        raise
    except Exception as error:
        # As with video, damaged files make PIL raise many types (OSError, SyntaxError, struct.error ...).
        reason = "not an image, or damaged" if isinstance(error, Image.UnidentifiedImageError) else error
        raise VideoDecodeError(name, f"{name} cannot be read ({reason})") from error


@dataclass(eq=False)
class EncodedImagesReader:
    """A `FrameReader` for a sequence of individually encoded images of equal size."""

    source: object  # names the sequence in errors
    count: int
    name: Callable[[int], str]  # name of image i in errors; picklable, like `read`
    read: Callable[[int], bytes]
    """Encoded bytes of image i; any exception that it raises counts as an unreadable image."""
    fps: float = math.nan  # frames per second; with NaN the episode must set a rate
    _size: tuple[int, ...] | None = field(default=None, init=False)

    def index(self, camera: str = "") -> FrameIndex:
        """Count the images. Raises EpisodeReadError where there is none."""
        if self.count == 0:
            raise EpisodeReadError(self.source, "no images")
        return FrameIndex(np.arange(self.count) / self.fps, self.fps)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order of `indices`.

        Raises VideoDecodeError for an image that cannot be read or differs in size from the first, and IndexError.
        """
        indices = check_indices(indices, self.count, self.source)
        if self._size is None:
            self._size = self._decode(0).shape
        height, width, _ = self._size
        out = np.empty((len(indices), height, width, 3), np.uint8)
        for row, i in enumerate(indices.tolist()):
            pixels = self._decode(i)
            if pixels.shape != self._size:
                raise VideoDecodeError(
                    self.source,
                    f"{self.name(i)} is {pixels.shape[1]}x{pixels.shape[0]}, the first image {width}x{height}; "
                    "all images of an episode must have one size",
                )
            out[row] = pixels
        return out

    def close(self) -> None:
        """No file stays open between calls."""

    def _decode(self, i: int) -> np.ndarray:
        name = self.name(i)
        try:
            return decode_image(self.read(i), name)
        except EpisodeReadError as error:
            raise VideoDecodeError(self.source, error.reason) from error
        except Exception as error:
            raise VideoDecodeError(self.source, f"{name} cannot be read ({error})") from error


class ImageFolderReader(CameraReaders):
    """A `FrameReader` for one folder of numbered images, in natural order, at `fps` frames per second.

    With NaN for `fps` the episode must set a rate.

    >>> ImageFolderReader("run1", fps=10).frames("", [0]).shape  # doctest: +SKIP
    (1, 256, 320, 3)
    """

    def __init__(self, folder: str | Path, fps: float = math.nan) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.fps = fps

    def open_camera(self, camera: str) -> FrameReader:
        """List the folder. Raises VideoDecodeError where it holds no sequence, or several, or one with a gap."""
        try:
            names = [entry.name for entry in self.folder.iterdir() if is_numbered_image(entry.name)]
        except OSError as error:
            raise VideoDecodeError(self.folder, f"cannot be listed ({error.strerror})") from error
        names = sorted((name for name in names if not name.startswith(".")), key=natural_key)
        # Several name patterns are several sequences (rgb_001.png beside depth_001.png), not one longer video.
        patterns = sorted({re.sub(r"\d+", "*", name) for name in names})
        if len(patterns) != 1:
            problem = f"several sequences ({', '.join(patterns[:4])})" if patterns else "no numbered images"
            raise VideoDecodeError(self.folder, f"{problem}; an episode is one folder with one sequence")
        if missing := missing_number(names):
            raise VideoDecodeError(self.folder, f"{missing}: later frames would have wrong times")
        read = partial(_read_file, self.folder, names)
        return EncodedImagesReader(self.folder, len(names), names.__getitem__, read, self.fps)


def _read_file(folder: Path, names: Sequence[str], i: int) -> bytes:
    return (folder / names[i]).read_bytes()
