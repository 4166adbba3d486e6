"""Floating-point operations of training, counted the same way for every model, to set steps for equal compute."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

PAIRS = 2  # batch norm refuses the latents of a single pair


def training_flops_per_pair(model: Any) -> int:
    """Operations of `training_loss` per pair, forward and backward; a multiply-add counts as two.

    Matrix products, convolutions and attention are counted, elementwise work and the optimizer are not, as in
    `lara_tokenizer.train.plan_training`. The model is not changed.
    """
    model = copy.deepcopy(model).float().train()
    side, device = model.config.image_size, next(model.parameters()).device
    now, future = torch.zeros(2, PAIRS, 3, side, side, device=device)
    count = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})
    # The counter does not know the CPU's fused attention; plain matrix products are counted on every device.
    with torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH), count:
        loss, _ = model.training_loss(now, future)
        loss.backward()
    return count.get_total_flops() // PAIRS


def _convolution_backward(grad_shape: Any, input_shape: Any, weight_shape: Any, *rest: Any, **_: Any) -> int:
    """The forward pass's operations for each requested gradient. torch's own count ignores the groups."""
    *_settings, output_mask = rest
    forward = 2 * math.prod(grad_shape) * math.prod(weight_shape[1:])
    return forward * sum(map(bool, output_mask[:2]))
