"""The transformers of LAPA's latent action quantizer (LAPA, arXiv 2410.11758, Appendix A; C-ViViT, arXiv 2210.02399).

Shape suffixes: B batch, T frames (one or two), P patches of a frame, H width, A attention heads, E width of a head,
N latent tokens. A transformer attends along Y of (B, X, Y, H): patches of a frame, or frames of a patch. S sequences of
L tokens are the input of one attention.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_laq import LaqConfig

ATTENTION_SCALE = 8.0  # of unit queries and keys
NULL_TOKENS = 2  # learned keys and values beside the latent tokens in the decoder


class RelativePositionBias(nn.Module):
    """Bias of spatial attention scores, (A, P, P): a network of the signed logarithm of both distances."""

    def __init__(self, config: LaqConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.side = config.patches_per_side
        self.hidden_in = nn.Linear(2, width)
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, config.num_attention_heads)

    def forward(self) -> Tensor:
        weight, side = self.hidden_in.weight, self.side
        # Pairs of patches have only (2 side - 1)^2 different distances: the network is applied once to each.
        steps = torch.arange(1 - side, side, device=weight.device, dtype=torch.float32)
        logs = (steps.sign() * steps.abs().log1p()).to(weight.dtype)
        hidden = F.leaky_relu(self.hidden_in(torch.cartesian_prod(logs, logs)), 0.1)
        bias_A = self.output(F.leaky_relu(self.hidden(hidden), 0.1))
        index = torch.arange(side, device=weight.device)
        row, column = torch.cartesian_prod(index, index).unbind(-1)
        down, across = row[:, None] - row + side - 1, column[:, None] - column + side - 1
        return bias_A[down * (2 * side - 1) + across].permute(2, 0, 1)


class UnitAttention(nn.Module):
    """Attention with unit queries and keys, each component with a learned scale; no biases.

    Self-attention, or with `reads_context` cross-attention to another sequence and learned null tokens.
    """

    def __init__(self, config: LaqConfig, reads_context: bool = False) -> None:
        super().__init__()
        width, heads, head = config.hidden_size, config.num_attention_heads, config.attention_head_size
        self.heads = heads
        self.raw_source = config.key_value_input == "raw"
        self.norm = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, heads * head, bias=False)
        self.to_key_value = nn.Linear(width, 2 * heads * head, bias=False)
        self.query_scale = nn.Parameter(torch.empty(head))
        self.key_scale = nn.Parameter(torch.empty(head))
        self.output = nn.Linear(heads * head, width, bias=False)
        self.norm_context = nn.LayerNorm(width) if reads_context else None
        # Keys, then values.
        self.null = nn.Parameter(torch.empty(2, heads, NULL_TOKENS, head)) if reads_context else None

    def forward(self, hidden_SLH: Tensor, context_SNH: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        normed_SLH = self.norm(hidden_SLH)
        source = hidden_SLH if self.raw_source else normed_SLH
        if self.norm_context is not None:
            assert context_SNH is not None
            source = self.norm_context(context_SNH)
        query = self._heads(self.to_query(normed_SLH))
        key, value = (self._heads(part) for part in self.to_key_value(source).chunk(2, dim=-1))
        if self.null is not None:
            null = self.null.to(value.dtype).unsqueeze(1).expand(-1, len(value), -1, -1, -1)
            key, value = torch.cat([null[0], key], 2), torch.cat([null[1], value], 2)
        query = (F.normalize(query, dim=-1) * self.query_scale).to(value.dtype)
        key = (F.normalize(key, dim=-1) * self.key_scale).to(value.dtype)
        mask = None if bias is None else bias.to(value.dtype)
        mixed_SALE = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=ATTENTION_SCALE)
        return self.output(mixed_SALE.transpose(1, 2).flatten(2))

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


class PositionConvolution(nn.Module):
    """Position encoding: a depthwise convolution over space and past time, (B, X, Y, H) -> (B, X, Y, H).

    layout: "frames" for X frames of Y patches; "grid" and "folded" for X patches of Y frames, see
        `LaqConfig.temporal_layout`.
    """

    def __init__(self, config: LaqConfig, layout: str) -> None:
        super().__init__()
        self.side, self.layout = config.patches_per_side, layout
        self.convolution = nn.Conv3d(config.hidden_size, config.hidden_size, 3, groups=config.hidden_size)

    def forward(self, hidden_BXYH: Tensor) -> Tensor:
        batch, outer, inner, width = hidden_BXYH.shape
        if self.layout == "frames":
            return self._convolved(hidden_BXYH)
        if self.layout == "grid":
            return self._convolved(hidden_BXYH.transpose(1, 2)).transpose(1, 2)
        return self._convolved(hidden_BXYH.reshape(batch, inner, outer, width)).reshape(hidden_BXYH.shape)

    def _convolved(self, hidden_BTPH: Tensor) -> Tensor:
        batch, frames, _, width = hidden_BTPH.shape
        # The input is padded by two frames before the first. Of three taps over time the last sees the frame itself,
        # the middle one the previous frame, and the first, with two frames, only padding: it is skipped.
        taps, bias = self.convolution.weight, self.convolution.bias
        grid = hidden_BTPH.reshape(batch * frames, self.side, self.side, width).permute(0, 3, 1, 2)
        moved = F.conv2d(grid, taps[:, :, 2], bias, padding=1, groups=width).unflatten(0, (batch, frames))
        if frames == 2:
            past = grid.unflatten(0, (batch, frames))[:, 0]
            from_past = F.conv2d(past, taps[:, :, 1], padding=1, groups=width)
            moved = torch.stack([moved[:, 0], moved[:, 1] + from_past], 1)
        return moved.flatten(3).transpose(2, 3)


class FeedForward(nn.Module):
    """Gated feed-forward (GEGLU): layer norm, GELU of one half times the other half, projection back."""

    def __init__(self, config: LaqConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.mlp_in = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.mlp_out = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        value, gate = self.mlp_in(self.norm(hidden)).chunk(2, dim=-1)
        return self.mlp_out(F.gelu(gate) * value)


class LaqLayer(nn.Module):
    """Residual layer: positions, attention along Y, attention to the latent tokens (decoder), feed-forward."""

    def __init__(self, config: LaqConfig, layout: str, reads_context: bool) -> None:
        super().__init__()
        self.positions = PositionConvolution(config, layout)
        self.attention = UnitAttention(config)
        self.context_attention = UnitAttention(config, reads_context=True) if reads_context else None
        self.feed_forward = FeedForward(config)

    def forward(self, hidden_BXYH: Tensor, bias_AYY: Tensor | None, context_BNH: Tensor | None) -> Tensor:
        hidden_BXYH = hidden_BXYH + self.positions(hidden_BXYH)
        tokens_SLH = hidden_BXYH.flatten(0, 1)
        tokens_SLH = tokens_SLH + self.attention(tokens_SLH, bias=bias_AYY)
        if self.context_attention is not None:
            tokens_SLH = tokens_SLH + self.context_attention(tokens_SLH, context_BNH)
        return (tokens_SLH + self.feed_forward(tokens_SLH)).view(hidden_BXYH.shape)


class LaqTransformer(nn.Module):
    """Layers that attend along Y of (B, X, Y, H), and a final layer norm."""

    def __init__(self, config: LaqConfig, num_layers: int, layout: str, reads_context: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LaqLayer(config, layout, reads_context) for _ in range(num_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, hidden_BXYH: Tensor, bias_AYY: Tensor | None = None, context_BNH: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            hidden_BXYH = layer(hidden_BXYH, bias_AYY, context_BNH)
        return self.norm(hidden_BXYH)
