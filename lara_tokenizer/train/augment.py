"""Batched augmentation of frame pairs on the device.

Each pair gets random parameters of its own, shared by its two frames, so that augmentation adds no apparent motion;
only `jitter_encoder_inputs` changes the frames of a pair independently.

Shape suffixes: B pairs, F the two frames, M = B F frames, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from lara_tokenizer.model import LatentActionProcessor
from lara_tokenizer.train.recipe import AugmentationOptions
from lara_tokenizer.train.targets.motion_targets import MotionTargets

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: weights of the channels in the grey value of a colour
RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def to_unit_range(frames_BFCHW: Tensor) -> Tensor:
    """Convert uint8 frames to float32 in 0..1."""
    return frames_BFCHW.float().div(255)


def stabilize_pairs(frames_BFCHW: Tensor, processor: LatentActionProcessor) -> Tensor:
    """Global motion compensation: the later frames as the processor shows them to the model.

    Frames (B, 2, 3, H, W) are in 0..1, before and after; without `processor.steady_pairs` they are returned unchanged.
    """
    if not processor.steady_pairs:
        return frames_BFCHW
    # The processor works on uint8, and training must show the model what it sees in use.
    now, future = frames_BFCHW.mul(255).round().to(torch.uint8).unbind(1)
    return to_unit_range(torch.stack([now, processor.steady_future(now, future)], 1))


@dataclass(frozen=True, slots=True)
class Views:
    """Augmented and stabilized pairs (B, 2, 3, S, S) in 0..1; one tensor twice without cross augmentation."""

    decoder: Tensor
    """The decoder reads frame t and predicts the other."""
    encoder: Tensor
    """The same, jittered."""
    swapped: Tensor
    """bool (B,), pairs whose frames were swapped."""


def make_views(frames: Tensor, options: AugmentationOptions, processor: LatentActionProcessor) -> Views:
    """Views of pairs, uint8 (B, 2, 3, S, S)."""
    pairs = crop_and_recolour(to_unit_range(frames), options)
    swapped = draw_swaps(len(pairs), options, pairs.device)
    pairs = swap(pairs, swapped)
    stabilized = stabilize_pairs(pairs, processor)
    if not options.has_views:
        return Views(stabilized, stabilized, swapped)
    return Views(stabilized, stabilize_pairs(jitter_encoder_inputs(pairs, options), processor), swapped)


def targets_of(views: Views, features: Tensor | None, targets: MotionTargets) -> Tensor:
    """Targets (B, M, G, G) of the views' motion; features (B, 2, C, G, G) are those of the frames before the swap."""
    return targets(views.decoder, None if features is None else swap(features, views.swapped))


@dataclass(frozen=True, slots=True)
class LoadedViews:
    """`make_views` as `prepare` of a `PairDataset`: in loader processes, which are idle otherwise on a CPU.

    Adds float32 `frames`, the decoder's pairs, `views`, the encoder's, and with `targets` the `targets` of their motion
    map. Random numbers depend on `seed` and the batch's first index alone, so that any number of processes gives equal
    batches, before and after a restart.
    """

    options: AugmentationOptions
    processor: LatentActionProcessor
    seed: int = 0
    targets: MotionTargets | None = None

    def __call__(self, batch: dict[str, Tensor], indices: np.ndarray) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence((self.seed, int(indices[0]))).generate_state(1, np.uint64)[0]))
            views = make_views(batch["frames"], self.options, self.processor)
        made = {"frames": views.decoder, "views": views.encoder}
        if self.targets is not None:
            made["targets"] = targets_of(views, batch.get("features"), self.targets)
        return made


def normalize(frames_BFCHW: Tensor, mean: list[float], std: list[float]) -> tuple[Tensor, Tensor]:
    """Normalize frames in 0..1 by the processor's statistics: pixel_values, future_pixel_values (B, 3, H, W)."""
    mean_C11, std_C11 = (
        rearrange(torch.tensor(values, device=frames_BFCHW.device), "c -> c 1 1") for values in (mean, std)
    )
    now, future = ((frames_BFCHW - mean_C11) / std_C11).unbind(1)
    return now, future


def augment_pairs(frames_BFCHW: Tensor, options: AugmentationOptions) -> Tensor:
    """Crop, mirror, recolour and reverse each pair at random, by torch's random state of the frames' device.

    >>> frames = torch.rand(4, 2, 3, 8, 8)
    >>> torch.equal(augment_pairs(frames, AugmentationOptions()), frames)
    True
    """
    frames_BFCHW = crop_and_recolour(frames_BFCHW, options)
    return swap(frames_BFCHW, draw_swaps(len(frames_BFCHW), options, frames_BFCHW.device))


def crop_and_recolour(frames_BFCHW: Tensor, options: AugmentationOptions) -> Tensor:
    """Crop, mirror and recolour each pair at random."""
    if options.crop_scale < 1 or options.flip > 0:
        frames_BFCHW = _crop_and_mirror(frames_BFCHW, options)
    if options.brightness or options.contrast or options.saturation or options.hue:
        frames_BFCHW = _recolour(frames_BFCHW, options)
    return frames_BFCHW


