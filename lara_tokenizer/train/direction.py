"""Every pair in both directions, and a loss that keeps the direction of time visible in z.

Two cameras or two scenes differ far more than two moments of one scene. Standardised over a batch, a young z is then
almost all appearance, the motion is a hundredth of it, and the decoder never learns to read it. Appearance is the same
in both directions of a pair, motion is not: what tells z(a, b) from z(b, a) can only be the change.

Shape suffixes: B pairs, N latent tokens, D codebook dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

DIRECTION_SPREAD = 0.9  # asked of the antisymmetric part; z as a whole is standardised to 1


def both_directions(now: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
    """(B, ...) and (B, ...) -> (2B, ...) each: the pairs, then the same pairs with time reversed."""
    return torch.cat([now, future]), torch.cat([future, now])


def antisymmetric_spread(latents: Tensor) -> Tensor:
    """(N, D): root mean square over pairs of (z(a, b) - z(b, a)) / sqrt(2), from latents (2B, N, D)."""
    there_BND, back_BND = latents.float().chunk(2)
    # The epsilon keeps the root's gradient finite where z does not tell the directions apart at all.
    return ((there_BND - back_BND).square().mean(0) / 2 + 1e-6).sqrt()


def direction_loss(latents: Tensor) -> Tensor:
    """Mean over (N, D) of max(0, 0.9 - antisymmetric spread): 0 once every number of z tells the directions apart.

    >>> z = torch.randn(64, 8, 32)
    >>> float(direction_loss(torch.cat([z, z])) > 0.89), float(direction_loss(torch.cat([z, -z])))
    (1.0, 0.0)
    """
    return (DIRECTION_SPREAD - antisymmetric_spread(latents)).clamp(min=0).mean()
