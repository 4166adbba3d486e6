"""LAPA's latent action quantizer (LAPA, arXiv 2410.11758; github LatentActionPretraining/LAPA, laq/, commit 46aca51).

As published:
  patches     norm, linear, norm; the same for both frames
  encoder     spatial layers within a frame, then as many temporal layers per patch over both frames. A layer is a
              depthwise convolution over space and past time that encodes positions, attention of unit queries and keys
              at scale 8 without biases, and a gated feed-forward (GEGLU, 8/3 of the width). Spatial attention adds a
              bias computed from relative positions, one small network for encoder and decoder
  difference  both frames are projected to D numbers and shrunk by two convolutions; z is the last frame's less the
              first one's
  quantizer   NSVQ with a codebook from N(0, 1) and replacement of unused codes in the early part of training
  decoder     the patch embedding of frame t, cut from the gradient, through spatial layers that also attend to the
              action tokens (and to two learned null tokens); a linear layer to pixels. Action tokens carry no
              position: LAPA's reshape gives each of them a stripe of every code, which makes them distinct. It is kept
  loss        mean squared error of pixels in 0..1
  training    Adam (0.9, 0.99), 1e-4 held constant, gradient norm 0.5, batch 64, 100k steps, no augmentation

Different, and why:
  encoder     the two layers of the image encoder of all recipes (image_encoder.py) are the first spatial ones. The
              decoder embeds the patches of frame t itself: what it shares with the encoder in theirs is now an encoder
  size        width 128, 4 heads, 1 + 3 + 3 layers (theirs: 1024, 16, 8 + 8 + 8), 64 px in patches of 8 (256, of 32):
              the grid is 8 x 8 as theirs, so that the convolutions around z are unchanged
  z           8 tokens of 32 numbers with 128 codes as in lara-lam (theirs: 4 of 32 with 8 codes), because figures of z
              are comparable only at equal size; the second convolution leaves a grid of 2 x 4 instead of 2 x 2
  schedule    theirs replaces every 10 steps up to step 100, every 100 up to 1,000, every 500 up to 5,000, of 100k.
              Runs of fewer than 10k steps scale these numbers down, so that the second half has no replacements
  unused      a code of fewer than a tenth of the batches since the last replacement, as in NSVQ's own code;
              LAPA's code divides by the pairs of a batch instead, which at other intervals means another threshold
  time        the temporal convolution gets its neighbours in space and time; their reshape for temporal layers mixes
              patches of the grid
  third tap   the third tap of the convolution over time would see only padding with two frames, and is left out

Shape suffixes: B batch, T frames, P patches, Q numbers of a patch, V of its features, H width, A attention heads,
E width of a head, N latent tokens, D numbers of a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .nsvq import NoiseSubstitutionQuantizer
from .peer_model import PeerConfig, PeerModel, PeerOutput
from .recipe import Recipe

ATTENTION_SCALE = 8.0  # of unit queries and keys
NULL_TOKENS = 2  # learned tokens beside the action tokens
# (until this step, every so many steps), of a run of WHOLE_SCHEDULE steps or more.
REPLACEMENTS = ((100, 10), (1000, 100), (5000, 500))
WHOLE_SCHEDULE = 10_000
TOKEN_GRIDS = {1: (1, 1), 2: (2, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4)}


@dataclass(frozen=True, kw_only=True)
class LapaConfig(PeerConfig):
    """Sizes of LAPA, and the schedule of `CodebookSchedule` in place of LAPA's own where it is not 0.

    num_layers: of the temporal encoder and of the decoder, each.
    """

    codebook_size: int = 128
    num_spatial_layers: int = 1
    num_layers: int = 3
    continuous_steps: int = 0
    dead_code_steps: int = 0
    dead_code_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_latents not in TOKEN_GRIDS:
            raise ValueError(f"num_latents ({self.num_latents}) is one of {', '.join(map(str, TOKEN_GRIDS))}.")


class RelativePositionBias(nn.Module):
    """Bias of spatial attention scores (A, P, P): a network of the signed logarithm of distances."""

    distances: Tensor

    def __init__(self, hidden_size: int, heads: int, side: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, hidden_size),
            nn.LeakyReLU(0.1),
            nn.Linear(hidden_size, hidden_size),
            nn.LeakyReLU(0.1),
            nn.Linear(hidden_size, heads),
        )
        patches_P2 = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
        steps_PP2 = patches_P2[:, None] - patches_P2[None]
        self.register_buffer("distances", steps_PP2.sign() * steps_PP2.abs().log1p(), persistent=False)

    def forward(self) -> Tensor:
        return self.net(self.distances).permute(2, 0, 1)


class UnitAttention(nn.Module):
    """Attention with unit queries and keys, each component with a learned scale; pre-norm, no biases.

    null_tokens: learned tokens beside those of another sequence, the context; 0 is self-attention.
    """

    def __init__(self, hidden_size: int, heads: int, null_tokens: int = 0) -> None:
        super().__init__()
        width = hidden_size // heads
        self.heads = heads
        self.norm = nn.LayerNorm(hidden_size, bias=False)
        self.norm_context = nn.LayerNorm(hidden_size, bias=False) if null_tokens else None
        self.to_query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_key_value = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.query_scale, self.key_scale = (nn.Parameter(torch.ones(width)) for _ in range(2))
        self.null = nn.Parameter(torch.randn(2, heads, null_tokens, width)) if null_tokens else None
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_BPH: Tensor, context_BNH: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        normed_BPH = self.norm(hidden_BPH)
        source = normed_BPH
        if self.norm_context is not None and context_BNH is not None:
            source = self.norm_context(context_BNH)
        query = self._heads(self.to_query(normed_BPH))
        key, value = (self._heads(part) for part in self.to_key_value(source).chunk(2, dim=-1))
        if self.null is not None:
            null = self.null.to(key.dtype).unsqueeze(1).expand(-1, len(key), -1, -1, -1)
            key, value = torch.cat([null[0], key], 2), torch.cat([null[1], value], 2)
        query = (F.normalize(query, dim=-1) * self.query_scale).to(value.dtype)
        key = (F.normalize(key, dim=-1) * self.key_scale).to(value.dtype)
        mask = None if bias is None else bias.to(value.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=ATTENTION_SCALE)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _heads(self, tokens_BPH: Tensor) -> Tensor:
        return tokens_BPH.unflatten(2, (self.heads, -1)).transpose(1, 2)


class PositionConvolution(nn.Module):
    """A depthwise 3 x 3 convolution over space that also sees the frame before, (B, T, P, H) -> (B, T, P, H)."""

    def __init__(self, hidden_size: int, side: int, frames: int) -> None:
        super().__init__()
        self.side = side
        bound = (3 * 9) ** -0.5  # of a kernel of 3 x 3 x 3, as PyTorch starts it
        self.kernels = nn.Parameter(torch.empty(frames, hidden_size, 1, 3, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(hidden_size).uniform_(-bound, bound))

    def forward(self, hidden_BTPH: Tensor) -> Tensor:
        batch, frames, _, width = hidden_BTPH.shape
        # Channels are last already: the convolution is fastest on the permuted view.
        grid = hidden_BTPH.reshape(batch * frames, self.side, self.side, width).permute(0, 3, 1, 2)
        moved = F.conv2d(grid, self.kernels[0], self.bias, padding=1, groups=width).unflatten(0, (batch, frames))
        if frames > 1:
            past = grid.unflatten(0, (batch, frames))[:, 0]
            from_past = F.conv2d(past, self.kernels[1], padding=1, groups=width)
            moved = torch.stack([moved[:, 0], moved[:, 1] + from_past], 1)
        return moved.permute(0, 1, 3, 4, 2).reshape(hidden_BTPH.shape)


class GatedFeedForward(nn.Module):
    """norm, GEGLU of 8/3 of the width, back; no biases."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        inner = int(4 * 2 / 3 * hidden_size)
        self.norm = nn.LayerNorm(hidden_size, bias=False)
        self.inner = nn.Linear(hidden_size, 2 * inner, bias=False)
        self.output = nn.Linear(inner, hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        value, gate = self.inner(self.norm(hidden)).chunk(2, dim=-1)
        return self.output(F.gelu(gate) * value)


class Layer(nn.Module):
    """Positions, self-attention over space or over time, optional attention to action tokens, GEGLU."""

    def __init__(self, config: LapaConfig, side: int, frames: int, over: str, attends_actions: bool = False) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        self.over = over
        self.positions = PositionConvolution(width, side, frames)
        self.attention = UnitAttention(width, heads)
        self.action_attention = UnitAttention(width, heads, NULL_TOKENS) if attends_actions else None
        self.feed_forward = GatedFeedForward(width)

    def forward(self, hidden_BTPH: Tensor, bias: Tensor | None = None, actions_BNH: Tensor | None = None) -> Tensor:
        batch, frames, patches, _ = hidden_BTPH.shape
        hidden_BTPH = hidden_BTPH + self.positions(hidden_BTPH)
        if self.over == "space":
            mixed = self.attention(hidden_BTPH.flatten(0, 1), bias=bias).unflatten(0, (batch, frames))
        else:
            mixed = self.attention(hidden_BTPH.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, patches))
            mixed = mixed.transpose(1, 2)
        hidden_BTPH = hidden_BTPH + mixed
        if self.action_attention is not None:
            hidden_BTPH = hidden_BTPH + self.action_attention(hidden_BTPH.flatten(1, 2), actions_BNH).unsqueeze(1)
        return hidden_BTPH + self.feed_forward(hidden_BTPH)


