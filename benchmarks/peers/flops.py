"""Floating-point operations of training, counted alike for every model, so that steps can be set for equal compute."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

PAIRS = 2  # batch norm of a single pair's latents would refuse


def training_flops_per_pair(model: Any) -> int:
    """Operations of one pair in `training_loss`, forward and backward; two a multiply-add.

    Matrix products, convolutions and attention count, elementwise work and the optimizer do not, as in
    `lara_tokenizer.train.plan_training`. The model itself is left as it is.
    """
    model = copy.deepcopy(model).float().train()
    side, device = model.config.image_size, next(model.parameters()).device
    now, future = torch.zeros(2, PAIRS, 3, side, side, device=device)
    count = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})
    # The counter knows no fused attention of a CPU; as plain matrix products it is counted on every device.
    with torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH), count:
        loss, _ = model.training_loss(now, future)
        loss.backward()
    return count.get_total_flops() // PAIRS


def _convolution_backward(grad_shape: Any, input_shape: Any, weight_shape: Any, *rest: Any, **_: Any) -> int:
    """As much again as the forward pass for each gradient asked for. torch's own count forgets the groups."""
    *_settings, output_mask = rest
    forward = 2 * math.prod(grad_shape) * math.prod(weight_shape[1:])
    return forward * sum(map(bool, output_mask[:2]))
