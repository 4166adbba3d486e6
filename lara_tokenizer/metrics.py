"""Measures of latent actions and of decoded frames, as formulas on torch tensors.

Shape suffixes: B pairs, N latent tokens, D codebook width, K codes, C channels, H and W pixels.
Each function is one formula, on whatever device its input lives, and returns a tensor without waiting for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lara_tokenizer.thresholds import MOVING_PIXEL


def code_counts(codes: Tensor, codebook_size: int) -> Tensor:
    """Occurrences of each code: int64 (K,), for `codes` of any shape; negative codes (invalid rows) are left out.

    >>> code_counts(torch.tensor([[0, 2], [2, -1]]), 3)
    tensor([1, 0, 2])
    """
    flat = codes.reshape(-1)
    return torch.bincount(flat[flat >= 0], minlength=codebook_size)


def perplexity(codes: Tensor, codebook_size: int) -> Tensor:
    """exp(-sum_k p_k log p_k) of all codes pooled: the number of codes in effective use, 1 to K.

    >>> round(float(perplexity(torch.tensor([[0, 1], [2, 3]]), 8)), 4)
    4.0
    """
    return _perplexity_of(code_counts(codes, codebook_size))


def perplexity_per_position(codes: Tensor, codebook_size: int) -> Tensor:
    """Perplexity of each latent token on its own: (B, N) -> (N,). Pooled use can be high while each token is constant.

    >>> perplexity_per_position(torch.tensor([[0, 1], [0, 2]]), 8)
    tensor([1., 2.])
    """
    return torch.stack([perplexity(column, codebook_size) for column in codes.unbind(-1)])


def _perplexity_of(counts: Tensor) -> Tensor:
    share = counts / counts.sum().clamp(min=1)
    return torch.exp(-torch.xlogy(share, share).sum())


def dead_codes(codes: Tensor, codebook_size: int) -> Tensor:
    """Number of codes that never occur, of K."""
    return (code_counts(codes, codebook_size) == 0).sum()


def spread(latents: Tensor) -> Tensor:
    """sqrt(D) * mean_d std_B(z / |z|), z flattened to (B, D): about 1 for isotropic z, 0 where all point one way.

    See `thresholds.py` for the limits.
    """
    directions = torch.nn.functional.normalize(latents.flatten(1).float(), dim=1)
    return directions.shape[1] ** 0.5 * directions.std(0, correction=0).mean()


def effective_rank(latents: Tensor) -> Tensor:
    """exp(H(s / sum s)), s the singular values of the centred (B, D) latents: directions in effective use, 1 to D."""
    flat = latents.flatten(1).float()
    values = torch.linalg.svdvals(flat - flat.mean(0))
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.exp(-torch.xlogy(share, share).sum())


def brightness_and_contrast(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the pixels of each frame, uint8 (B, C, H, W): float64 (B,) each, in 0..1.

    Of 32 x 32 pixels, which is plenty; by sums of integers, so that they are the same on every machine.

    >>> brightness_and_contrast(torch.tensor([[0, 255]], dtype=torch.uint8).expand(1, 3, 2, 2))
    (tensor([0.5000], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """
    rows, columns = (max(1, side // 32) for side in frames.shape[-2:])
    values = frames[..., ::rows, ::columns].flatten(1).long()
    count = values.shape[1]
    mean = values.sum(1).double() / count
    variance = (values * values).sum(1).double() / count - mean**2
    return mean / 255, variance.clamp(min=0).sqrt() / 255


def moving_mask(frames: Tensor, future_frames: Tensor, threshold: float = MOVING_PIXEL) -> Tensor:
    """Mask of moving pixels: bool (B, 1, H, W) from frames (B, 3, H, W) in 0..1."""
    return (future_frames - frames).abs().mean(1, keepdim=True) > threshold


def squared_error(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over all elements, or over those where `mask` (B, 1, H, W) is true; 0 if none is."""
    error = (prediction - target).float().square()
    if mask is None:
        return error.mean()
    weights = mask.expand_as(error).float()
    return (error * weights).sum() / weights.sum().clamp(min=1)


def gain(error: Tensor, baseline_error: Tensor) -> Tensor:
    """1 - error / baseline: 1 is perfect, 0 no better than the baseline, below 0 worse."""
    return 1 - error / baseline_error.clamp(min=torch.finfo(torch.float32).tiny)


def gain_over_copying(prediction: Tensor, frames: Tensor, future_frames: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - MSE(decoded future) / MSE(frame t): the decoder's advantage over showing frame t again.

    A decoder can guess an expert's next motion from frame t, so this alone is no evidence for z: see `z_gain`.
    """
    return gain(squared_error(prediction, future_frames, mask), squared_error(frames, future_frames, mask))


def z_gain(
    prediction: Tensor, shuffled_prediction: Tensor, future_frames: Tensor, mask: Tensor | None = None
) -> Tensor:
    """1 - MSE(with the pair's own codes) / MSE(with another pair's codes): the decoder's use of z."""
    return gain(squared_error(prediction, future_frames, mask), squared_error(shuffled_prediction, future_frames, mask))


def derangement(size: int, generator: torch.Generator | None = None) -> Tensor:
    """A random order in which no item stays in place: int64 (size,), one cycle. Needs size >= 2.

    >>> bool((derangement(5) == torch.arange(5)).any())
    False
    """
    if size < 2:
        raise ValueError(f"{size} pair(s) cannot be shuffled across pairs; give at least 2.")
    order = torch.randperm(size, generator=generator)
    shuffled = torch.empty_like(order)
    shuffled[order] = order.roll(1)
    return shuffled


def mean_cosine(latents: Tensor) -> Tensor:
    """Mean cosine between the z of two different pairs, z flattened to (B, D): 0 healthy, 1 where all point one way.

    With u = z / |z| it is (|sum_b u_b|^2 - sum_b |u_b|^2) / (B (B - 1)).

    >>> mean_cosine(torch.tensor([[1.0, 0.0], [2.0, 0.0]])), mean_cosine(torch.eye(3))
    (tensor(1.), tensor(0.))
    """
    directions = torch.nn.functional.normalize(latents.flatten(1).float(), dim=1)
    count = len(directions)
    return (directions.sum(0).square().sum() - directions.square().sum()) / max(count * (count - 1), 1)


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, 10 log10(1 / MSE): (B,) from images (B, C, H, W) in 0..1.

    >>> psnr(torch.full((1, 3, 2, 2), 0.1), torch.zeros(1, 3, 2, 2))
    tensor([20.])
    """
    error = (prediction - target).float().square().flatten(1).mean(1)
    return -10 * error.clamp(min=1e-10).log10()


def ssim(prediction: Tensor, target: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004): (B,) from images (B, C, H, W) in 0..1, sides >= window.

    The mean over pixels and channels of (2 m m' + c1)(2 s_xy + c2) / ((m^2 + m'^2 + c1)(s^2 + s'^2 + c2)), with means,
    variances and covariance under a Gaussian window; c1 = .01^2, c2 = .03^2.
    """
    channels = prediction.shape[1]
    offsets = torch.arange(window, device=prediction.device, dtype=torch.float32) - window // 2
    line = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = (line / line.sum()).outer(line / line.sum()).expand(channels, 1, window, window)

    def blurred(images: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(images, kernel, groups=channels)

    x, y = prediction.float(), target.float()
    mean_x, mean_y = blurred(x), blurred(y)
    variances = blurred(x * x) - mean_x**2 + blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    structure = (2 * covariance + 9e-4) / (variances + 9e-4)
    return (luminance * structure).flatten(1).mean(1)
