"""The pre-norm transformer layer of the M-Former and of the frame decoder.

Shape suffixes: B batch, T tokens, H width, A attention heads, E width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Full self-attention, (B, T, H) -> (B, T, H), by fused kernels; eager where attention maps are requested."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, hidden_BTH: Tensor, output_attentions: bool = False, keep: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Compute all T rows, or only the first `keep`, which attend to all tokens."""
        batch, tokens, width = hidden_BTH.shape
        rows = tokens if keep is None else keep
        if rows == tokens:
            query, key, value = self.qkv(hidden_BTH).split(width, dim=-1)
        else:
            # Keys and values are needed of all tokens, queries only of the first rows.
            query = F.linear(hidden_BTH[:, :rows], self.qkv.weight[:width], self.qkv.bias[:width])
            key, value = F.linear(hidden_BTH, self.qkv.weight[width:], self.qkv.bias[width:]).split(width, dim=-1)
        query_BATE, key_BATE, value_BATE = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        attention_BATT = None
        if output_attentions:
            # Fused kernels do not return the attention map.
            scores_BATT = query_BATE @ key_BATE.transpose(-1, -2) * query_BATE.shape[-1] ** -0.5
            attention_BATT = scores_BATT.softmax(-1, dtype=torch.float32).to(value_BATE.dtype)
            mixed_BATE = attention_BATT @ value_BATE
        else:
            mixed_BATE = F.scaled_dot_product_attention(query_BATE, key_BATE, value_BATE)
        return self.output(mixed_BATE.transpose(1, 2).reshape(batch, rows, width)), attention_BATT


class TransformerLayer(nn.Module):
    """Pre-norm layer: h + attention(norm(h)), then h + mlp(norm(h)), with GELU."""

    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int, eps: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(hidden_size, eps=eps)
        self.attention = Attention(hidden_size, num_heads)
        self.norm_mlp = nn.LayerNorm(hidden_size, eps=eps)
        self.mlp_in = nn.Linear(hidden_size, intermediate_size)
        self.mlp_out = nn.Linear(intermediate_size, hidden_size)

    def forward(
        self, hidden_BTH: Tensor, output_attentions: bool = False, keep: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        attended_BTH, attention_BATT = self.attention(self.norm_attention(hidden_BTH), output_attentions, keep)
        hidden_BTH = hidden_BTH[:, :keep] + attended_BTH
        hidden_BTH = hidden_BTH + self.mlp_out(F.gelu(self.mlp_in(self.norm_mlp(hidden_BTH))))
        return hidden_BTH, attention_BATT


class Transformer(nn.Module):
    """Pre-norm transformer layers and a final layer norm."""

    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int, num_layers: int, eps: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerLayer(hidden_size, num_heads, intermediate_size, eps) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size, eps=eps)

    def forward(
        self, hidden_BTH: Tensor, output_attentions: bool = False, keep: int | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (B, T, H), or only the first `keep` rows (B, keep, H), and attention maps where requested."""
        attentions: tuple[Tensor, ...] = ()
        for index, layer in enumerate(self.layers, start=1):
            is_last = index == len(self.layers)
            hidden_BTH, attention_BATT = layer(hidden_BTH, output_attentions, keep if is_last else None)
            if attention_BATT is not None:
                attentions += (attention_BATT,)
        return self.norm(hidden_BTH), attentions
