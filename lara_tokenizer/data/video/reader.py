"""`VideoReader`: exact frames of one video file by index, through PyAV."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from lara_tokenizer.data.episode import FrameIndex, check_indices
from lara_tokenizer.data.video.display import Orientation
from lara_tokenizer.data.video.gop_decoder import FrameMismatchError, GopDecoder, verify_decodes_completely
from lara_tokenizer.data.video.media import Media, decode_errors, file_version, local_files, open_video
from lara_tokenizer.data.video.packets import PacketTable, scan
from lara_tokenizer.errors import VideoDecodeError

logger = logging.getLogger(__name__)

# PyAV 17 and later convert colours with one thread per core by default; earlier versions use one thread.
ONE_THREAD = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}


class VideoReader:
    """A `FrameReader` for one video with one camera: a file, or the bytes of a `Media`.

    Frame i is the i-th in presentation order, with the pixels that decoding the whole file produces. Only groups of
    pictures with a requested frame are decoded, and calls with increasing indices continue without a new seek.

    >>> reader = VideoReader("clip.mp4")  # doctest: +SKIP
    >>> reader.index().num_frames         # doctest: +SKIP
    37
    >>> reader.frames("", [0, 36]).shape  # doctest: +SKIP
    (2, 480, 640, 3)
    """

    library = "pyav"

    def __init__(self, path: str | Path | Media) -> None:
        self.path: Path | Media = Path(path) if isinstance(path, str) else path
        self._scanned: tuple[PacketTable, FrameIndex] | None = None
        self._version = (0, 0)  # of the file that was scanned
        self._decoder: GopDecoder | None = None
        self._from_start = False
        self._turn: Orientation | None = None  # of all frames, where the stream itself states one
        self._orientation = Orientation()  # of the frames read last
        self._first_size: tuple[int, int] | None = None  # width and height of frame 0 as stored, once they are needed

    def index(self, camera: str = "") -> FrameIndex:
        """Count and time the frames in one pass over the packets. Raises VideoDecodeError."""
        return self._scan()[1]

    def stated_duration(self, fps: float | None) -> float | None:
        """Duration in seconds according to the file's header; None if it states none, or if `fps` overrides its times.

        Raises VideoDecodeError.
        """
        if fps is not None:
            return None
        with decode_errors(self.path):
            container, stream = open_video(self.path)
            with container:
                if stream.duration and stream.time_base:
                    return float(stream.duration * stream.time_base)
                return container.duration / av.time_base if container.duration else None

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) in RGB, upright, at full size, in the order of `indices`.

        Raises VideoDecodeError for a frame that cannot be decoded, and IndexError for an index outside the video.
        """
        indices = check_indices(indices, self.index(camera).num_frames, self.path)
        lost = indices[self._scan()[0].lost[indices] >= 0]
        if len(lost):
            raise VideoDecodeError(self.path, f"damaged: bytes are lost near frame {lost.min()}")
        with decode_errors(self.path):
            # For no indices one frame is decoded all the same, as the result's shape (0, H, W, 3) needs its size.
            return self._read(indices) if len(indices) else self._read(np.zeros(1, np.int64))[:0]

    def files(self, camera: str = "") -> tuple[Path, ...]:
        """The file of the video, or the one that its bytes are part of; none where they are remote."""
        return local_files(self.path)

    def close(self) -> None:
        """Close the file; the next call opens it again, and counts its frames anew if it has been replaced."""
        self._close_decoder()
        if self._scanned is not None and file_version(self.path) != self._version:
            self._scanned = self._turn = self._first_size = None
            self._from_start = False

    def __getstate__(self) -> dict:
        # The packet table is pickled, so that a worker process need not scan again; an open decoder cannot be.
        return self.__dict__ | {"_decoder": None}

    def _close_decoder(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def _scan(self) -> tuple[PacketTable, FrameIndex]:
        if self._scanned is None:
            version = file_version(self.path)
            self._scanned = scan(self.path)
            self._version = version
        return self._scanned

    def _check_unchanged(self) -> None:
        if file_version(self.path) not in ((0, 0), self._version):
            raise VideoDecodeError(self.path, "the file has changed since its frames were counted")

    def _read(self, indices: np.ndarray) -> np.ndarray:
        try:
            if not self._from_start:
                try:
                    return self._decode(indices)
                except (FrameMismatchError, av.error.FFmpegError) as error:
                    logger.info("%s: %s; decoding from the start of the file instead", self.path, error)
                    self._close_decoder()
                    verify_decodes_completely(self.path, self._scan()[0])
                    self._from_start = True
            return self._decode(indices)
        except BaseException:
            self._close_decoder()
            raise

    def _decode(self, indices: np.ndarray) -> np.ndarray:
        if self._decoder is None:
            self._check_unchanged()
            self._decoder = GopDecoder(self.path, self._scan()[0], from_start=self._from_start)
        turn = self._turn_of_stream()
        # One converter for all frames: making it takes about a third of the time of a conversion.
        reformatter = VideoReformatter()
        unique, rows = np.unique(indices, return_inverse=True)
        out: np.ndarray | None = None
        for k, frame in enumerate(self._decoder.frames(unique)):
            if (frame.width, frame.height) != self._decoder.header_size:
                self._check_size(frame)
            orientation = turn or self._decoder.orientation
            pixels = orientation.apply(rgb_pixels(frame, reformatter))
            if out is None:
                out = np.empty((len(indices), *pixels.shape), np.uint8)
                self._orientation = orientation
            if pixels.shape != out.shape[1:]:
                sizes = " to ".join(f"{width}x{height}" for height, width, _ in (out.shape[1:], pixels.shape))
                raise VideoDecodeError(self.path, f"the frame size changes within the video, from {sizes}")
            out[rows == k] = pixels
        assert out is not None
        return out

    def _turn_of_stream(self) -> Orientation | None:
        """The first frame's orientation where the stream itself states one: it may not do so again for later frames."""
        table = self._scan()[0]
        if table.is_turned_within and self._turn is None:
            self._read_first()
        return self._turn

    def _check_size(self, frame: av.VideoFrame) -> None:
        """Refuse a frame of another size than the first one; both may differ from the header's."""
        first = self._first_size or self._read_first()
        if first != (frame.width, frame.height):
            sizes = f"{first[0]}x{first[1]} to {frame.width}x{frame.height}"
            raise VideoDecodeError(self.path, f"the frame size changes within the video, from {sizes}")

    def _read_first(self) -> tuple[int, int]:
        """Keep the orientation and the stored size of frame 0; returns its width and height."""
        decoder = GopDecoder(self.path, self._scan()[0], from_start=True)
        try:
            frame = next(decoder.frames([0]))
        finally:
            decoder.close()
        self._turn = decoder.orientation if self._scan()[0].is_turned_within else None
        self._first_size = frame.width, frame.height
        return self._first_size


def rgb_pixels(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """uint8 (H, W, 3): a frame at full size, as it is stored.

    A view of the converted frame: copy it before that is released.
    """
    rgb = reformatter.reformat(frame, format="rgb24", **ONE_THREAD)
    plane = rgb.planes[0]
    # Lines are padded: line_size is at least 3 * width.
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(rgb.height, plane.line_size)
    return lines[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
