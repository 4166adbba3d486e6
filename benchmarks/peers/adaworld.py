"""AdaWorld's latent action autoencoder (arXiv 2503.18938; github Little-Podi/AdaWorld, lam/, commit fe3701e).

As published:
  encoder     patches of both frames with a learned action token before each frame's, all in pixel numbers; norm,
              linear, norm; sinusoidal positions; blocks of attention within a frame, attention over time per patch
              (rotary positions, both directions), and a feed-forward of 4 times the width, pre-norm
  z           the action token of the second frame -> mean and logarithm of the variance; sampled in training, the mean
              in evaluation. No codes
  decoder     patches of frame t by one linear layer, plus z by another at every patch; norm, linear, norm; positions;
              spatial blocks; a linear layer and a sigmoid to pixels in 0..1
  loss        mean squared error over pixels + beta * KL, the KL summed over the numbers of z and averaged over pairs;
              beta 2e-4
  training    AdamW (0.9, 0.999), weight decay 0.01 on everything, 2.5e-5 held constant, gradient norm 0.3, batch 480;
              both frames get the same brightness offset of up to 0.1

Different, and why:
  encoder     its tokens are those of the small image encoder of all recipes (image_encoder.py), theirs patches in pixel
              numbers; the decoder embeds patches as theirs
  size        width 128, 4 heads, 3 + 3 blocks, 64 px in patches of 8 (theirs: 1024, 16, 16 + 16, 256 px, of 16)
  z           256 numbers, given as 8 x 32 like every z here (theirs: 32), because figures of z are comparable only at
              equal size. The KL stays a sum, so each number of z costs the same as there; unused ones cost nothing

The published beta was set on game video, where much of the frame changes. On simulated robot video at 64 px and 0.5 s
copying frame t costs about 0.001, and one nat of z costs 0.0002: the published weight allows z little information.
DreamDojo, which trains this model with more layers on robot video, has beta 1e-6: `build(beta=1e-6)`.

Shape suffixes: B batch, T frames, P patches, L = 1 + P tokens of a frame, Q numbers of a patch, V of its features,
H width, A attention heads, E width of a head, N latent tokens, D numbers of a token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .peer_model import PeerConfig, PeerModel, PeerOutput
from .recipe import Recipe

BRIGHTNESS = 0.1  # the largest offset of the augmentation, of the full range
ROTARY_BASE = 10_000.0


@dataclass(frozen=True, kw_only=True)
class AdaWorldConfig(PeerConfig):
    """Sizes of AdaWorld. num_layers: blocks of the encoder and of the decoder, each. beta: weight of the KL."""

    num_layers: int = 3
    beta: float = 2e-4


class Attention(nn.Module):
    """Full attention (M, L, H) -> (M, L, H), no biases on queries, keys and values; rotary positions over time."""

    rotation: Tensor

    def __init__(self, hidden_size: int, heads: int, rotary: bool = False) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size)
        width = hidden_size // heads
        angles = ROTARY_BASE ** -(torch.arange(0, width, 2) / width)
        self.register_buffer("rotation", torch.stack([angles.cos(), angles.sin()]), persistent=False)

    def forward(self, hidden_MLH: Tensor) -> Tensor:
        parts = self.qkv(hidden_MLH).chunk(3, dim=-1)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        if self.rotary:
            query, key = (self._rotate(part) for part in (query, key))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _rotate(self, part_MATE: Tensor) -> Tensor:
        """Rotate the second of two frames by one step; the first has position 0."""
        cos, sin = self.rotation.to(part_MATE.dtype)
        even, odd = part_MATE[:, :, 1, 0::2], part_MATE[:, :, 1, 1::2]
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
        return torch.stack([part_MATE[:, :, 0], turned], 2)


class Block(nn.Module):
    """Attention in space, attention in time where `temporal`, feed-forward; (B, T, L, H) -> (B, T, L, H)."""

    def __init__(self, hidden_size: int, heads: int, temporal: bool) -> None:
        super().__init__()
        self.norm_space, self.norm_out = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.space = Attention(hidden_size, heads)
        self.norm_time = nn.LayerNorm(hidden_size) if temporal else None
        self.time = Attention(hidden_size, heads, rotary=True) if temporal else None
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.GELU(), nn.Linear(4 * hidden_size, hidden_size)
        )

    def forward(self, hidden_BTLH: Tensor) -> Tensor:
        batch, frames, tokens, _ = hidden_BTLH.shape
        mixed = self.space(self.norm_space(hidden_BTLH).flatten(0, 1))
        hidden_BTLH = hidden_BTLH + mixed.unflatten(0, (batch, frames))
        if self.time is not None and self.norm_time is not None:
            mixed = self.time(self.norm_time(hidden_BTLH).transpose(1, 2).flatten(0, 1))
            hidden_BTLH = hidden_BTLH + mixed.unflatten(0, (batch, tokens)).transpose(1, 2)
        return hidden_BTLH + self.feed_forward(self.norm_out(hidden_BTLH))


class Blocks(nn.Module):
    """norm, linear, norm, sinusoidal positions, blocks, linear; (B, T, L, in) -> (B, T, L, out)."""

    positions: Tensor

    def __init__(self, config: AdaWorldConfig, tokens: int, width_in: int, width_out: int, temporal: bool) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        self.embed = nn.Sequential(nn.LayerNorm(width_in), nn.Linear(width_in, width), nn.LayerNorm(width))
        self.register_buffer("positions", _sinusoids(tokens, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, temporal) for _ in range(config.num_layers))
        self.output = nn.Linear(width, width_out)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden_BTLH = self.embed(tokens) + self.positions
        for block in self.blocks:
            hidden_BTLH = block(hidden_BTLH)
        return self.output(hidden_BTLH)


class AdaWorldModel(PeerModel):
    """Frame pairs to a continuous latent action, and back to pixels.

    >>> AdaWorldModel(AdaWorldConfig()).encode(frame_features=a, future_frame_features=b).codes  # doctest: +SKIP
    """

    config: AdaWorldConfig

    def __init__(self, config: AdaWorldConfig) -> None:
        super().__init__(config)
        width, patch_dim, patches = config.hidden_size, self.grid.patch_dim, self.grid.patches
        self.latent_dim = config.num_latents * config.codebook_dim
        self.action_token = nn.Parameter(torch.empty(self.feature_dim).uniform_(-1, 1))
        self.encoder = Blocks(config, 1 + patches, self.feature_dim, width, temporal=True)
        self.to_moments = nn.Linear(width, 2 * self.latent_dim)
        self.embed_patches = nn.Linear(patch_dim, width)
        self.from_latents = nn.Linear(self.latent_dim, width)
        self.decoder = Blocks(config, patches, width, patch_dim, temporal=False)

    def encode(self, *, frame_features: Tensor, future_frame_features: Tensor) -> PeerOutput:
        """Features (B, P, V) of both frames -> z, the mean, also as the decoder's input; there are no codes."""
        mean_BND, _ = self._moments(frame_features, future_frame_features)
        return PeerOutput(mean_BND, None, mean_BND)

    def predict(self, now_BPQ: Tensor, quantized_BND: Tensor) -> Tensor:
        """Patches of frame t and a latent action -> patches of frame t+C."""
        action_B1H = self.from_latents(quantized_BND.flatten(1)).unsqueeze(1)
        tokens_BPH = self.embed_patches(now_BPQ) + action_B1H
        return self.decoder(tokens_BPH.unsqueeze(1)).squeeze(1).float().sigmoid()

    def training_loss(self, now: Tensor, future: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of pixels in 0..1, and beta times the KL in nats a pair, from a sample of z."""
        mean_BND, log_variance_BND = self._moments(*self.get_frame_features(torch.cat([now, future])).chunk(2))
        now_BPQ, future_BPQ = self.grid.split(torch.cat([now, future])).chunk(2)
        sample_BND = mean_BND  # in evaluation, as published
        if self.training:
            sample_BND = mean_BND + torch.randn_like(mean_BND) * (log_variance_BND / 2).exp()
        reconstruction = F.mse_loss(self.predict(now_BPQ, sample_BND), future_BPQ)
        kl = (mean_BND.square() + log_variance_BND.exp() - 1 - log_variance_BND).sum((1, 2)).mean() / 2
        losses = {"reconstruction": reconstruction.detach(), "kl": kl.detach()}
        return reconstruction + self.config.beta * kl, losses

    def _moments(self, now_BPV: Tensor, future_BPV: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of z, each (B, N, D), in float32."""
        features_BTPV = torch.stack([now_BPV, future_BPV], 1)
        token = self.action_token.expand(len(now_BPV), 2, 1, -1)
        action_BH = self.encoder(torch.cat([token.to(features_BTPV.dtype), features_BTPV], 2))[:, 1, 0]
        # The exponential of the variance amplifies the rounding of bfloat16.
        with torch.autocast(action_BH.device.type, enabled=False):
            moments = self.to_moments(action_BH.float())
        shape = (self.config.num_latents, self.config.codebook_dim)
        mean_BND, log_variance_BND = (part.unflatten(1, shape) for part in moments.chunk(2, dim=1))
        return mean_BND, log_variance_BND


def _sinusoids(tokens: int, width: int) -> Tensor:
    """(tokens, width): sines at even positions, cosines at odd ones, wavelengths from 2 pi to 10,000 * 2 pi."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(tokens).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def shift_brightness(frames_BFCHW: Tensor) -> Tensor:
    """Add one offset per pair from -0.1 to 0.1, the same for both frames, and clip to 0..1."""
    offset_B = (2 * torch.rand(len(frames_BFCHW), device=frames_BFCHW.device) - 1) * BRIGHTNESS
    return (frames_BFCHW + offset_B.view(-1, 1, 1, 1, 1)).clamp(0, 1)


def build(**overrides: Any) -> AdaWorldModel:
    """AdaWorld's model at the size of `lara-lam`; keywords are fields of `AdaWorldConfig`."""
    return AdaWorldModel(AdaWorldConfig(**overrides))


ADAWORLD = Recipe(
    name="adaworld",
    build=build,
    betas=(0.9, 0.999),
    weight_decay=1e-2,
    decays_vectors=True,  # biases and norms too, as published
    max_grad_norm=0.3,
    augment=shift_brightness,
)
