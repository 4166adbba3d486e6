"""`MotionTargets`: dense flow, normal flow and the change of a frozen encoder's features, by cell, and their loss.

Each tells a part of a motion that reconstruction alone teaches slowly or not at all: where each cell went, where
brightness edges moved though too little to be matched, and what became of the things that an encoder knows.

Shape suffixes: B pairs, F the two frames, S side in pixels, G cells per side, C channels of features, M of the map.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from lara_tokenizer.model import LatentActionConfig
from lara_tokenizer.motion import DIRECTIONS, GREY_SIDE, SCALES, compressed, grey_frames, normal_flow, optical_flow

FLOW, NORMAL_FLOW, FEATURES = "flow", "normal_flow", "features"
# Normal flow is half redundant with dense flow, and noisier; the features are as many numbers as matter most.
WEIGHTS = {FLOW: 1.0, NORMAL_FLOW: 0.5, FEATURES: 1.0}
FEATURE_CHANNELS = 32  # principal components of the change of features; of 96, they hold two thirds of its variance
LARGEST = 6.0  # of a target, in root mean squares of its channel: a mismatch must not dominate the squared error
SOFTNESS = 1e-3  # of the root of normal flow, of colours in 0..1: its usual size
NORMAL_FLOW_SIDE = 64  # pixels that normal flow needs: more only cost time


class MotionTargets:
    """Targets (B, M, G, G) of the motion map from stabilized pairs (B, 2, 3, S, S) in 0..1.

    Each channel has a mean square of 1 over the pairs that the scale was fitted to. Reversal of time negates normal
    flow and the change of features exactly, and dense flow nearly.

    >>> config = LatentActionConfig(
    ...     vision_config={"model_type": "latent_action_frames", "image_size": 64}, inverse_model="matching",
    ...     standardize_latents=False, motion_channels=6
    ... )
    >>> MotionTargets(config, torch.rand(4, 2, 3, 64, 64))(torch.rand(3, 2, 3, 64, 64)).shape  # doctest: +SKIP
    torch.Size([3, 6, 4, 4])
    """

    def __init__(self, config: LatentActionConfig, pairs: Tensor, features: Tensor | None = None) -> None:
        """Fit the scale of each channel to pairs and their features (B, 2, C, G, G), None without target encoder.

        Raises ValueError for a model without a motion map, or with one of other channels, and ImportError without
        OpenCV.
        """
        self.groups = channel_groups(with_features=features is not None)
        self.cells = cells_per_side(config, self.groups)
        self.scale_M11 = torch.ones(config.motion_channels, 1, 1)
        rms_M = self(pairs, features).square().mean((0, 2, 3)).sqrt()
        if not rms_M[self.groups[FLOW]].min() > 0:
            raise ValueError("target_weight: nothing moves in the first pairs of the source. Lengthen the strides.")
        self.scale_M11 = rms_M.clamp(min=1e-6).reciprocal().view(-1, 1, 1)

    def __call__(self, pairs_BF3SS: Tensor, features_BFCGG: Tensor | None = None) -> Tensor:
        """Targets of pairs, on a CPU."""
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            pairs = pairs_BF3SS.float().cpu()
            parts = [_dense_flow(pairs, self.cells), _normal_flow(pairs, self.cells)]
            if features_BFCGG is not None:
                now, future = features_BFCGG.float().cpu().unbind(1)
                parts.append(future - now)
            return (torch.cat(parts, 1) * self.scale_M11).clamp_(-LARGEST, LARGEST)

    def losses(self, motion_BMGG: Tensor, targets_BMGG: Tensor) -> dict[str, Tensor]:
        """The mean squared error of each group."""
        error = (motion_BMGG.float() - targets_BMGG).square()
        return {name: error[:, channels].mean() for name, channels in self.groups.items()}

    def r2(self, motion_BMGG: Tensor, targets_BMGG: Tensor) -> dict[str, float]:
        """The share of each group's mean square that a motion map explains."""
        losses = self.losses(motion_BMGG, targets_BMGG)
        return {
            name: 1 - float(losses[name] / targets_BMGG[:, channels].square().mean().clamp(min=1e-12))
            for name, channels in self.groups.items()
        }


def weighted_sum(losses: dict[str, Tensor]) -> Tensor:
    """The loss of the targets from that of each group."""
    return torch.stack([WEIGHTS[name] * value for name, value in losses.items()]).sum()


def channel_groups(*, with_features: bool) -> dict[str, slice]:
    """The channels of the motion map by teacher."""
    sizes = {FLOW: DIRECTIONS, NORMAL_FLOW: DIRECTIONS * len(SCALES)}
    if with_features:
        sizes[FEATURES] = FEATURE_CHANNELS
    groups, first = {}, 0
    for name, size in sizes.items():
        groups[name] = slice(first, first + size)
        first += size
    return groups


def cells_per_side(config: LatentActionConfig, groups: dict[str, slice]) -> int:
    """G of a model whose motion map these groups are targets of. Raises ValueError for any other model."""
    if config.inverse_model != "matching":
        raise ValueError(
            f"target_weight: the targets are those of a motion map, which inverse_model {config.inverse_model!r} does "
            "not have. Set it to 'matching', or target_weight to 0."
        )
    channels = max(group.stop for group in groups.values())
    if config.motion_channels != channels:
        parts = " + ".join(f"{group.stop - group.start} of {name}" for name, group in groups.items())
        raise ValueError(
            f"motion_channels is {config.motion_channels}, and there are {channels} targets: {parts}. Set it to "
            f"{channels}."
        )
    cells = config.image_size // config.vision_config.patch_size
    if GREY_SIDE % cells:
        raise ValueError(
            f"target_weight: dense flow of {GREY_SIDE} px cannot be divided into {cells} x {cells} cells. Set "
            "image_size to 16 times a power of two."
        )
    return cells


def _dense_flow(pairs_BF3SS: Tensor, cells: int) -> Tensor:
    frames = rearrange(pairs_BF3SS.mul(255).round().to(torch.uint8), "b f c h w -> (b f) h w c").numpy()
    grey = grey_frames(frames).reshape(len(pairs_BF3SS), 2, GREY_SIDE, GREY_SIDE)
    flow = torch.from_numpy(optical_flow(grey[:, 0], grey[:, 1], cells))
    return rearrange(flow, "b (row column xy) -> b xy row column", row=cells, column=cells)


def _normal_flow(pairs_BF3SS: Tensor, cells: int) -> Tensor:
    factor = 1
    while pairs_BF3SS.shape[-1] // (2 * factor) >= NORMAL_FLOW_SIDE and pairs_BF3SS.shape[-1] % (2 * factor) == 0:
        factor *= 2
    now, future = (F.avg_pool2d(frames, factor) for frames in pairs_BF3SS.unbind(1))
    return compressed(normal_flow(now, future, cells), SOFTNESS)
