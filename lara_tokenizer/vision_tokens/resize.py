"""The resize of LAPA's loader, reproduced bit for bit.

The loader (albumentations: LongestMaxSize(256), then Resize(256, 256)) calls OpenCV's bilinear resize twice, without a
low-pass filter, and rounds to integers in between. OpenCV works on bytes with 11-bit weights, so its results differ
from rounded exact ones in the last bit, which may change a code.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = 11  # fractional bits of a weight


def square(frames_BHWC: Tensor, side: int) -> Tensor:
    """Resize uint8 (n, H, W, 3) to (n, side, side, 3): to the longer side at equal aspect ratio, then to a square.

    >>> square(torch.zeros(2, 48, 64, 3, dtype=torch.uint8), 256).shape
    torch.Size([2, 256, 256, 3])
    """
    height, width = frames_BHWC.shape[1:3]
    scale = side / max(height, width)
    fitted_BHWC = _resize(frames_BHWC, max(1, round(height * scale)), max(1, round(width * scale)))
    return _resize(fitted_BHWC, side, side)


def _resize(frames_BHWC: Tensor, height: int, width: int) -> Tensor:
    if frames_BHWC.shape[1:3] == (height, width):
        return frames_BHWC
    (above, below), (of_above, of_below) = _neighbours(frames_BHWC.shape[1], height, frames_BHWC.device)
    # The shifts by 4 and 16 bits and the rounding are those of OpenCV's vertical pass.
    upper_BHWC = _across(frames_BHWC[:, above], width) >> 4
    lower_BHWC = _across(frames_BHWC[:, below], width) >> 4
    total_BHWC = (upper_BHWC * of_above[:, None, None] >> 16) + (lower_BHWC * of_below[:, None, None] >> 16)
    return (total_BHWC + 2 >> 2).to(torch.uint8)


def _across(rows_BHWC: Tensor, width: int) -> Tensor:
    """Interpolate rows to `width` columns, in int32 fixed point with _BITS fractional bits."""
    (left, right), (of_left, of_right) = _neighbours(rows_BHWC.shape[2], width, rows_BHWC.device)
    return rows_BHWC[:, :, left] * of_left[:, None] + rows_BHWC[:, :, right] * of_right[:, None]


def _neighbours(size: int, count: int, device: torch.device) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The two source pixels of `size` around each of `count` output pixels, int64, and their int32 weights.

    At the border both are the same pixel; there still are two weights, because OpenCV truncates each product.
    """
    position = ((torch.arange(count, dtype=torch.float64) + 0.5) * (size / count) - 0.5).float()
    first = position.floor().long()
    share = position - position.floor()
    of_first, of_second = ((part * (1 << _BITS)).round().to(device, torch.int32) for part in (1 - share, share))
    pixels = (first.clamp(0, size - 1).to(device), (first + 1).clamp(0, size - 1).to(device))
    return pixels, (of_first, of_second)
