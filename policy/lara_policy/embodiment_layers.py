"""Layers with weights of their own for each embodiment: states and actions of many robots into one space and back.

Shape suffixes: B samples, T tokens, I and O widths in and out, H width of the policy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lara_policy.timestep import sinusoid


class EmbodimentLinear(nn.Module):
    """x W_e + b_e with one W and b an embodiment: (B, T, I) -> (B, T, O). Only embodiments in use have weights."""

    def __init__(self, num_embodiments: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(num_embodiments, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(num_embodiments, out_features))
        self.reset(0)

    @torch.no_grad()
    def reset(self, first: int) -> None:
        """Start embodiments `first` and later afresh: normal with deviation 0.02, and 0."""
        nn.init.normal_(self.weight[first:], std=0.02)
        nn.init.zeros_(self.bias[first:])

    def grow(self, num_embodiments: int) -> None:
        """Fresh rows behind those there are, which stay as they are."""
        there = len(self.weight)
        old_weight, old_bias = self.weight, self.bias
        self.weight = nn.Parameter(old_weight.new_empty(num_embodiments, self.in_features, self.out_features))
        self.bias = nn.Parameter(old_bias.new_empty(num_embodiments, self.out_features))
        with torch.no_grad():
            self.weight[:there], self.bias[:there] = old_weight, old_bias
        self.reset(there)

    def forward(self, values_BTI: Tensor, embodiment_B: Tensor) -> Tensor:
        if len(self.weight) == 1:
            return F.linear(values_BTI, self.weight[0].T, self.bias[0])
        return torch.baddbmm(self.bias[embodiment_B].unsqueeze(1), values_BTI, self.weight[embodiment_B])


class StateEncoder(nn.Module):
    """State (B, S) -> one token (B, 1, H): two layers and ReLU."""

    def __init__(self, num_embodiments: int, state_size: int, middle_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden = EmbodimentLinear(num_embodiments, state_size, middle_size)
        self.output = EmbodimentLinear(num_embodiments, middle_size, hidden_size)

    def forward(self, state_BS: Tensor, embodiment_B: Tensor) -> Tensor:
        return self.output(F.relu(self.hidden(state_BS.unsqueeze(1), embodiment_B)), embodiment_B)


class ActionEncoder(nn.Module):
    """Noisy actions (B, C, A) and their flow time (B,) -> tokens (B, C, H): W1, with the time W2 and swish, W3."""

    def __init__(self, num_embodiments: int, action_size: int, hidden_size: int) -> None:
        super().__init__()
        self.action = EmbodimentLinear(num_embodiments, action_size, hidden_size)
        self.with_time = EmbodimentLinear(num_embodiments, 2 * hidden_size, hidden_size)
        self.output = EmbodimentLinear(num_embodiments, hidden_size, hidden_size)

    def forward(self, action_BCA: Tensor, tau_B: Tensor, embodiment_B: Tensor) -> Tensor:
        tokens_BCH = self.action(action_BCA, embodiment_B)
        time_BCH = sinusoid(tau_B, tokens_BCH.shape[-1]).to(tokens_BCH.dtype).unsqueeze(1).expand_as(tokens_BCH)
        together = F.silu(self.with_time(torch.cat([tokens_BCH, time_BCH], -1), embodiment_B))
        return self.output(together, embodiment_B)


class ActionDecoder(nn.Module):
    """Outputs of the transformer (B, C, O) -> velocities (B, C, A): two layers and ReLU."""

    def __init__(self, num_embodiments: int, in_size: int, action_size: int) -> None:
        super().__init__()
        self.hidden = EmbodimentLinear(num_embodiments, in_size, in_size)
        self.output = EmbodimentLinear(num_embodiments, in_size, action_size)

    def forward(self, tokens_BCO: Tensor, embodiment_B: Tensor) -> Tensor:
        return self.output(F.relu(self.hidden(tokens_BCO, embodiment_B)), embodiment_B)
