"""Conversion between the processor's pixel values and the patches in 0..1 that LAPA and AdaWorld use.

Shape suffixes: B batch, P patches, C channels, S side in pixels, Q numbers of a patch (3 * patch * patch).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of LatentActionProcessor, which prepares the frames of every model here.
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PatchGrid(nn.Module):
    """pixel_values (B, 3, S, S) of the processor <-> patches (B, P, Q) in 0..1, row by row, always in float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, image_size: int, patch_size: int) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patch_size ({patch_size}) must divide image_size ({image_size}).")
        self.image_size, self.patch_size = image_size, patch_size
        self.side = image_size // patch_size
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)

    @property
    def patches(self) -> int:
        """P, of one frame."""
        return self.side**2

    @property
    def patch_dim(self) -> int:
        """Q, of one patch."""
        return 3 * self.patch_size**2

    def split(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, P, Q)."""
        if pixel_values.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"pixel_values are {tuple(pixel_values.shape)}, expected (batch, 3, {self.image_size}, "
                f"{self.image_size}). Prepare frames with a processor of that size."
            )
        # LAPA and AdaWorld predict pixels in 0..1, the processor normalizes them.
        unit = pixel_values.float() * self.std + self.mean
        return F.pixel_unshuffle(unit, self.patch_size).flatten(2).transpose(1, 2)

    def join(self, patches_BPQ: Tensor) -> Tensor:
        """(B, P, Q) -> (B, 3, S, S)."""
        grid = patches_BPQ.float().transpose(1, 2).unflatten(2, (self.side, self.side))
        return (F.pixel_shuffle(grid, self.patch_size) - self.mean) / self.std