class LapaModel(PeerModel):
    """Frame pairs to NSVQ codes of a difference of features, and back to pixels.

    >>> LapaModel(LapaConfig()).eval().decode(torch.zeros(2, 3, 64, 64), quantized_latents=torch.zeros(2, 8, 32)).shape
    torch.Size([2, 3, 64, 64])
    """

    config: LapaConfig

    def __init__(self, config: LapaConfig) -> None:
        super().__init__(config)
        width, dim, side = config.hidden_size, config.codebook_dim, self.grid.side
        self.embed, self.embed_patches = (
            nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width), nn.LayerNorm(width))
            for size in (self.feature_dim, self.grid.patch_dim)
        )
        self.position_bias = RelativePositionBias(width, config.num_attention_heads, side)
        self.spatial = nn.ModuleList(Layer(config, side, 2, "space") for _ in range(config.num_spatial_layers))
        self.temporal = nn.ModuleList(Layer(config, side, 2, "time") for _ in range(config.num_layers))
        self.spatial_norm, self.temporal_norm, self.decoder_norm = (nn.LayerNorm(width, bias=False) for _ in range(3))
        self.project = nn.Linear(width, dim)
        rows, columns = TOKEN_GRIDS[config.num_latents]
        halved = (side + 1) // 2
        if columns > halved:
            raise ValueError(
                f"num_latents ({config.num_latents}) asks for {columns} columns, the halved grid has {halved}. "
                "Take fewer tokens, or smaller patches."
            )
        self.shrink = nn.Sequential(
            nn.Conv2d(dim, dim, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(dim, dim, (halved - rows + 1, halved - columns + 1)),
        )
        self.bottleneck = NoiseSubstitutionQuantizer(config.codebook_size, dim)
        self.from_latents = nn.Linear(dim, width)
        self.decoder = nn.ModuleList(Layer(config, side, 1, "space", True) for _ in range(config.num_layers))
        self.to_pixels = nn.Linear(width, self.grid.patch_dim)

    def encode(self, *, frame_features: Tensor, future_frame_features: Tensor) -> PeerOutput:
        """Features (B, P, V) of both frames -> z, its codes and what the decoder gets (with noise while training)."""
        hidden_BTPH = self.embed(torch.stack([frame_features, future_frame_features], 1))
        bias = self.position_bias()
        for layer in self.spatial:
            hidden_BTPH = layer(hidden_BTPH, bias=bias)
        hidden_BTPH = self.spatial_norm(hidden_BTPH)
        for layer in self.temporal:
            hidden_BTPH = layer(hidden_BTPH)
        hidden_BTPH = self.temporal_norm(hidden_BTPH)
        # A difference of two similar numbers and a choice among close codes: bfloat16 is too coarse for both.
        with torch.autocast(hidden_BTPH.device.type, enabled=False):
            first_BND, last_BND = (self._shrink(frame_BPH.float()) for frame_BPH in hidden_BTPH.unbind(1))
            latents_BND = last_BND - first_BND
            quantized_BND, codes_BN = self.bottleneck(latents_BND)
        return PeerOutput(latents_BND, codes_BN, quantized_BND)

    def predict(self, now_BPQ: Tensor, quantized_BND: Tensor) -> Tensor:
        """Patches of frame t and action tokens -> patches of frame t+C."""
        hidden_BTPH = self.embed_patches(now_BPQ).unsqueeze(1)
        # Each action token gets a stripe of every code.
        stripes_BND = quantized_BND.reshape(len(quantized_BND), self.config.codebook_dim, -1).transpose(1, 2)
        actions_BNH = self.from_latents(stripes_BND)
        bias = self.position_bias()
        for layer in self.decoder:
            hidden_BTPH = layer(hidden_BTPH, bias=bias, actions_BNH=actions_BNH)
        return self.to_pixels(self.decoder_norm(hidden_BTPH.squeeze(1)))

    def training_loss(self, now: Tensor, future: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of pixels in 0..1."""
        now_BPV, future_BPV = self.get_frame_features(torch.cat([now, future])).chunk(2)
        encoded = self.encode(frame_features=now_BPV, future_frame_features=future_BPV)
        now_BPQ, future_BPQ = self.grid.split(torch.cat([now, future])).chunk(2)
        predicted_BPQ = self.predict(now_BPQ, encoded.quantized_latents)
        loss = F.mse_loss(predicted_BPQ.float(), future_BPQ)
        return loss, {"reconstruction": loss.detach()}

    def after_step(self, step: int, total_steps: int) -> None:
        """Replace unused codes in the steps of the published schedule, unless another one does."""
        if not self.config.dead_code_steps and replaces_codes(step, total_steps):
            self.bottleneck.replace_unused()

    def _shrink(self, hidden_BPH: Tensor) -> Tensor:
        side = self.grid.side
        grid = self.project(hidden_BPH).transpose(1, 2).unflatten(2, (side, side))
        return self.shrink(grid).flatten(2).transpose(1, 2)


def replaces_codes(step: int, total_steps: int) -> bool:
    """True if unused codes are replaced after `step` (from 1): often at first, rarely later, never in the second half.

    >>> [step for step in range(1, 401) if replaces_codes(step, 100_000)]
    [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 200, 300, 400]
    """
    scale = min(1.0, total_steps / WHOLE_SCHEDULE)
    for until, every in REPLACEMENTS:
        if step < round(until * scale):
            return step % max(1, round(every * scale)) == 0
    return False


def build(**overrides: Any) -> LapaModel:
    """LAPA's model at the size of `lara-lam`; keywords are fields of `LapaConfig`."""
    return LapaModel(LapaConfig(**overrides))


LAPA = Recipe(name="lapa", build=build, betas=(0.9, 0.99), weight_decay=0.0, max_grad_norm=0.5)
