"""Noise substitution in vector quantization (Vali and Baeckstroem, IEEE Access 2022), as LAPA's tokenizer uses it.

Shape suffixes: B batch, N latent tokens, D numbers of a token, K codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lara_tokenizer.model.bottleneck_vq import k_means

USED_SHARE = 0.1  # of the batches since the last replacement: a code of fewer batches is unused


class NoiseSubstitutionQuantizer(nn.Module):
    """Quantizer that adds noise as long as z's distance to the nearest code in training, and takes that code after it.

    The length has a gradient to z and to the code, so neither a codebook loss nor straight-through is needed.

    >>> quantizer = NoiseSubstitutionQuantizer(codebook_size=128, codebook_dim=32).eval()
    >>> quantized, codes = quantizer(torch.randn(4, 8, 32))
    >>> torch.equal(quantized, quantizer.codebook[codes])
    True
    """

    batches_used: Tensor
    batches: Tensor

    def __init__(self, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(codebook_size, codebook_dim))
        self.register_buffer("batches_used", torch.zeros(codebook_size, dtype=torch.long))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        self.continuous = False  # z passes without noise and without codes: the warm-up of `CodebookSchedule`

    def forward(self, latents_BND: Tensor) -> tuple[Tensor, Tensor]:
        """z -> the decoder's input (B, N, D), and the nearest codes (B, N)."""
        codes_BN = self._nearest(latents_BND)
        if self.continuous:
            return latents_BND, codes_BN
        nearest_BND = self.codebook[codes_BN]
        if not self.training:
            return nearest_BND, codes_BN
        with torch.no_grad():
            self.batches_used[codes_BN.unique()] += 1
            self.batches += 1
        noise_BND = torch.randn_like(latents_BND)
        # Norms whose gradient at 0 is 0: a latent on its code gets no NaN.
        error_BN1 = torch.linalg.vector_norm(latents_BND - nearest_BND, dim=-1, keepdim=True)
        length_BN1 = torch.linalg.vector_norm(noise_BND, dim=-1, keepdim=True)
        return latents_BND + error_BN1 / length_BN1 * noise_BND, codes_BN

    @torch.no_grad()
    def replace_unused(self) -> int:
        """Replace every unused code by a copy of a used one, spread evenly, and reset the counts; returns their number.

        Nothing is replaced where no code counts as used. Copy and original separate as soon as gradients move the one
        that is chosen.
        """
        used_K = self.batches_used >= USED_SHARE * self.batches
        used_K &= self.batches_used > 0  # or all would count as used before the first batch
        self.batches_used.zero_()
        self.batches.zero_()
        used, unused = used_K.nonzero().flatten(), (~used_K).nonzero().flatten()
        if not len(used) or not len(unused):
            return 0
        # Each used code is copied once before any is copied again.
        rounds = -(-len(unused) // len(used))
        picks = torch.cat([used[torch.randperm(len(used), device=used.device)] for _ in range(rounds)])
        self.codebook[unused] = self.codebook[picks[: len(unused)]]
        return len(unused)

    # What `CodebookSchedule` calls, in place of the rule above.

    @torch.no_grad()
    def start_codebook(self, latents_BND: Tensor, iterations: int = 10, seed: int = 0) -> None:
        """Start the codebook at the centres of k-means on latents (B, N, D)."""
        points_MD, generator = latents_BND.float().flatten(0, 1), torch.Generator().manual_seed(seed)
        self.codebook.copy_(k_means(points_MD, len(self.codebook), iterations, generator))
        self.batches_used.zero_()
        self.batches.zero_()

    @torch.no_grad()
    def revive_dead_codes(self, latents_BND: Tensor, seed: int = 0, share: float = 0.0) -> int:
        """Move each dead code onto a random latent; returns their number.

        A code is dead if it was used in at most `share` of the batches in which the codes were used on average.
        """
        dead_K = self.batches_used <= share * self.batches_used.float().mean()
        self.batches_used.zero_()
        self.batches.zero_()
        points_MD, count = latents_BND.float().flatten(0, 1), int(dead_K.sum())
        picks = torch.randint(len(points_MD), (count,), generator=torch.Generator().manual_seed(seed))
        self.codebook[dead_K] = points_MD[picks]
        return count

    @torch.no_grad()
    def _nearest(self, latents_BND: Tensor) -> Tensor:
        squares_BNK = latents_BND.square().sum(-1, keepdim=True) + self.codebook.square().sum(-1)
        return (squares_BNK - 2 * latents_BND @ self.codebook.T).argmin(-1)
