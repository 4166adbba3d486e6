"""Sequences of encoded images: from any place that stores their bytes, and from folders of numbered images."""

from __future__ import annotations

import hashlib
import io
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lara_tokenizer._parse import MAX_PIXELS
from lara_tokenizer.data.episode import CameraReaders, FrameIndex, FrameReader, check_indices
from lara_tokenizer.data.video.numbered import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from lara_tokenizer.data.video.numbered import ImageSequence, missing_number, numbered_images, several_sequences
from lara_tokenizer.data.video.numbered import is_numbered_image as is_numbered_image
from lara_tokenizer.errors import EpisodeReadError, VideoDecodeError, first_line


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode one image (JPEG, PNG, ...) to uint8 (H, W, 3) in RGB, upright; `name` names it in errors.

    Raises VideoDecodeError for other or damaged data, for more than 8 bits per channel, and, by the header alone, for
    more than `MAX_PIXELS` pixels.
    """
    try:
        with warnings.catch_warnings():
            # Pillow's own limit would warn for some pictures that this one refuses or takes.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise VideoDecodeError(
                    name, f"{name} has {image.width}x{image.height} pixels; up to {MAX_PIXELS:,} are read"
                )
            if image.mode.startswith(("I", "F")):
                raise VideoDecodeError(name, f"{name} has {image.mode} pixels; 8 bits per channel are supported")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except VideoDecodeError:
        raise
    except Exception as error:
        # As with video, damaged files make PIL raise many types (OSError, SyntaxError, struct.error ...).
        reason = "not an image, or damaged" if isinstance(error, Image.UnidentifiedImageError) else first_line(error)
        raise VideoDecodeError(name, f"{name} cannot be read ({reason})") from error


def image_mode(data: bytes) -> str:
    """Pillow's mode of an encoded image ("RGB", "L", "I;16"), from its header. Raises what Pillow raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data)) as image:
            return image.mode


def digest_of(sizes: Sequence[int] | np.ndarray) -> str:
    """Hex digest of the sizes in bytes of a sequence's images, to notice that it was replaced."""
    return hashlib.sha256(np.asarray(sizes, "<i8").tobytes()).hexdigest()


@dataclass(eq=False)
class EncodedImagesReader:
    """A `FrameReader` for a sequence of individually encoded images of equal size."""

    source: object  # names the sequence in errors
    count: int
    name: Callable[[int], str]  # name of image i in errors; picklable, like `read`
    read: Callable[[int], bytes]
    """Encoded bytes of image i; any exception that it raises counts as an unreadable image."""
    fps: float = math.nan  # frames per second; with NaN the episode must set a rate
    digest: str = ""  # as `FrameIndex.digest`
    _size: tuple[int, ...] | None = field(default=None, init=False)

    def index(self, camera: str = "") -> FrameIndex:
        """Count the images. Raises EpisodeReadError where there is none."""
        if self.count == 0:
            raise EpisodeReadError(self.source, "no images")
        return FrameIndex(np.arange(self.count) / self.fps, self.fps, digest=self.digest)

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
            raise VideoDecodeError(self.source, f"{name} cannot be read ({first_line(error)})") from error


class ImageFolderReader(CameraReaders):
    """A `FrameReader` for one folder of numbered images, in natural order, at `fps` frames per second.

    With NaN for `fps` the episode must set a rate. `sequence` selects one of several sequences in the folder.

    >>> ImageFolderReader("run1", fps=10).frames("", [0]).shape  # doctest: +SKIP
    (1, 256, 320, 3)
    """

    def __init__(self, folder: str | Path, fps: float = math.nan, sequence: ImageSequence | None = None) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.fps = fps
        self.sequence = sequence

    def open_camera(self, camera: str) -> FrameReader:
        """List the folder. Raises VideoDecodeError where it holds no sequence, or several, or one with a gap."""
        names = self._names()
        if self.sequence is None and (problem := several_sequences(names)):
            raise VideoDecodeError(self.folder, f"{problem}; an episode is one folder with one sequence")
        if missing := missing_number(names):
            raise VideoDecodeError(self.folder, f"{missing}: later frames would have wrong times")
        read = partial(_read_file, self.folder, names)
        return EncodedImagesReader(self.folder, len(names), names.__getitem__, read, self.fps, self._digest(names))

    def files(self, camera: str = "") -> tuple[Path, ...]:
        """The images of the sequence, in order; none where the folder cannot be listed."""
        try:
            return tuple(self.folder / name for name in self._names())
        except VideoDecodeError:
            return ()

    def _digest(self, names: Sequence[str]) -> str:
        try:
            return digest_of([os.stat(self.folder / name).st_size for name in names])
        except OSError:  # a link to nothing, say: reading that image will tell
            return ""

    def _names(self) -> list[str]:
        try:
            names = numbered_images(os.listdir(self.folder))
        except OSError as error:
            raise VideoDecodeError(self.folder, f"cannot be listed ({error.strerror})") from error
        return names if self.sequence is None else [name for name in names if self.sequence.contains(name)]


def _read_file(folder: Path, names: Sequence[str], i: int) -> bytes:
    return (folder / names[i]).read_bytes()
