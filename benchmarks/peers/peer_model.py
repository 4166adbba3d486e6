"""The interface of every peer's model: the methods that evaluation and training call.

Shape suffixes: B batch, P patches, Q numbers of a patch, V of its features, N latent tokens, D numbers of a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .frames import PatchGrid
from .image_encoder import image_encoder, patch_features


@dataclass(frozen=True, slots=True)
class PeerOutput:
    """An encoded pair."""

    latents: Tensor
    """z, float32 (B, N, D)."""
    codes: Tensor | None
    """(B, N), or None for a continuous z."""
    quantized_latents: Tensor
    """The decoder's input (B, N, D)."""


@dataclass(frozen=True, kw_only=True)
class PeerConfig:
    """Sizes that the peers share with `lara-lam`.

    codebook_size: None for a continuous z. vision_config: of another image encoder than that of all recipes.
    """

    image_size: int = 64
    patch_size: int = 8
    hidden_size: int = 128
    num_attention_heads: int = 4
    num_latents: int = 8
    codebook_dim: int = 32
    codebook_size: int | None = None
    strides: tuple[str, ...] = ("0.5s",)
    vision_config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        # Rotary positions turn pairs of components of a head.
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of twice the number of attention heads "
                f"({self.num_attention_heads})."
            )


class PeerModel(nn.Module):
    """Base of the models of space and time: the image encoder sees a frame, the model's own encoder both frames."""

    config: Any

    def __init__(self, config: PeerConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = PatchGrid(config.image_size, config.patch_size)
        self.vision_encoder = image_encoder(config.image_size, config.patch_size, config.vision_config)
        self.feature_dim: int = self.vision_encoder.config.hidden_size

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def get_frame_features(self, pixel_values: Tensor) -> Tensor:
        """Frames (B, 3, S, S) from the processor -> features of their patches, (B, P, V)."""
        return patch_features(self.vision_encoder, pixel_values)

    def encode(self, *, frame_features: Tensor, future_frame_features: Tensor) -> PeerOutput:
        """Features (B, P, V) of both frames -> the latent action."""
        raise NotImplementedError

    def decode(self, pixel_values: Tensor, *, quantized_latents: Tensor) -> Tensor:
        """Frame t (B, 3, S, S) and a latent action (B, N, D) -> frame t+C, in the space of `pixel_values`."""
        return self.grid.join(self.predict(self.grid.split(pixel_values), quantized_latents))

    def predict(self, now_BPQ: Tensor, quantized_BND: Tensor) -> Tensor:
        """Patches of frame t and a latent action -> patches of frame t+C."""
        raise NotImplementedError

    def training_loss(self, now: Tensor, future: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pairs (B, 3, S, S) from the processor -> the loss and its named terms, before their weights."""
        raise NotImplementedError

    def after_step(self, step: int, total_steps: int) -> None:
        """Update the codebook by the recipe's own rule after optimizer step `step` (from 1)."""
