"""Global motion and lighting compensation of frame pairs (video stabilization of frame t+C against frame t).

With a shaking camera most of the change in a pair is background motion, and latent actions would encode little else.
The translation of the whole image is estimated by phase correlation (Kuglin and Hines 1975), to subpixel accuracy from
the larger neighbour of the peak (Foroosh et al. 2002), then refined by robust least squares on image gradients (Lucas
and Kanade 1981), in which independently moving objects have little weight. Lighting is one gain per colour channel.

Shape suffixes: B pairs, S side in pixels.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)
_FARTHEST = 1 / 6  # of the side: a peak beyond it comes from a moving object, or from noise
_LEAST_PEAK = 0.01  # a pure translation gives 1; below this at least one frame has no texture to match
_MOST_LIGHT = 2.0  # gains are clamped to this and its inverse: more is a change of scene, not of lighting
_REFINEMENTS = 5
_UNUSUAL = 30  # times the median change: a pixel that changes so much belongs to an independently moving object
_WORTH = 0.95  # of the original difference: a pair that is not improved below this is left unchanged


def steady_future(frames: Tensor, future_frames: Tensor) -> Tensor:
    """Compensate the later frames of pairs for camera motion and lighting: uint8 (B, 3, S, S) each.

    A pair whose difference does not shrink by it is left unchanged. Regions outside the later frame are filled from the
    earlier one.

    >>> still = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    >>> torch.equal(steady_future(still, still), still)
    True
    """
    now, future = frames.float() / 255, future_frames.float() / 255
    shift_B2 = find_shift(now, future)
    guess = _undone(now, future, shift_B2)
    # Most cameras do not move: only the pairs that the first estimate improves are refined.
    rows = (_difference(guess, now) < _difference(future, now)).nonzero().flatten()
    if not len(rows):
        return future_frames
    steady, worth = _refined(now[rows], future[rows], shift_B2[rows])
    out = future_frames.clone()
    out[rows] = torch.where(worth, steady.mul(255).round().to(torch.uint8), future_frames[rows])
    return out


def steady_future_as_graph(frames: Tensor, future_frames: Tensor) -> Tensor:
    """`steady_future` of all pairs alike, without branches, for export: uint8 in, floats in 0..255 out."""
    now, future = frames.float() / 255, future_frames.float() / 255
    shift_B2 = find_shift(now, future)
    improved = _difference(_undone(now, future, shift_B2), now) < _difference(future, now)
    steady, worth = _refined(now, future, shift_B2)
    return torch.where(improved[:, None, None, None] & worth, steady.mul(255).round(), future_frames.float())


def _refined(now: Tensor, future: Tensor, shift_B2: Tensor) -> tuple[Tensor, Tensor]:
    """The later frames with a refined shift undone, in 0..1, and whether each pair is worth it: bool (B, 1, 1, 1)."""
    grey, grey_future = _grey(now), _grey(future)
    for _ in range(_REFINEMENTS):
        shift_B2 = shift_B2 + _left_over(grey, _undone(grey, grey_future, shift_B2))
    steady = _undone(now, future, shift_B2)
    return steady, (_difference(steady, now) < _WORTH * _difference(future, now))[:, None, None, None]


def find_shift(now: Tensor, future: Tensor) -> Tensor:
    """Estimate the translation (B, 2) in pixels (x, y) from one frame (B, 3, S, S) in 0..1 to the other."""
    side = now.shape[-1]
    # The window hides the border, whose discontinuity would itself correlate best at shift 0.
    hann_S = torch.hann_window(side, periodic=False, device=now.device)
    spectra = []
    for frames in (now, future):
        grey_BSS = _grey(frames)[:, 0]
        spectra.append(torch.fft.rfft2((grey_BSS - grey_BSS.mean((1, 2), keepdim=True)) * torch.outer(hann_S, hann_S)))
    # Only the phase is kept: it contains the shift, the magnitude only the content.
    cross = spectra[1] * spectra[0].conj()
    peaks_BSS = torch.fft.irfft2(cross / cross.abs().clamp(min=1e-6), s=(side, side))
    # Shift 0 is in the middle; one extra pixel at every edge gives each peak its neighbours.
    far, middle = max(1, round(_FARTHEST * side)), side // 2
    window = slice(middle - far - 1, middle + far + 2)
    nearby = torch.fft.fftshift(peaks_BSS, dim=(1, 2))[:, window, window]
    highest_B, best_B = nearby[:, 1:-1, 1:-1].flatten(1).max(1)
    y_B, x_B = best_B // (2 * far + 1) + 1, best_B % (2 * far + 1) + 1
    beyond_B2 = torch.stack([_beyond(nearby, y_B, x_B, 0, 1), _beyond(nearby, y_B, x_B, 1, 0)], 1)
    shift_B2 = torch.stack([x_B, y_B], 1) - (far + 1) + beyond_B2
    return torch.where((highest_B > _LEAST_PEAK)[:, None], shift_B2, 0.0)


def _grey(frames: Tensor) -> Tensor:
    """Luma of RGB frames: (B, 3, S, S) -> (B, 1, S, S)."""
    return (frames * torch.tensor(_LUMA, device=frames.device).view(3, 1, 1)).sum(1, keepdim=True)


def _difference(frames: Tensor, others: Tensor) -> Tensor:
    """Mean absolute difference of each pair of frames, (B,)."""
    return (frames - others).abs().mean((1, 2, 3))


def _undone(now: Tensor, future: Tensor, shift_B2: Tensor) -> Tensor:
    """Shift the later frame back and match the earlier one's lighting; uncovered regions are copied from the latter."""
    side = now.shape[-1]
    # The grid that affine_grid would make, without its matrix product.
    still_1SS2 = F.affine_grid(torch.eye(2, 3, device=now.device)[None], [1, 1, side, side], align_corners=False)
    grid_BSS2 = still_1SS2 + 2 * shift_B2[:, None, None] / side
    moved = F.grid_sample(future, grid_BSS2, padding_mode="border", align_corners=False)
    # The median ratio: a bright object that enters the frame must not change the gain of the rest.
    # The offset keeps the ratio of black pixels finite.
    ratio = (now.flatten(2) + 0.01) / (moved.flatten(2) + 0.01)
    gain = _median(ratio)[..., None, None].clamp(1 / _MOST_LIGHT, _MOST_LIGHT)
    inside_BSS2 = grid_BSS2.abs() <= 1 - 1 / side
    inside_BSS = inside_BSS2[..., 0] & inside_BSS2[..., 1]
    return torch.where(inside_BSS[:, None], (moved * gain).clamp(0, 1), now)


