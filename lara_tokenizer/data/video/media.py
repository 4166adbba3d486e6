"""Videos and images that are not files of their own: parts of files, and remote files."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

# Remote files up to this size are downloaded whole in one request, and the last few are cached: counting the frames
# reads the whole video anyway, and decoding reads it again. Larger ones are read block by block.
_WHOLE_FILE_BYTES = 64 * 2**20
_CACHED_FILES = 4


def local_files(media: object) -> tuple[Path, ...]:
    """The local file that holds a video: a path itself, or the file of a `FileSlice`; none for any other media."""
    if isinstance(media, Path):
        return (media,)
    return (Path(media.path),) if isinstance(media, FileSlice) else ()


def file_version(media: object) -> tuple[int, int]:
    """Modification time in nanoseconds and size of the local file that holds a video; zeros where there is none."""
    try:
        status = local_files(media)[0].stat()
    except (OSError, IndexError):
        return 0, 0
    return status.st_mtime_ns, status.st_size


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