def draw_swaps(count: int, options: AugmentationOptions, device: torch.device) -> Tensor:
    """Draw the pairs to reverse: bool (count,)."""
    if not options.reverse:
        return torch.zeros(count, dtype=torch.bool, device=device)
    return torch.rand(count, device=device) < options.reverse


def swap(pairs: Tensor, swapped_B: Tensor) -> Tensor:
    """Swap the two entries (B, 2, ...) of some pairs."""
    if not swapped_B.any():
        return pairs
    return torch.where(swapped_B.view(-1, *(1,) * (pairs.ndim - 1)), pairs.flip(1), pairs)


def jitter_encoder_inputs(frames_BFCHW: Tensor, options: AugmentationOptions) -> Tensor:
    """Shift and relight each frame independently, for the inputs of the encoder (cross augmentation).

    Shifts are up to `view_shift` of the frame's side. Gains of red, green and blue are exp(view_light * (a + b_c / 2)),
    a and b_c standard normal: brighter or darker, and slightly off in colour.
    """
    frames_MCHW = rearrange(frames_BFCHW, "b f c h w -> (b f) c h w")
    count, device = len(frames_MCHW), frames_MCHW.device
    theta_M23 = torch.eye(2, 3, device=device).repeat(count, 1, 1)
    # affine_grid's coordinates span the frame from -1 to 1: its side is 2.
    theta_M23[:, :, 2] = 2 * options.view_shift * (2 * torch.rand(count, 2, device=device) - 1)
    grid = F.affine_grid(theta_M23, list(frames_MCHW.shape), align_corners=False)
    frames_MCHW = F.grid_sample(frames_MCHW, grid, padding_mode="border", align_corners=False)
    exponents_M3 = torch.randn(count, 1, device=device) + torch.randn(count, 3, device=device) / 2
    gains_M311 = rearrange((options.view_light * exponents_M3).exp(), "m c -> m c 1 1")
    frames_MCHW = (frames_MCHW * gains_M311).clamp(0, 1)
    return rearrange(frames_MCHW, "(b f) c h w -> b f c h w", b=len(frames_BFCHW))


def _crop_and_mirror(frames_BFCHW: Tensor, options: AugmentationOptions) -> Tensor:
    """Random square crops of side `crop_scale`..1, anywhere inside the frame, scaled back to full size."""
    batch, frames, channels, height, width = frames_BFCHW.shape
    device = frames_BFCHW.device
    scale = 1 - (1 - options.crop_scale) * torch.rand(batch, device=device)
    offset = (1 - scale) * (2 * torch.rand(2, batch, device=device) - 1)
    mirror = 1 - 2 * (torch.rand(batch, device=device) < options.flip).float()
    zero = torch.zeros_like(scale)
    theta = torch.stack(
        [torch.stack([scale * mirror, zero, offset[0]], 1), torch.stack([zero, scale, offset[1]], 1)], 1
    )
    # Both frames as channels of one image, so that they cannot get different crops.
    stacked = rearrange(frames_BFCHW, "b f c h w -> b (f c) h w")
    grid = F.affine_grid(theta, [batch, frames * channels, height, width], align_corners=False)
    cropped = F.grid_sample(stacked, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return rearrange(cropped, "b (f c) h w -> b f c h w", f=frames)


def _recolour(frames_BFCHW: Tensor, options: AugmentationOptions) -> Tensor:
    """Brightness, contrast, saturation and hue: all affine in RGB, so one 3 x 3 matrix and one offset per pair."""
    batch, device = len(frames_BFCHW), frames_BFCHW.device

    def factor(amount: float) -> Tensor:
        return 1 + amount * (2 * torch.rand(batch, 1, 1, device=device) - 1)

    luma = torch.tensor(LUMA, device=device)
    grey = luma.expand(3, 3)
    identity = torch.eye(3, device=device)
    saturation, contrast, brightness = factor(options.saturation), factor(options.contrast), factor(options.brightness)
    matrix_B33 = saturation * identity + (1 - saturation) * grey
    matrix_B33 = matrix_B33 @ _hue_rotation(options.hue * (2 * torch.rand(batch, device=device) - 1))
    # Contrast pulls towards the mean grey of frame t, for both frames alike: motion keeps its colour.
    mean_grey = torch.einsum("bchw,c->b", frames_BFCHW[:, 0], luma) / frames_BFCHW[0, 0, 0].numel()
    offset_B = (brightness * (1 - contrast)).view(-1) * mean_grey
    recoloured = torch.einsum("bdc,bfchw->bfdhw", brightness * contrast * matrix_B33, frames_BFCHW)
    return (recoloured + offset_B.view(-1, 1, 1, 1, 1)).clamp(0, 1)


def _hue_rotation(turns_B: Tensor) -> Tensor:
    """Hue rotations (B, 3, 3) on RGB: rotations of the two colour axes of YIQ, which leave the grey axis alone."""
    to_yiq = torch.tensor(RGB_TO_YIQ, device=turns_B.device)
    angle = 2 * math.pi * turns_B
    rotation = torch.zeros(len(turns_B), 3, 3, device=turns_B.device)
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1] = rotation[:, 2, 2] = angle.cos()
    rotation[:, 1, 2], rotation[:, 2, 1] = -angle.sin(), angle.sin()
    return torch.linalg.inv(to_yiq) @ rotation @ to_yiq
