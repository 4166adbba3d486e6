"""What a published recipe is besides its model: optimizer, schedule, clipping, augmentation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# One sweep for everybody, so that nobody's rate is chosen with more care than another's.
LEARNING_RATES = (1e-4, 3e-4, 1e-3)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one published model is trained.

    build: the model at the size of `lara-lam`; keywords override fields of its config. betas, weight_decay: of AdamW.
    decays_vectors: whether tensors of fewer than two dimensions decay too. schedule: "constant" or "cosine".
    warmup_share: of all steps, while the rate rises from warmup_start to 1 of its height. final_share: of its height,
    where a cosine ends. max_grad_norm: None clips nothing. augment: (B, 2, 3, H, W) in 0..1 -> the same, one draw a
    pair; None takes frames as they are. published_*: their own numbers. differences: what ours departs in, for tables.
    """

    name: str
    source: str
    build: Callable[..., nn.Module]
    betas: tuple[float, float]
    weight_decay: float
    decays_vectors: bool
    schedule: str
    warmup_share: float
    warmup_start: float
    final_share: float
    max_grad_norm: float | None
    augment: Callable[[Tensor], Tensor] | None
    published_learning_rate: float
    published_batch_size: int
    differences: tuple[str, ...]
    learning_rates: tuple[float, ...] = LEARNING_RATES

    def optimizer(self, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        """AdamW over what is trained; without weight decay that is Adam."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        kept = [parameter for parameter in trained if parameter.ndim < 2 and not self.decays_vectors]
        decayed = [parameter for parameter in trained if parameter.ndim >= 2 or self.decays_vectors]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": kept, "weight_decay": 0.0}]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=self.betas)

    def learning_rate_share(self, step: int, total_steps: int) -> float:
        """The rate of step `step` (from 0) as a share of its height.

        >>> RECIPES["lapa"].learning_rate_share(0, 100)  # doctest: +SKIP
        1.0
        """
        warmup = self.warmup_share * total_steps
        if step < warmup:
            return self.warmup_start + (1 - self.warmup_start) * (step + 1) / math.ceil(warmup)
        if self.schedule == "constant":
            return 1.0
        done = (step - warmup) / max(1.0, total_steps - warmup)
        return self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * done)) / 2
