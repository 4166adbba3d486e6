"""The diffusion transformer: alternating cross- and self-attention blocks, conditioned on the flow time by AdaLN.

Shape suffixes: B samples, T tokens, X context tokens, H width, N heads, E head width.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from lara_policy.flow_matching import sinusoid

TIME_SIZE = 256


class Attention(nn.Module):
    """Multi-head attention: queries from (B, T, H), keys and values from the same tokens or a context (B, X, C)."""

    def __init__(self, hidden_size: int, num_heads: int, context_size: int | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(context_size or hidden_size, hidden_size)
        self.value = nn.Linear(context_size or hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_BTH: Tensor, context_BXC: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, H). `mask` is true where a query may attend: (B, 1, 1, X) or (B, 1, T, X); None for everywhere."""
        query_BNTE, key_BNXE, value_BNXE = (
            rearrange(projected, "b t (n e) -> b n t e", n=self.num_heads)
            for projected in (self.query(hidden_BTH), self.key(context_BXC), self.value(context_BXC))
        )
        mixed_BNTE = F.scaled_dot_product_attention(query_BNTE, key_BNXE, value_BNXE, attn_mask=mask)
        return self.output(rearrange(mixed_BNTE, "b n t e -> b t (n e)"))


class AdaLayerNorm(nn.Module):
    """Adaptive layer norm: norm(h) (1 + scale) + shift, with scale and shift predicted from the time embedding."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        # Without weights of its own: scale and shift come from the time embedding.
        self.norm = nn.LayerNorm(hidden_size, eps=eps, elementwise_affine=False)
        self.modulation = nn.Linear(hidden_size, 2 * hidden_size)

    def forward(self, hidden_BTH: Tensor, time_BH: Tensor) -> Tensor:
        scale_B1H, shift_B1H = self.modulation(F.silu(time_BH)).unsqueeze(1).chunk(2, -1)
        return self.norm(hidden_BTH) * (1 + scale_B1H) + shift_B1H


class DiffusionTransformerBlock(GradientCheckpointingLayer):
    """A pre-norm block: h + attention(AdaLN(h)), then h + mlp(norm(h)).

    The one attention is cross-attention to the context, or self-attention if `context_size` is None.
    """

    def __init__(self, hidden_size: int, num_heads: int, context_size: int | None, dropout: float) -> None:
        super().__init__()
        self.is_cross = context_size is not None
        self.norm_attention = AdaLayerNorm(hidden_size, eps=1e-5)
        self.attention = Attention(hidden_size, num_heads, context_size)
        self.norm_mlp = nn.LayerNorm(hidden_size, eps=1e-5, elementwise_affine=False)
        self.mlp_in = nn.Linear(hidden_size, 4 * hidden_size)
        self.mlp_out = nn.Linear(4 * hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden_BTH: Tensor,
        time_BH: Tensor,
        context_BXC: Tensor,
        context_mask: Tensor | None,
        token_mask: Tensor | None,
    ) -> Tensor:
        normed_BTH = self.norm_attention(hidden_BTH, time_BH)
        if self.is_cross:
            attended_BTH = self.attention(normed_BTH, context_BXC, context_mask)
        else:
            attended_BTH = self.attention(normed_BTH, normed_BTH, token_mask)
        hidden_BTH = hidden_BTH + self.dropout(attended_BTH)
        inner_BTF = self.dropout(F.gelu(self.mlp_in(self.norm_mlp(hidden_BTH)), approximate="tanh"))
        return hidden_BTH + self.dropout(self.mlp_out(inner_BTF))


class DiffusionTransformer(nn.Module):
    """Blocks 1, 3, 5, ... cross-attend to the context, 2, 4, 6, ... self-attend; then AdaLN and a linear layer.

    Table S.1 of LARA: 16 blocks of 32 heads x 48 = 1536, context 2048 wide, outputs 1024 wide.
    """

    def __init__(
        self, hidden_size: int, num_layers: int, num_heads: int, context_size: int, output_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.time_in = nn.Linear(TIME_SIZE, hidden_size)
        self.time_out = nn.Linear(hidden_size, hidden_size)
        self.blocks = nn.ModuleList(
            DiffusionTransformerBlock(hidden_size, num_heads, None if index % 2 else context_size, dropout)
            for index in range(num_layers)
        )
        self.norm = AdaLayerNorm(hidden_size, eps=1e-6)
        self.output = nn.Linear(hidden_size, output_size)

    def forward(
        self,
        tokens_BTH: Tensor,
        tau_B: Tensor,
        context_BXC: Tensor,
        context_mask_BX: Tensor | None = None,
        token_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (B, T, output_size), and the tokens after each block, each (B, T, H).

        Args:
            context_mask_BX: true for real context tokens, false for padding.
            token_mask: (B, 1, T, T) or (B, 1, 1, T), true where self-attention may attend.
        """
        time_BH = self.time_out(F.silu(self.time_in(sinusoid(tau_B, TIME_SIZE).to(tokens_BTH.dtype))))
        context_mask = None if context_mask_BX is None else context_mask_BX[:, None, None]
        hidden_states: tuple[Tensor, ...] = ()
        hidden_BTH = tokens_BTH
        for block in self.blocks:
            hidden_BTH = block(hidden_BTH, time_BH, context_BXC, context_mask, token_mask)
            hidden_states += (hidden_BTH,)
        return self.output(self.norm(hidden_BTH, time_BH)), hidden_states


class ContextAdapter(nn.Module):
    """The trainable adapter between a frozen backbone and the policy: layer norm and self-attention, (B, X, C) -> same.

    No token attends to masked ones (padding).
    """

    def __init__(self, context_size: int, num_layers: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(context_size)
        self.layers = nn.ModuleList(AdapterLayer(context_size, num_heads, dropout) for _ in range(num_layers))

    def forward(self, context_BXC: Tensor, mask_BX: Tensor | None = None) -> Tensor:
        mask = None if mask_BX is None else mask_BX[:, None, None]
        context_BXC = self.norm(context_BXC)
        for layer in self.layers:
            context_BXC = layer(context_BXC, mask)
        return context_BXC


class AdapterLayer(GradientCheckpointingLayer):
    """Pre-norm self-attention and a GELU MLP of four times the width."""

    def __init__(self, context_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(context_size)
        self.attention = Attention(context_size, num_heads)
        self.norm_mlp = nn.LayerNorm(context_size)
        self.mlp_in = nn.Linear(context_size, 4 * context_size)
        self.mlp_out = nn.Linear(4 * context_size, context_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, context_BXC: Tensor, mask: Tensor | None) -> Tensor:
        normed_BXC = self.norm_attention(context_BXC)
        context_BXC = context_BXC + self.dropout(self.attention(normed_BXC, normed_BXC, mask))
        inner_BXF = F.gelu(self.mlp_in(self.norm_mlp(context_BXC)), approximate="tanh")
        return context_BXC + self.dropout(self.mlp_out(inner_BXF))
