"""Motion of a pair in closed form: normal flow and dense optical flow in G x G cells, and the grey frames they read.

Normal flow is the product of a pixel's temporal and spatial derivatives: the right-hand side of the least squares
problem for optical flow of Lucas and Kanade (1981). Its sign depends on the motion alone: it is the same for dark
objects on light and light objects on dark. Dense flow is DIS (Kroeger et al. 2016) by OpenCV, an optional dependency.

Shape suffixes: P, B pairs, C channels, S side, H and W of a frame as recorded, G cells per side.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lara_tokenizer.errors import missing_extra
from lara_tokenizer.model.steady_pairs import slopes

SCALES = (3, 7)  # widths of the smoothing window, in pixels of a 64 px frame: small and large motions
DIRECTIONS = 2  # x and y
GREY_SIDE = 128  # of the frames that dense flow reads: on 64 px it loses small motions
CELLS = 8  # per side, of dense flow
_LUMA = (0.299, 0.587, 0.114)


def grey_frames(frames_PHW3: np.ndarray) -> np.ndarray:
    """Frames as recorded, uint8 (P, H, W, 3), as grey ones of one size: uint8 (P, 128, 128); smaller ones are enlarged.

    >>> grey_frames(np.full((2, 90, 160, 3), 7, np.uint8)).shape
    (2, 128, 128)
    """
    frames = torch.from_numpy(np.ascontiguousarray(frames_PHW3)).permute(0, 3, 1, 2)
    resized = F.interpolate(frames, size=(GREY_SIDE, GREY_SIDE), mode="bilinear", antialias=True, align_corners=False)
    red, green, blue = (share * channel for share, channel in zip(_LUMA, resized.float().unbind(1), strict=True))
    return (red + green + blue).round_().to(torch.uint8).numpy()


def normal_flow(now: Tensor, future: Tensor, cells: int = CELLS) -> Tensor:
    """Normal flow (B, 4, G, G) of stabilized pairs (B, C, S, S) in 0..1: x and y at each scale, means over cells."""
    return torch.cat([_normal_flow(now, future, scale, cells) for scale in SCALES], 1)


def _normal_flow(now: Tensor, future: Tensor, scale: int, cells: int) -> Tensor:
    """Flow (B, 2, G, G): means over cells of temporal times spatial derivative, summed over colours."""
    size = now.shape[-1]
    window = max(1, round(scale * size / 64) // 2 * 2 + 1)
    margins = (window // 2,) * 4
    before, after = (F.avg_pool2d(F.pad(each, margins, mode="replicate"), window, 1) for each in (now, future))
    change = after - before
    slope_x, slope_y = slopes((before + after) / 2)
    flow = torch.stack([(change * slope_x).sum(1), (change * slope_y).sum(1)], 1)
    return F.avg_pool2d(-flow, size // cells)


def compressed(flow: Tensor, softness: float, scale: float = 1.0) -> Tensor:
    """`scale` times normal flow, with a signed square root of large values, or a few strong edges would dominate.

    Below `softness`, the root mean square of the flow of many pairs, it stays linear.
    """
    return scale * flow / (flow.abs() + softness).sqrt()


def optical_flow(now_PSS: np.ndarray, future_PSS: np.ndarray, cells: int = CELLS) -> np.ndarray:
    """Dense flow from frames t to frames t+C, grey uint8 (P, S, S): float32 (P, G G 2), mean (x, y) in G x G cells.

    In pixels of these frames. Equal calls give equal numbers. Raises ImportError without OpenCV.
    """
    try:
        import cv2
    except ImportError:
        raise missing_extra("optical flow (OpenCV)", "eval") from None
    threads = cv2.getNumThreads()
    # DIS cuts a frame into one stripe per thread, and its result depends on them.
    cv2.setNumThreads(1)
    try:
        # Its type stubs leave this function out.
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
        means = [
            _cell_means(flow.calc(now, future, None), cells) for now, future in zip(now_PSS, future_PSS, strict=True)
        ]
    finally:
        cv2.setNumThreads(threads)
    return np.stack(means) if means else np.empty((0, cells**2 * DIRECTIONS), np.float32)


def _cell_means(flow_SS2: np.ndarray, cells: int) -> np.ndarray:
    """(S, S, 2) -> (G G 2), row by row."""
    side = len(flow_SS2) // cells
    return flow_SS2.reshape(cells, side, cells, side, DIRECTIONS).mean((1, 3)).reshape(-1)
