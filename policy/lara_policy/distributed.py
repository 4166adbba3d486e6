"""Sums over the processes of torch.distributed, so that a loss is a mean over the whole batch and not over one share.

DDP averages gradients over processes. A loss that is a mean over a varying count (valid pairs, unpadded actions) must
therefore divide by the count of all processes: sum_of_this_process * process_count() / sum_over_processes(count).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def process_count() -> int:
    """Number of processes that train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum over all processes, differentiable."""
    return _AllReduce.apply(values) if process_count() > 1 else values


class _AllReduce(torch.autograd.Function):
    """All-reduce whose backward is an all-reduce, too: every process uses the sum, so their gradients add up."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient
