"""Global motion of a pair: whether the whole image moves, as under a moving camera, or only some part of it.

The image is cut into 8 x 8 cells. A cell moves if its pattern is no longer there: the squared correlation of its grey
levels with those of the same cell in the other frame is at most `SAME_PATTERN`. Correlation is invariant to brightness
and contrast, so a change of light moves no cell; a cell without a pattern, of a wall or the sky, is not counted. A pair
has global motion if at least `GLOBAL_MOTION_SHARE` of its patterned cells move, in any direction: a pan, a turn, a
zoom, a walk, a cut, or a background that moves by itself.

Shape suffixes: B batch, S side of a frame, C cells (64), P pixels of a cell (16).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lara_tokenizer.thresholds import GLOBAL_MOTION_SHARE, SAME_PATTERN

_CELLS, _SIDE = 8, 4  # cells per side of the image, pixels per side of a cell
_PIXELS = _SIDE**2
_MAX_PIXELS = 2 * _CELLS * _SIDE  # per side of the image that are averaged: more would only cost time
# Standard deviation of grey levels, 0 to 255, above which a cell has a pattern: compression leaves about one.
_PATTERN = 4.0
# With fewer patterned cells than this share, an object in front of a bare wall would count as camera motion.
_LEAST_CELLS = 0.5


def image_cells(frames_B3SS: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) -> float32 (B, C, P): whole grey levels, 0 to 255, of the image at 32 x 32."""
    step = max(1, frames_B3SS.shape[-1] // _MAX_PIXELS)
    colours = frames_B3SS[..., ::step, ::step].to(torch.int16)
    sums_BSS = (colours[:, 0] + colours[:, 1] + colours[:, 2]).float()
    grey = F.adaptive_avg_pool2d(sums_BSS, _CELLS * _SIDE).div_(3).round_()
    return grey.view(-1, _CELLS, _SIDE, _CELLS, _SIDE).transpose(2, 3).reshape(-1, _CELLS**2, _PIXELS)


def moving_cell_share(now: Sequence[Tensor], future: Sequence[Tensor]) -> np.ndarray:
    """Share of the patterned cells that move: float64 (B,), from the cells (C, P) of B current and future frames.

    >>> frame = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    >>> moving_cell_share(image_cells(frame), image_cells(frame))
    array([0.])
    """
    now_BCP, future_BCP = torch.stack(list(now)), torch.stack(list(future))
    variance_BC, future_variance_BC = _covariance(now_BCP, now_BCP), _covariance(future_BCP, future_BCP)
    covariance_BC = _covariance(now_BCP, future_BCP).clamp_(min=0)
    patterned_BC = torch.maximum(variance_BC, future_variance_BC) > (_PIXELS * _PATTERN) ** 2
    # <=, not <: both sides are 0 where a pattern appeared or vanished and left nothing to correlate with.
    moved_BC = patterned_BC & (covariance_BC.square() <= SAME_PATTERN * variance_BC * future_variance_BC)
    counted_B = patterned_BC.sum(1).clamp_(min=int(_LEAST_CELLS * _CELLS**2))
    return (moved_BC.sum(1).double() / counted_B).numpy()


def is_global_motion(now: Sequence[Tensor], future: Sequence[Tensor]) -> np.ndarray:
    """bool (B,): `moving_cell_share` is at least `GLOBAL_MOTION_SHARE`."""
    return moving_cell_share(now, future) >= GLOBAL_MOTION_SHARE


def _covariance(x_BCP: Tensor, y_BCP: Tensor) -> Tensor:
    """P^2 times the covariance, float64 (B, C)."""
    # All values are whole numbers below 2^24 until here: float32 rounds none of them, in any order of summation.
    return (_PIXELS * (x_BCP * y_BCP).sum(-1) - x_BCP.sum(-1) * y_BCP.sum(-1)).double()
