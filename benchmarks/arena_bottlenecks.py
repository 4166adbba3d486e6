"""Bottlenecks that `lara-lam` was tried with and does not have: finite scalar quantization, and none.

Shape suffixes: B batch, N latent tokens, D numbers of a token, L scalars of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lara_tokenizer.model import modeling_latent_action
from lara_tokenizer.model.bottleneck_vq import VectorQuantizer, VectorQuantizerOutput

LEVELS = 5  # of each scalar: 5^3 = 125 codes, where the codebook has 128


class FiniteScalarQuantizer(VectorQuantizer):
    """Each token becomes three scalars of five levels (Mentzer et al. 2023, arXiv 2309.15505), and D numbers again.

    The codebook of the base class is not used; there is nothing to start and nothing to revive.
    """

    def __init__(self, codebook_size: int, codebook_dim: int) -> None:
        super().__init__(codebook_size, codebook_dim)
        self.scalars = 3
        self.down, self.up = nn.Linear(codebook_dim, self.scalars), nn.Linear(self.scalars, codebook_dim)

    def forward(self, latents_BND: Tensor) -> VectorQuantizerOutput:
        half = LEVELS // 2
        bounded_BNL = half * torch.tanh(self.down(latents_BND.float()))
        rounded_BNL = bounded_BNL + (bounded_BNL.round() - bounded_BNL).detach()
        weights_L = LEVELS ** torch.arange(self.scalars, device=latents_BND.device)
        codes_BN = ((bounded_BNL.round().long() + half) * weights_L).sum(-1)
        quantized_BND = self.up(rounded_BNL if not self.continuous else bounded_BNL)
        nothing_B = latents_BND.new_zeros(len(latents_BND))
        return VectorQuantizerOutput(quantized_BND, codes_BN, torch.zeros_like(codes_BN).float(), nothing_B, nothing_B)

    def start_codebook(self, latents_BND: Tensor, iterations: int = 10, seed: int = 0) -> None:
        """Nothing."""

    def revive_dead_codes(self, latents_BND: Tensor, seed: int = 0, share: float = 0.0) -> int:
        """Nothing."""
        return 0


class NoQuantizer(VectorQuantizer):
    """z goes to the decoder as it is; codes are those of an untrained codebook and mean nothing."""

    def forward(self, latents_BND: Tensor) -> VectorQuantizerOutput:
        self.continuous = True
        return super().forward(latents_BND)


BOTTLENECKS = {"fsq": FiniteScalarQuantizer, "no-quantizer": NoQuantizer}


def use(name: str) -> None:
    """Build and load models with this bottleneck from now on."""
    modeling_latent_action.VectorQuantizer = BOTTLENECKS[name]
