"""Videos and images as files, parts of files and remote files; opening of videos for a decoder."""

from __future__ import annotations

import io
import os
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from lara_tokenizer._parse import MAX_PIXELS
from lara_tokenizer.errors import VideoDecodeError, first_line

# Remote files up to this size are downloaded whole in one request, and the last few are cached: counting the frames
# reads the whole video anyway, and decoding reads it again. Larger ones are read block by block.
_WHOLE_FILE_BYTES = 64 * 2**20
_CACHED_FILES = 4
# The codec of a transport stream is told within the first bytes, usually every 0.1 s; up to so many are searched.
_HEAD_BYTES = [2**k * 1000 for k in range(1, 12)]

# Decoders that show a damaged picture without a word unless told otherwise. Not for H.264 and others, which report
# damage anyway: there it refuses good files whose headers break a rule (OpenCV's box.mp4).
_STRICT = {"mjpeg": {"err_detect": "explode"}}


class Media(Hashable, Protocol):
    """A video that is not a file of its own, such as a tar member. Picklable and hashable; `str()` is its name."""

    def open(self) -> BinaryIO:
        """The bytes from the start as a seekable file; the caller closes it."""


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


def open_video(path: Path | Media) -> tuple[InputContainer, VideoStream]:
    """Open a video and choose its best video stream, for single-threaded decoding. Raises VideoDecodeError."""
    if isinstance(path, Path):
        if os.stat(path).st_size == 0:
            raise VideoDecodeError(path, "the file is empty (0 bytes)")
        # An absolute path, since ffmpeg takes a prefix up to a colon for a protocol.
        container = av.open(os.path.abspath(path), "r", metadata_errors="ignore")
    else:
        container = av.open(path.open(), "r", metadata_errors="ignore")
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
        kinds = ", ".join(sorted({each.type for each in container.streams})) or "nothing"
        container.close()
        raise VideoDecodeError(path, f"no video in it (streams: {kinds})")
    if stream.codec_context is None:
        container.close()
        raise VideoDecodeError(path, "no decoder for its video codec")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        container.close()
        raise VideoDecodeError(path, f"frames of {width}x{height}; up to {MAX_PIXELS:,} pixels are read")
    # One process per core uses the cores better than threads of one decoder.
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)} | _STRICT.get(
        stream.codec_context.codec.canonical_name, {}
    )
    return container, stream


def stream_packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Packets of the stream in decoding order, without empty ones (AVI's "repeat the last frame")."""
    return (packet for packet in container.demux(stream) if packet.size > 0)


def check_codec(path: Path | Media, container: InputContainer, stream: VideoStream, offset: int, place: str) -> None:
    """Refuse a transport stream that has another codec than `stream` from the byte `offset` on.

    `place` is part of the message, such as " near frame 57"; "" where `offset` is the start of the file, and the codec
    of `stream` comes later. Nothing is known of remote files. Raises VideoDecodeError.
    """
    if container.format.name != "mpegts" or not (files := local_files(path)):
        return
    if isinstance(path, FileSlice):
        offset, end = path.offset + offset, path.offset + path.size
    else:
        end = files[0].stat().st_size
    for size in _HEAD_BYTES:
        try:
            part, video = open_video(FileSlice(str(files[0]), offset, min(size, end - offset), str(path)))
        except (VideoDecodeError, av.error.FFmpegError):
            continue
        with part:
            codecs = [stream.codec_context.name, video.codec_context.name]
            is_same = video.id == stream.id
        if is_same and len(set(codecs)) > 1:
            between = " to ".join(codecs if place else codecs[::-1])
            raise VideoDecodeError(path, f"the codec changes within the video, from {between}{place}: split the file")
        return


@contextmanager
def decode_errors(path: Path | Media) -> Iterator[None]:
    """Convert any exception of a decoder into a VideoDecodeError with a plain reason."""
    try:
        yield
    except VideoDecodeError:
        raise
    except Exception as error:
        # Damaged files make PyAV raise many unrelated types (InvalidData, EOF, Index, UnicodeDecode, Memory,
        # PatchWelcome ...). All of them mean that this file cannot be read.
        raise VideoDecodeError(path, _reason(error)) from error


def _reason(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "no such file (moved or deleted?)"
        case IsADirectoryError():
            return "a folder, not a video file"
        case PermissionError():
            return "no permission to read it"
        case av.error.DecoderNotFoundError():
            return "no decoder for its video codec"
        case av.error.InvalidDataError():
            return "not a video, or damaged (invalid data)"
        case MemoryError():
            return "more memory requested than available (a damaged header?)"
        case _:
            return f"cannot be read ({type(error).__name__}: {first_line(error)})"
