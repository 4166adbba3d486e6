"""Nearest-code quantization of latent actions (Eq. 3, last two terms).

Shape suffixes: B batch, N latent tokens, D codebook dimension, K codes, M = B * N.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class VectorQuantizerOutput:
    """Output of the vector quantizer.

    Attributes:
        quantized_latents (B, N, D): the code vectors; in training with straight-through gradients to the latents.
        codes (B, N): int64 in [0, K). While the bottleneck is `continuous` the decoder does not use them.
        code_margin (B, N): squared distance to the second-best code minus that to the best: confidence, >= 0.
        codebook_loss (B,): mean squared distance, with gradients to the codes only.
        commitment_loss (B,): the same distance, with gradients to the latents only.
    """

    quantized_latents: Tensor
    codes: Tensor
    code_margin: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class Codebook(nn.Embedding):
    """K vectors of width D for one codebook or several, one after the other.

    A class of its own so that initialization can tell it from other embeddings.
    """


class VectorQuantizer(nn.Module):
    """Vector quantizer: replaces each latent by the nearest of K code vectors.

    With `positions` = N each of the N latents has a codebook of its own (product quantization), else all share one.
    `code_usage` counts the uses of each code in training since the last code reset. The training loop sets
    `continuous` during VQ warm-up: latents then pass unquantized, without codebook loss.

    >>> quantizer = VectorQuantizer(codebook_size=128, codebook_dim=32)
    >>> quantizer(torch.randn(4, 8, 32)).codes.shape
    torch.Size([4, 8])
    """

    code_usage: Tensor

    def __init__(self, codebook_size: int, codebook_dim: int, positions: int = 1) -> None:
        super().__init__()
        self.size = codebook_size
        self.positions = positions
        self.codebook = Codebook(positions * codebook_size, codebook_dim)
        self.register_buffer("code_usage", torch.zeros(positions * codebook_size, dtype=torch.long))
        self.continuous = False

    def forward(self, latents_BND: Tensor) -> VectorQuantizerOutput:
        if latents_BND.shape[-1] != self.codebook.embedding_dim:
            raise ValueError(
                f"latents have width {latents_BND.shape[-1]}, the codebook has "
                f"{self.codebook.embedding_dim}. Project them, or change codebook_dim."
            )
        if self.positions > 1 and latents_BND.shape[1] != self.positions:
            raise ValueError(f"there are {latents_BND.shape[1]} latents, and {self.positions} codebooks, one for each.")
        distances_BNK = self.squared_distances(latents_BND)
        codes_BN = distances_BNK.argmin(-1)
        best_two = distances_BNK.topk(2, dim=-1, largest=False).values
        nearest_BND = self.codebook(self._rows(codes_BN))
        # Evaluation must not change which codes the next reset counts as unused.
        if self.training:
            self._count(codes_BN)
        if self.continuous:
            zeros_B = latents_BND.new_zeros(latents_BND.shape[0])
            return VectorQuantizerOutput(latents_BND, codes_BN, best_two[..., 1] - best_two[..., 0], zeros_B, zeros_B)
        passes_gradient = torch.is_grad_enabled() and latents_BND.requires_grad
        return VectorQuantizerOutput(
            # The straight-through sum z + (e - z) rounds; where no gradient is needed the code vector is exact.
            quantized_latents=latents_BND + (nearest_BND - latents_BND).detach() if passes_gradient else nearest_BND,
            codes=codes_BN,
            code_margin=best_two[..., 1] - best_two[..., 0],
            codebook_loss=(nearest_BND - latents_BND.detach()).square().mean((1, 2)),
            commitment_loss=(latents_BND - nearest_BND.detach()).square().mean((1, 2)),
        )

    def squared_distances(self, latents_BND: Tensor) -> Tensor:
        """Squared distances |z - e_k|^2 to every code, (B, N, K), in float32 also under autocast.

        In 16 bits the distances to close codes would be equal.
        """
        with torch.autocast(latents_BND.device.type, enabled=False):
            z_BND, codebook_KD = latents_BND.float(), self.codebook.weight.float()
            # Expanded square: no tensor of shape (B, N, K, D) is built.
            if self.positions == 1:
                squares_BNK = z_BND.square().sum(-1, keepdim=True) + codebook_KD.square().sum(-1)
                return squares_BNK - 2 * z_BND @ codebook_KD.T
            codebook_NKD = codebook_KD.unflatten(0, (self.positions, self.size))
            squares_BNK = z_BND.square().sum(-1, keepdim=True) + codebook_NKD.square().sum(-1)
            return squares_BNK - 2 * torch.einsum("bnd,nkd->bnk", z_BND, codebook_NKD)

    def lookup(self, codes_BN: Tensor) -> Tensor:
        """Code vectors (B, N, D) of integer codes. Raises ValueError for a code outside [0, K)."""
        size = self.size
        if codes_BN.is_floating_point():
            raise ValueError(f"codes are {codes_BN.dtype}: takes integers, 0 to {size - 1}. Latents go to quantize.")
        if codes_BN.numel() and (codes_BN.min() < 0 or codes_BN.max() >= size):
            raise ValueError(
                f"codes run from {int(codes_BN.min())} to {int(codes_BN.max())}, this codebook has 0 to {size - 1}. "
                "-1 marks an invalid pair: drop those first."
            )
        return self.codebook(self._rows(codes_BN.long()))

    @torch.no_grad()
    def start_codebook(self, latents_BND: Tensor, iterations: int = 10, seed: int = 0) -> None:
        """K-means initialization on latents (B, N, D), pooled over the positions of a codebook; resets the counters."""
        # Drawn on the CPU, so that every device gets the same draws.
        generator = torch.Generator().manual_seed(seed)
        centers = [k_means(points_MD, self.size, iterations, generator) for points_MD in self._points(latents_BND)]
        self.codebook.weight.copy_(torch.cat(centers))
        self.code_usage.zero_()

    @torch.no_grad()
    def revive_dead_codes(self, latents_BND: Tensor, seed: int = 0, share: float = 0.0) -> int:
        """Reset of dead codes: move each onto a random latent; returns the number of codes moved.

        A code is dead if its count since the last call is at most `share` of uniform use (0: it was never used).
        """
        usage_PK = self.code_usage.view(self.positions, self.size)
        dead_PK = usage_PK <= share * usage_PK.float().mean(1, keepdim=True)
        self.code_usage.zero_()
        generator = torch.Generator().manual_seed(seed)
        codebook_PKD = self.codebook.weight.view(self.positions, self.size, -1)
        for codebook_KD, dead_K, points_MD in zip(codebook_PKD, dead_PK, self._points(latents_BND), strict=True):
            count = int(dead_K.sum())
            if count:
                # With replacement: there may be fewer latents than unused codes.
                picks = torch.randint(points_MD.shape[0], (count,), generator=generator).to(points_MD.device)
                codebook_KD[dead_K] = points_MD[picks].to(codebook_KD.dtype)
        return int(dead_PK.sum())

    def _rows(self, codes_BN: Tensor) -> Tensor:
        """Rows of the codes' vectors in `codebook`."""
        if self.positions == 1:
            return codes_BN
        return codes_BN + self.size * torch.arange(self.positions, device=codes_BN.device)

    def _points(self, latents_BND: Tensor) -> list[Tensor]:
        """The latents (M, D) of each codebook."""
        latents_BND = latents_BND.float()
        return [latents_BND.flatten(0, 1)] if self.positions == 1 else list(latents_BND.unbind(1))

    @torch.no_grad()
    def _count(self, codes_BN: Tensor) -> None:
        flat_M = self._rows(codes_BN).flatten()
        self.code_usage.scatter_add_(0, flat_M, torch.ones_like(flat_M))


