"""A published training recipe: model, optimizer, schedule, clipping, augmentation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Recipe:
    """The training of one published model. Rates are shares of the peak learning rate.

    Attributes:
        build: the model at the size of `lara-lam`; keywords override fields of its config.
        betas, weight_decay: of AdamW.
        decays_vectors: whether tensors with fewer than two dimensions decay too.
        warmup_share: share of all steps in which the rate rises from `warmup_start` to 1.
        final_rate: where a cosine ends; None keeps the rate constant.
        max_grad_norm: None does not clip.
        augment: (B, 2, 3, H, W) in 0..1 -> the same, with one draw per pair; None for no augmentation.
    """

    name: str
    build: Callable[..., nn.Module]
    betas: tuple[float, float]
    weight_decay: float
    published_learning_rate: float
    decays_vectors: bool = False
    warmup_share: float = 0.0
    warmup_start: float = 1.0
    final_rate: float | None = None
    max_grad_norm: float | None = None
    augment: Callable[[Tensor], Tensor] | None = None

    def optimizer(self, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        """AdamW over the trained parameters; without weight decay it equals Adam."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        spared = [parameter for parameter in trained if parameter.ndim < 2 and not self.decays_vectors]
        decayed = [parameter for parameter in trained if parameter.ndim >= 2 or self.decays_vectors]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": spared, "weight_decay": 0.0}]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=self.betas)

    def learning_rate_share(self, step: int, total_steps: int) -> float:
        """The learning rate of step `step` (from 0) as a share of its peak.

        >>> RECIPES["lapa"].learning_rate_share(0, 100)  # doctest: +SKIP
        1.0
        """
        warmup = self.warmup_share * total_steps
        if step < warmup:
            # step + 1: a warm-up from 0 would waste the first step.
            return self.warmup_start + (1 - self.warmup_start) * (step + 1) / math.ceil(warmup)
        if self.final_rate is None:
            return 1.0
        done = (step - warmup) / max(1.0, total_steps - warmup)
        return self.final_rate + (1 - self.final_rate) * (1 + math.cos(math.pi * done)) / 2
