"""Does a pair move as a whole picture, as under a moving camera, or in one place, as under a fixed one?

The picture is cut into 8 x 8 cells. A cell moves when its pattern is no longer there: its grey levels
explain less than `SAME_PATTERN` of those of the same cell in the other frame (squared correlation). Correlation knows
neither brightness nor contrast, so a change of light moves no cell; a cell without a pattern, of a wall or the sky, has
no say. A pair moves as a whole picture when `WHOLE_PICTURE` of its patterned cells move, whatever the way: a pan, a
turn, a zoom, a walk, a cut, or a background that moves by itself.

Shape suffixes: B batch, S side of a frame, C cells (64), P pixels of a cell (16).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_CELLS, _SIDE = 8, 4  # cells a side of the picture, pixels a side of a cell
_PIXELS = _SIDE**2
_ENOUGH = 2 * _CELLS * _SIDE  # pixels a side that are looked at: more would only cost time
# Standard deviation of grey levels, 0 to 255, above which a cell has a pattern: compression leaves about one.
_PATTERN = 4.0
SAME_PATTERN = 0.8
WHOLE_PICTURE = 0.6
# Fewer patterned cells than this share do not speak for the picture: an object before a bare wall is no camera.
_LEAST_CELLS = 0.5


def picture_cells(frames_B3SS: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) -> float32 (B, C, P): whole grey levels, 0 to 255, of the picture at 32 x 32."""
    step = max(1, frames_B3SS.shape[-1] // _ENOUGH)
    colours = frames_B3SS[..., ::step, ::step].to(torch.int16)
    sums_BSS = (colours[:, 0] + colours[:, 1] + colours[:, 2]).float()
    grey = F.adaptive_avg_pool2d(sums_BSS, _CELLS * _SIDE).div_(3).round_()
    return grey.view(-1, _CELLS, _SIDE, _CELLS, _SIDE).transpose(2, 3).reshape(-1, _CELLS**2, _PIXELS)


def moved_share(now: Sequence[Tensor], future: Sequence[Tensor]) -> np.ndarray:
    """float64 (B,): the share of the patterned cells that move, from the cells (C, P) of B first and later frames.

    >>> frame = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    >>> moved_share(picture_cells(frame), picture_cells(frame))
    array([0.])
    """
    now_BCP, future_BCP = torch.stack(list(now)), torch.stack(list(future))
    variance_BC, future_variance_BC = _covariance(now_BCP, now_BCP), _covariance(future_BCP, future_BCP)
    covariance_BC = _covariance(now_BCP, future_BCP).clamp_(min=0)
    patterned_BC = torch.maximum(variance_BC, future_variance_BC) > (_PIXELS * _PATTERN) ** 2
    # Equal, at 0, where a pattern came or went and left nothing to correlate with.
    moved_BC = patterned_BC & (covariance_BC.square() <= SAME_PATTERN * variance_BC * future_variance_BC)
    counted_B = patterned_BC.sum(1).clamp_(min=int(_LEAST_CELLS * _CELLS**2))
    return (moved_BC.sum(1).double() / counted_B).numpy()


def moves_as_whole(now: Sequence[Tensor], future: Sequence[Tensor]) -> np.ndarray:
    """bool (B,): `moved_share` is at least `WHOLE_PICTURE`."""
    return moved_share(now, future) >= WHOLE_PICTURE


def _covariance(x_BCP: Tensor, y_BCP: Tensor) -> Tensor:
    """P^2 times the covariance, float64 (B, C). Whole numbers below 2^24 until here: no rounding, in any order."""
    return (_PIXELS * (x_BCP * y_BCP).sum(-1) - x_BCP.sum(-1) * y_BCP.sum(-1)).double()