def _median(values: Tensor) -> Tensor:
    """The (lower) median of the last dimension; on a CPU by numpy, which partitions 5 to 10 times faster than torch."""
    middle = (values.shape[-1] - 1) // 2
    if torch.compiler.is_compiling():  # an exported graph has no median
        return values.topk(middle + 1, largest=False).values[..., -1]
    if values.device.type != "cpu":
        return values.median(-1).values
    return torch.from_numpy(np.partition(values.numpy(), middle, -1)[..., middle])


def slopes(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of (B, C, S, S) along x and along y, the same size; the edge is repeated."""
    padded = F.pad(frames, (1, 1, 1, 1), mode="replicate")
    along_x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    along_y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return along_x, along_y


def _left_over(now: Tensor, future: Tensor) -> Tensor:
    """Residual translation (B, 2) in pixels (x, y) of frames less than a pixel apart, clamped to one pixel."""
    change = future - now
    slope_x, slope_y = slopes((now + future) / 2)
    # Relative to the median change, so that the weight does not depend on contrast.
    usual = _median(change.abs().flatten(1)).view(-1, 1, 1, 1) + 1e-3
    trust = 1 / (1 + (change / (_UNUSUAL * usual)).square()).square()  # Geman and McClure's weight
    xx, xy, yy, xt, yt = (
        (trust * product).sum((1, 2, 3))
        for product in (slope_x**2, slope_x * slope_y, slope_y**2, slope_x * change, slope_y * change)
    )
    # A frame without texture has determinant 0: the clamp gives it a shift of 0.
    determinant = (xx * yy - xy**2).clamp(min=1e-6)
    left = -torch.stack([yy * xt - xy * yt, xx * yt - xy * xt], 1) / determinant[:, None]
    return left.clamp(-1, 1)


def _beyond(peaks: Tensor, y_B: Tensor, x_B: Tensor, down: int, right: int) -> Tensor:
    """Subpixel offset of the peak, -0.5..0.5: the larger neighbour's share of the two together."""
    rows = torch.arange(peaks.shape[0], device=peaks.device)  # len would fix the batch size of an exported graph

    def at(step: int) -> Tensor:
        return peaks[rows, y_B + step * down, x_B + step * right].clamp(min=0)

    before, peak, after = at(-1), at(0), at(1)
    share = torch.maximum(before, after)
    share = share / (share + peak).clamp(min=1e-9)
    return torch.where(after >= before, share, -share)
