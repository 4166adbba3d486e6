"""The flow time as a vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BUCKETS = 1000  # tau enters as int(1000 tau), as in the released policy


def sinusoid(tau_B: Tensor, size: int) -> Tensor:
    """cos and sin of int(1000 tau) at geometric frequencies from 1 to 1/10,000: float32 (B, size), size even."""
    half = size // 2
    exponents = torch.arange(half, device=tau_B.device, dtype=torch.float32) / half
    angles = (tau_B.float() * BUCKETS).floor().unsqueeze(1) * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], -1)
