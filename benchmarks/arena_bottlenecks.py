"""Bottlenecks of the ablation that `lara-lam` does not use: finite scalar quantization, a light KL, and none.

Shape suffixes: B batch, N latent tokens, D numbers of a token, L scalars of a token.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from lara_tokenizer.model import modeling_latent_action
from lara_tokenizer.model.bottleneck_vq import VectorQuantizer, VectorQuantizerOutput

LEVELS = 5  # of each scalar: 5^3 = 125 codes, where the codebook has 128
KL_WEIGHT = 1e-5  # of the KL in nats per pair, summed over the 256 numbers of z
FIRST_LOG_VARIANCE = -4.0  # noise starts small: variance 0.02, where a number of z has 1


class FiniteScalarQuantizer(VectorQuantizer):
    """Each token becomes three scalars of five levels (Mentzer et al. 2023, arXiv 2309.15505), and D numbers again.

    The codebook of the base class is not used, so it is neither initialized nor reset.
    """

    def __init__(self, codebook_size: int, codebook_dim: int) -> None:
        super().__init__(codebook_size, codebook_dim)
        self.scalars = 3
        self.down = nn.Linear(codebook_dim, self.scalars)
        self.up = nn.Linear(self.scalars, codebook_dim)

    def forward(self, latents_BND: Tensor) -> VectorQuantizerOutput:
        half = LEVELS // 2
        bounded_BNL = half * torch.tanh(self.down(latents_BND.float()))
        # Straight-through: rounded in the forward pass, the identity in the backward pass.
        rounded_BNL = bounded_BNL + (bounded_BNL.round() - bounded_BNL).detach()
        # The levels are the digits of a code.
        weights_L = LEVELS ** torch.arange(self.scalars, device=latents_BND.device)
        codes_BN = ((bounded_BNL.round().long() + half) * weights_L).sum(-1)
        quantized_BND = self.up(rounded_BNL if not self.continuous else bounded_BNL)
        zero_B = latents_BND.new_zeros(len(latents_BND))  # neither a codebook nor a commitment loss
        return VectorQuantizerOutput(quantized_BND, codes_BN, torch.zeros_like(codes_BN).float(), zero_B, zero_B)

    def start_codebook(self, latents_BND: Tensor, iterations: int = 10, seed: int = 0) -> None:
        """No-op: there is no codebook."""

    def revive_dead_codes(self, latents_BND: Tensor, seed: int = 0, share: float = 0.0) -> int:
        """No-op: there is no codebook."""
        return 0


class NoQuantizer(VectorQuantizer):
    """Bottleneck that passes z to the decoder unchanged; its codes are meaningless, of an untrained codebook."""

    def forward(self, latents_BND: Tensor) -> VectorQuantizerOutput:
        self.continuous = True  # in every call: the schedule of the training resets it
        return super().forward(latents_BND)


class LightKL(NoQuantizer):
    """Variational bottleneck as in AdaWorld: in training the decoder reads a sample around z, the mean.

    The weighted KL replaces the codebook loss, whose weight is 1.
    """

    def __init__(self, codebook_size: int, codebook_dim: int) -> None:
        super().__init__(codebook_size, codebook_dim)
        self.to_log_variance = nn.Linear(codebook_dim, codebook_dim)

    def forward(self, latents_BND: Tensor) -> VectorQuantizerOutput:
        out = super().forward(latents_BND)
        if not self.training:
            return out
        # The exponential amplifies the rounding of bfloat16.
        with torch.autocast(latents_BND.device.type, enabled=False):
            mean_BND = latents_BND.float()
            log_variance_BND = FIRST_LOG_VARIANCE + self.to_log_variance(mean_BND)
            sample_BND = mean_BND + (log_variance_BND / 2).exp() * torch.randn_like(mean_BND)
            return replace(out, quantized_latents=sample_BND, codebook_loss=KL_WEIGHT * kl(mean_BND, log_variance_BND))


def kl(mean_BND: Tensor, log_variance_BND: Tensor) -> Tensor:
    """KL divergence from the standard normal distribution, in nats per pair, (B,)."""
    return (mean_BND.square() + log_variance_BND.exp() - 1 - log_variance_BND).sum((1, 2)) / 2


BOTTLENECKS = {"fsq": FiniteScalarQuantizer, "no-quantizer": NoQuantizer, "kl": LightKL}


def use(name: str) -> None:
    """Build and load models with this bottleneck from here on."""
    # The model looks the class up in its module when it is built.
    modeling_latent_action.VectorQuantizer = BOTTLENECKS[name]
