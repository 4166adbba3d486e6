"""Videos and pictures that are no files of their own: a part of a file, a file on a server, bytes of a table."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image, ImageOps

from lara_tokenizer.data.episode import FrameIndex, check_indices
from lara_tokenizer.errors import EpisodeReadError, VideoDecodeError

# Remote files up to this size are fetched whole in one request, and the last few are kept: counting the frames reads
# all of a video anyway, and decoding reads it again. Larger ones are read block by block.
_WHOLE = 64 * 2**20
_KEPT = 4


@dataclass(frozen=True, slots=True)
class FileSlice:
    """`size` bytes of a file from `offset` on, such as a member of a tar; a `Media`.

    >>> FileSlice("train-00.tar", 512, 20480, "clip.mp4").open().read(8)  # doctest: +SKIP
    b'\\x00\\x00\\x00 ftyp'
    """

    path: str
    offset: int
    size: int
    name: str

    def __str__(self) -> str:
        return f"{self.path}, {self.name}"

    def open(self) -> BinaryIO:
        """The bytes as a seekable file. Raises OSError."""
        return io.BufferedReader(_Window(self.path, self.offset, self.size), 64 * 1024)

    def read(self) -> bytes:
        """All of them. Raises OSError, also where the file ends before the slice does."""
        with self.open() as file:
            data = file.read()
        if len(data) < self.size:
            raise OSError(f"the file is cut off: {len(data)} of {self.size} bytes")
        return data


class _Window(io.RawIOBase):
    """A read-only view of a part of a file, which is its own."""

    def __init__(self, path: str, offset: int, size: int) -> None:
        self._file = io.FileIO(path)
        self._offset, self._size, self._at = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._offset + self._at)
        got = self._file.readinto(memoryview(buffer)[:count]) or 0
        self._at += got
        return got

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        self._at = position + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at any URL that fsspec opens, such as "hf://datasets/user/name@commit/clip.mp4"; a `Media`.

    Nothing is written to disk. Up to 64 MiB it is fetched whole, and the last four such files are kept.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def open(self) -> BinaryIO:
        """The bytes as a seekable file. Raises OSError and whatever the server's client raises."""
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(self.url)
        return io.BytesIO(_whole(self.url)) if fs.size(path) <= _WHOLE else fs.open(path, "rb")

    def read(self) -> bytes:
        """All of them."""
        with self.open() as file:
            return file.read()


@lru_cache(maxsize=_KEPT)
def _whole(url: str) -> bytes:
    import fsspec

    with fsspec.open(url, "rb") as file:
        return file.read()


def decode_image(data: bytes, name: str) -> np.ndarray:
    """uint8 (H, W, 3) in RGB, upright: one encoded image (JPEG, PNG ...), called `name` in errors.

    Raises VideoDecodeError for what is no image, or damaged, or has more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                raise VideoDecodeError(name, f"{name} has {image.mode} pixels; 8 bits a channel are read")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except VideoDecodeError:
        raise
    except Exception as error:
        # As with video, damaged files make PIL raise many types (OSError, SyntaxError, struct.error ...).
        reason = "no image, or damaged" if isinstance(error, Image.UnidentifiedImageError) else error
        raise VideoDecodeError(name, f"{name} cannot be read ({reason})") from error


class EncodedImages(Protocol):
    """A sequence of images, each encoded by itself. Picklable."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """What people call image i."""

    def read(self, i: int) -> bytes:
        """Image i as it is stored. Any exception means that it cannot be had."""


class EncodedImagesReader:
    """A `FrameReader` for a sequence of encoded images; `source` names it in errors.

    Without `fps` the episode has to bring a rate. All images must have one size.
    """

    def __init__(self, source: object, images: EncodedImages, fps: float = math.nan) -> None:
        self.source, self.images, self.fps = str(source), images, fps
        self._size: tuple[int, ...] | None = None

    def index(self, camera: str = "") -> FrameIndex:
        """Count the images. Raises EpisodeReadError where there is none."""
        if len(self.images) == 0:
            raise EpisodeReadError(self.source, "no images")
        return FrameIndex(np.arange(len(self.images)) / self.fps, self.fps)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order asked.

        Raises VideoDecodeError for an image that cannot be read or has another size than the first, and IndexError for
        one outside the sequence.
        """
        numbers = check_indices(indices, len(self.images), self.source)
        if self._size is None:
            self._size = self._decode(0).shape
        height, width, _ = self._size
        out = np.empty((len(numbers), height, width, 3), np.uint8)
        for slot, number in enumerate(numbers.tolist()):
            pixels = self._decode(number)
            if pixels.shape != self._size:
                raise VideoDecodeError(
                    self.source,
                    f"{self.images.name(number)} is {pixels.shape[1]}x{pixels.shape[0]}, the first image "
                    f"{width}x{height}; all images of an episode must have one size",
                )
            out[slot] = pixels
        return out

    def close(self) -> None:
        """Nothing stays open between calls."""

    def _decode(self, i: int) -> np.ndarray:
        name = self.images.name(i)
        try:
            return decode_image(self.images.read(i), name)
        except EpisodeReadError as error:
            raise VideoDecodeError(self.source, error.reason) from error
        except Exception as error:
            raise VideoDecodeError(self.source, f"{name} cannot be read ({error})") from error
