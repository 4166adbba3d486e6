"""Videos and images that are not files of their own: parts of files, remote files, bytes in a table."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from lara_tokenizer.data.episode import FrameIndex, check_indices
from lara_tokenizer.errors import EpisodeReadError, VideoDecodeError

# Remote files up to this size are downloaded whole in one request, and the last few are cached: counting the frames
# reads the whole video anyway, and decoding reads it again. Larger ones are read block by block.
_WHOLE_FILE_BYTES = 64 * 2**20
_CACHED_FILES = 4


@dataclass(frozen=True, slots=True)
class FileSlice:
    """`size` bytes of a file from `offset` on, such as a tar member; a `Media`.

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
        """All bytes. Raises OSError, also where the file ends before the slice does."""
        with self.open() as file:
            data = file.read()
        if len(data) < self.size:
            raise OSError(f"the file is cut off: {len(data)} of {self.size} bytes")
        return data


class _Window(io.RawIOBase):
    """A read-only view of a part of a file, with a file handle of its own."""

    def __init__(self, path: str, offset: int, size: int) -> None:
        self._file = io.FileIO(path)
        self._offset = offset
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._offset + self._position)
        read = self._file.readinto(memoryview(buffer)[:count]) or 0
        self._position += read
        return read

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        self._position = position + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at any URL that fsspec opens, such as "hf://datasets/user/name@commit/clip.mp4"; a `Media`.

    Nothing is written to disk. Files of up to 64 MiB are downloaded whole, and the last four of them are cached.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def open(self) -> BinaryIO:
        """The bytes as a seekable file. Raises OSError and the errors of the remote file system."""
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(self.url)
        return io.BytesIO(_whole(self.url)) if fs.size(path) <= _WHOLE_FILE_BYTES else fs.open(path, "rb")

    def read(self) -> bytes:
        """All bytes."""
        with self.open() as file:
            return file.read()


@lru_cache(maxsize=_CACHED_FILES)
def _whole(url: str) -> bytes:
    import fsspec

    with fsspec.open(url, "rb") as file:
        return file.read()


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


class EncodedImagesReader:
    """A `FrameReader` for a sequence of individually encoded images of equal size.

    Args:
        source: names the sequence in errors.
        count: number of images.
        name: name of image i in errors.
        read: encoded bytes of image i; any exception it raises counts as an unreadable image. Picklable, like `name`.
        fps: frames per second; with NaN the episode must set a rate.
    """

    def __init__(
        self,
        source: object,
        count: int,
        name: Callable[[int], str],
        read: Callable[[int], bytes],
        fps: float = math.nan,
    ) -> None:
        self.source = str(source)
        self.fps = fps
        self._count = count
        self._name = name
        self._read = read
        self._size: tuple[int, ...] | None = None

    def index(self, camera: str = "") -> FrameIndex:
        """Count the images. Raises EpisodeReadError where there is none."""
        if self._count == 0:
            raise EpisodeReadError(self.source, "no images")
        return FrameIndex(np.arange(self._count) / self.fps, self.fps)

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, in the order of `indices`.

        Raises VideoDecodeError for an image that cannot be read or differs in size from the first, and IndexError.
        """
        indices = check_indices(indices, self._count, self.source)
        if self._size is None:
            self._size = self._decode(0).shape
        height, width, _ = self._size
        out = np.empty((len(indices), height, width, 3), np.uint8)
        for row, i in enumerate(indices.tolist()):
            pixels = self._decode(i)
            if pixels.shape != self._size:
                raise VideoDecodeError(
                    self.source,
                    f"{self._name(i)} is {pixels.shape[1]}x{pixels.shape[0]}, the first image {width}x{height}; "
                    "all images of an episode must have one size",
                )
            out[row] = pixels
        return out

    def close(self) -> None:
        """No file stays open between calls."""

    def _decode(self, i: int) -> np.ndarray:
        name = self._name(i)
        try:
            return decode_image(self._read(i), name)
        except EpisodeReadError as error:
            raise VideoDecodeError(self.source, error.reason) from error
        except Exception as error:
            raise VideoDecodeError(self.source, f"{name} cannot be read ({error})") from error
