"""Transformers over the tokens of two frames, alternating within a frame and, per token, over time.

The layers of AdaWorld and DreamDojo (github Little-Podi/AdaWorld, lam/; NVIDIA/DreamDojo, external/lam_project/) and of
UniVLA (github OpenDriveLab/UniVLA, latent_action_model/). They differ in attention over time: the first two have rotary
position embeddings by frame index and are bidirectional, UniVLA has no positions over time and is causal.

Shape suffixes: B batch, T frames, L tokens of a frame, H width, M batch of attention, S tokens of its sequences,
A attention heads, E width of a head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEED_FORWARD_FACTOR = 4  # of the hidden width, in all published models
_SLOWEST = 10_000.0  # ratio of the longest wavelength to the shortest: of the positions and of the rotation
TIME_ATTENTIONS = ("rotary", "causal")


class SpaceTimeAttention(nn.Module):
    """Self-attention (M, S, H) -> (M, S, H); queries, keys and values have no bias.

    Args:
        time: None for attention within a frame; "rotary": bidirectional, with rotary positions; "causal": without
            positions, and without attention to later frames.
    """

    def __init__(self, hidden_size: int, num_heads: int, time: str | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.time = time
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_MSH: Tensor) -> Tensor:
        parts = self.qkv(hidden_MSH).chunk(3, dim=-1)
        query_MASE, key_MASE, value_MASE = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        if self.time == "rotary":
            query_MASE, key_MASE = rotate(query_MASE), rotate(key_MASE)
        mixed_MASE = F.scaled_dot_product_attention(query_MASE, key_MASE, value_MASE, is_causal=self.time == "causal")
        return self.output(mixed_MASE.transpose(1, 2).flatten(2))


class SpaceTimeLayer(nn.Module):
    """Pre-norm residual layer: attention within each frame, attention over time unless `time` is None, feed-forward."""

    def __init__(self, hidden_size: int, num_heads: int, time: str | None, eps: float) -> None:
        super().__init__()
        self.norm_space = nn.LayerNorm(hidden_size, eps=eps)
        self.space = SpaceTimeAttention(hidden_size, num_heads)
        self.norm_time = nn.LayerNorm(hidden_size, eps=eps) if time else None
        self.time = SpaceTimeAttention(hidden_size, num_heads, time) if time else None
        self.norm_mlp = nn.LayerNorm(hidden_size, eps=eps)
        self.mlp_in = nn.Linear(hidden_size, FEED_FORWARD_FACTOR * hidden_size)
        self.mlp_out = nn.Linear(FEED_FORWARD_FACTOR * hidden_size, hidden_size)

    def forward(self, hidden_BTLH: Tensor) -> Tensor:
        """(B, T, L, H) -> (B, T, L, H)."""
        frames = hidden_BTLH.shape[:2]
        hidden_BTLH = hidden_BTLH + self.space(self.norm_space(hidden_BTLH).flatten(0, 1)).unflatten(0, frames)
        if self.time is not None and self.norm_time is not None:
            by_place = self.norm_time(hidden_BTLH).transpose(1, 2)
            mixed_BLTH = self.time(by_place.flatten(0, 1)).unflatten(0, by_place.shape[:2])
            hidden_BTLH = hidden_BTLH + mixed_BLTH.transpose(1, 2)
        return hidden_BTLH + self.mlp_out(F.gelu(self.mlp_in(self.norm_mlp(hidden_BTLH))))


class SpaceTimeTransformer(nn.Module):
    """Input embedding, sinusoidal positions within a frame, then layers; (B, T, L, in) -> (B, T, L, H)."""

    def __init__(
        self, input_size: int, hidden_size: int, num_heads: int, num_layers: int, time: str | None, eps: float
    ) -> None:
        super().__init__()
        assert time is None or time in TIME_ATTENTIONS
        self.embed = nn.Sequential(
            nn.LayerNorm(input_size, eps=eps), nn.Linear(input_size, hidden_size), nn.LayerNorm(hidden_size, eps=eps)
        )
        self.layers = nn.ModuleList(SpaceTimeLayer(hidden_size, num_heads, time, eps) for _ in range(num_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden_BTLH = self.embed(tokens)
        length, width = hidden_BTLH.shape[2:]
        hidden_BTLH = hidden_BTLH + sinusoids(length, width, hidden_BTLH.device).to(hidden_BTLH.dtype)
        for layer in self.layers:
            hidden_BTLH = layer(hidden_BTLH)
        return hidden_BTLH


def sinusoids(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """Positions (length, width), float32: sines at even indices, cosines at odd ones (arXiv 1706.03762, Sec. 3.5).

    Computed on each call: `from_pretrained` would leave a non-persistent buffer uninitialized.
    """
    rates = torch.exp(torch.arange(0, width, 2, device=device).float() * -(math.log(_SLOWEST) / width))
    angles = torch.arange(length, device=device).float().unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def rotary_frequencies(head_width: int, device: torch.device | None = None) -> Tensor:
    """Rotation per step in time of each pair of components of a head: float32 (head_width / 2,), in radians."""
    return 1.0 / _SLOWEST ** (torch.arange(0, head_width, 2, device=device).float() / head_width)


def rotate(part_MASE: Tensor) -> Tensor:
    """Rotate each pair of adjacent components by position times frequency (arXiv 2104.09864, Eq. 34), in float32."""
    positions = torch.arange(part_MASE.shape[2], device=part_MASE.device).float()
    angles_SE = positions.unsqueeze(1) * rotary_frequencies(part_MASE.shape[3], part_MASE.device)
    cos, sin = angles_SE.cos(), angles_SE.sin()
    even, odd = part_MASE.float().unflatten(3, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1)
    return turned.flatten(3).to(part_MASE.dtype)