def k_means(points_MD: Tensor, count: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm from `count` random points: centers (K, D). Raises ValueError for fewer points than centers."""
    if points_MD.shape[0] < count:
        raise ValueError(f"k-means for {count} codes needs at least as many latents, got {points_MD.shape[0]}.")
    picks_K = torch.randperm(points_MD.shape[0], generator=generator)[:count].to(points_MD.device)
    centers_KD = points_MD[picks_K]
    for _ in range(iterations):
        nearest_M = torch.cdist(points_MD, centers_KD).argmin(-1)
        sums_KD = torch.zeros_like(centers_KD).index_add_(0, nearest_M, points_MD)
        counts_K = torch.bincount(nearest_M, minlength=count).unsqueeze(-1)
        # An empty cluster keeps its center.
        centers_KD = torch.where(counts_K > 0, sums_KD / counts_K.clamp(min=1), centers_KD)
    return centers_KD


def perplexity(codes_BN: Tensor, codebook_size: int) -> Tensor:
    """Perplexity, exp(entropy), of the codes pooled over batch and positions: 1 (one code) to K (uniform use)."""
    flat_M = codes_BN.flatten()
    counts_K = torch.zeros(codebook_size, device=codes_BN.device).scatter_add_(
        0, flat_M, torch.ones_like(flat_M, dtype=torch.float32)
    )
    share_K = counts_K / counts_K.sum().clamp(min=1)
    return torch.exp(-torch.xlogy(share_K, share_K).sum())
