"""The encoder of LWM's VQGAN, which encodes images for LAPA's policy: an image to a grid of codes.

A convolutional pyramid as in VQGAN (arXiv 2012.09841), without attention, as trained by LWM (arXiv 2402.08268) and
shipped by LAPA (`latent_pretraining/vqgan.py`, flax). Flax weights have channels last; here they come first.

Shape suffixes: B images, C channels, H rows, W columns, D width of the codebook, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROUPS, _EPSILON = 32, 1e-6  # defaults of flax's GroupNorm


@dataclass(frozen=True, slots=True)
class VqganSizes:
    """Sizes of the VQGAN encoder; the defaults are those of the published weights.

    Attributes:
        image_size: side of the square image in pixels.
        width: channels of the first level.
        multipliers: channels of each level as a multiple of `width`; between two levels sides are halved.
        blocks: residual blocks per level.
        latent_width: channels of the pyramid's output.
        codebook_size, codebook_dim: K and D.
    """

    image_size: int = 256
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 4, 6)
    blocks: int = 2
    latent_width: int = 64
    codebook_size: int = 8192
    codebook_dim: int = 64

    def __post_init__(self) -> None:
        if self.width % _GROUPS:
            raise ValueError(f"width {self.width}: takes a multiple of {_GROUPS}, the groups of channels")
        if self.image_size % (1 << len(self.multipliers) - 1):
            raise ValueError(f"image_size {self.image_size}: cannot be halved {len(self.multipliers) - 1} times")

    @property
    def num_codes(self) -> int:
        """Number of codes per image."""
        return (self.image_size >> len(self.multipliers) - 1) ** 2


class LwmVqgan(nn.Module):
    """VQGAN encoder and codebook: images to codes.

    >>> sizes = VqganSizes(image_size=16, width=32, multipliers=(1, 2), codebook_size=8)
    >>> LwmVqgan(sizes)(torch.zeros(1, 3, 16, 16)).shape
    torch.Size([1, 64])
    """

    def __init__(self, sizes: VqganSizes) -> None:
        super().__init__()
        self.sizes = sizes
        widths = [sizes.width * multiplier for multiplier in sizes.multipliers]
        self.first = nn.Conv2d(3, sizes.width, 3, padding=1)
        self.levels = nn.ModuleList(
            _Level(before, width, sizes.blocks, shrinks=level + 1 < len(widths))
            for level, (before, width) in enumerate(pairwise([sizes.width, *widths]))
        )
        self.middle = nn.Sequential(_Residual(widths[-1], widths[-1]), _Residual(widths[-1], widths[-1]))
        self.last_norm = _norm(widths[-1])
        self.last = nn.Conv2d(widths[-1], sizes.latent_width, 3, padding=1)
        self.to_codebook = nn.Conv2d(sizes.latent_width, sizes.codebook_dim, 1)
        self.codebook = nn.Parameter(torch.zeros(sizes.codebook_size, sizes.codebook_dim))

    def latents(self, pixels_BCHW: Tensor) -> Tensor:
        """Latents before quantization, (B, D, h, w), of pixels in -1 to 1."""
        hidden_BCHW = self.first(pixels_BCHW)
        for level in self.levels:
            hidden_BCHW = level(hidden_BCHW)
        hidden_BCHW = self.middle(hidden_BCHW)
        return self.to_codebook(self.last(F.silu(self.last_norm(hidden_BCHW))))

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Codes int64 (B, h * w), row by row: the nearest codebook entry of each cell, the first of equal ones."""
        latents_XD = self.latents(pixels_BCHW).permute(0, 2, 3, 1).reshape(-1, self.sizes.codebook_dim)
        # Squared distances without |z|^2, which is the same for all codes.
        distances_XK = self.codebook.square().sum(1) - 2 * latents_XD @ self.codebook.T
        return distances_XK.argmin(1).reshape(len(pixels_BCHW), -1)


class _Level(nn.Module):
    """Residual blocks, followed with `shrinks` by a convolution that halves both sides."""

    def __init__(self, width_before: int, width: int, blocks: int, shrinks: bool) -> None:
        super().__init__()
        widths = [width_before] + [width] * blocks
        self.blocks = nn.Sequential(*(_Residual(a, b) for a, b in pairwise(widths)))
        self.shrink = nn.Conv2d(width, width, 3, stride=2) if shrinks else None

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        hidden_BCHW = self.blocks(hidden_BCHW)
        if self.shrink is None:
            return hidden_BCHW
        return self.shrink(F.pad(hidden_BCHW, (0, 1, 0, 1)))  # pad right and bottom only, as in VQGAN


class _Residual(nn.Module):
    """Residual block of two convolutions; a 1x1 convolution on the shortcut where widths differ."""

    def __init__(self, width_before: int, width: int) -> None:
        super().__init__()
        self.norm_1, self.conv_1 = _norm(width_before), nn.Conv2d(width_before, width, 3, padding=1)
        self.norm_2, self.conv_2 = _norm(width), nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(width_before, width, 1) if width != width_before else nn.Identity()

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        change_BCHW = self.conv_1(F.silu(self.norm_1(hidden_BCHW)))
        change_BCHW = self.conv_2(F.silu(self.norm_2(change_BCHW)))
        return self.shortcut(hidden_BCHW) + change_BCHW


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, width, eps=_EPSILON)
