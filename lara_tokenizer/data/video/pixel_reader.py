"""Base of the readers whose pixels come from another library than PyAV, and the comparison of its frames with PyAV's.

The libraries seek without an error to where decoding cannot start, or to a neighbour of the frame asked for. Converted
pixels of all of them are equal in every bit on most files, since FFmpeg's arithmetic is the same, so that a neighbour
is told apart in the slowest scene. Colours differ slightly where a file has 10 bits or names an invalid colour matrix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lara_tokenizer.data.episode import FrameIndex
from lara_tokenizer.data.video.media import Media
from lara_tokenizer.data.video.packets import PacketTable
from lara_tokenizer.data.video.reader import VideoReader
from lara_tokenizer.errors import VideoDecodeError

# Levels of 255 by which colour conversion may differ on the mean over a block, and the side of a block in pixels.
# Measured: 5 with an invalid colour matrix; 57 to 96, on the mean over the image, for pictures without references.
_ROUNDING = 8.0
_BLOCK = 16


class PixelReader(VideoReader, ABC):
    """Base of the decord and torchcodec readers: the packet scan of `VideoReader`, pixels from another library."""

    def __init__(self, path: str | Path | Media) -> None:
        super().__init__(path)
        self._opened: Any = None
        self._exact = VideoReader(path)  # scans the packets, and reads the frames to compare with

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        super().close()
        self._exact.close()
        self._opened = None

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_opened": None}

    @abstractmethod
    def _open(self) -> Any:
        """Open the file in the library. Raises VideoDecodeError."""

    @abstractmethod
    def _pixels(self, indices: np.ndarray) -> np.ndarray:
        """The checked frames of one or more indices, as `frames`, from `self._opened`. Raises VideoDecodeError."""

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._opened is None:
            self._exact._check_unchanged()
            self._opened = self._open()
        try:
            return self._pixels(indices)
        except BaseException:
            # At which frame the library stands now is unknown.
            self._opened = None
            raise

    def _scan(self) -> tuple[PacketTable, FrameIndex]:
        return self._exact._scan()

    def _input(self) -> str | BinaryIO:
        """The path or file object that the library opens."""
        return str(self.path) if isinstance(self.path, Path) else self.path.open()

    def _check_stamps(self) -> None:
        """Refuse a file in which a time stamp does not name one frame, since both libraries seek by time."""
        if not self._scan()[0].is_stamped:
            raise self._refusal("finds frames by their time stamps, and some here have none or another frame's")

    def _check_count(self, count: int) -> None:
        listed = self.index().num_frames
        if count != listed:
            raise self._refusal(f"counts {count} frames where the file shows {listed}")

    def _exact_images(self, numbers: np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3): the frames as PyAV reads them, of a file that the library can show upright."""
        images = self._exact.frames("", numbers)
        turn = self._exact._orientation
        # A rotation is a mirroring twice.
        if turn.transpose ^ turn.mirror_x ^ turn.mirror_y:
            raise self._refusal("rotates images by the file's display matrix but does not mirror them")
        return images

    def _check_images(self, numbers: np.ndarray, images: np.ndarray) -> None:
        """Compare the library's images of some frames, uint8 (n, H, W, 3), with PyAV's; refuse where one is another."""
        exact = self._exact_images(numbers)
        for i, given, expected in zip(numbers, images, exact, strict=True):
            if not np.array_equal(given, expected):
                self._check_image(int(i), given)

    def _check_image(self, i: int, image: np.ndarray) -> bool:
        """Compare the library's image of frame i, uint8 (H, W, 3), with PyAV's; refuse where it is another.

        Returns whether frame i could not be taken for another: False in a scene with little motion, in which the same
        images may come again with each group of pictures.
        """
        numbers = np.arange(max(i - 1, 0), min(i + 2, self.index().num_frames))
        exact = self._exact_images(numbers)
        if image.shape != exact.shape[1:]:
            raise self._refusal(f"gives an image of shape {image.shape} for frame {i}, not {exact.shape[1:]}")
        differences = np.abs(exact.astype(np.int16) - image)
        means, largest = differences.mean((1, 2, 3)), np.array([_largest_block(each) for each in differences])
        own = int(i - numbers[0])
        # Of frames that differ by no more than rounding, the image has to be nearest to the one asked for.
        if largest[own] > _ROUNDING or means[own] > means.min():
            raise self._refusal(f"gives another image for frame {i}")
        return bool((np.delete(largest, own) > _ROUNDING).all())

    def _refusal(self, problem: str) -> VideoDecodeError:
        return VideoDecodeError(self.path, f"{self.library} {problem}. Use the decoder pyav")


def _largest_block(difference: np.ndarray) -> float:
    """The largest mean over any block of (H, W, 3): a mean over the image would hide what moves in a small part.

    >>> difference = np.zeros((20, 40, 3), np.int16)
    >>> difference[:4, :4] = 64
    >>> _largest_block(difference)
    4.0
    """
    height, width, _ = difference.shape
    rows, columns = np.arange(0, height, _BLOCK), np.arange(0, width, _BLOCK)
    sums = np.add.reduceat(np.add.reduceat(difference.sum(2, dtype=np.int64), rows, 0), columns, 1)
    counts = np.diff([*rows, height])[:, None] * np.diff([*columns, width]) * 3
    return float((sums / counts).max())
