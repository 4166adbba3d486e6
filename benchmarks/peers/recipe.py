"""A published training recipe: model, optimizer, clipping, augmentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Recipe:
    """The training of one published model, without its learning rate and schedule, which the arena sets.

    Attributes:
        build: the model at the size of `lara-lam`; keywords override fields of its config.
        betas, weight_decay: of AdamW.
        decays_vectors: whether tensors with fewer than two dimensions decay too.
        max_grad_norm: None does not clip.
        augment: (B, 2, 3, H, W) in 0..1 -> the same, with one draw per pair; None for no augmentation.
    """

    name: str
    build: Callable[..., nn.Module]
    betas: tuple[float, float]
    weight_decay: float
    decays_vectors: bool = False
    max_grad_norm: float | None = None
    augment: Callable[[Tensor], Tensor] | None = None

    def optimizer(self, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        """AdamW over the trained parameters; without weight decay it equals Adam."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        spared = [parameter for parameter in trained if parameter.ndim < 2 and not self.decays_vectors]
        decayed = [parameter for parameter in trained if parameter.ndim >= 2 or self.decays_vectors]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": spared, "weight_decay": 0.0}]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=self.betas)
