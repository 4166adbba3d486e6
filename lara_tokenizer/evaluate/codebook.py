"""Is the codebook alive: which codes are used, how evenly, and does every latent token say something?"""

from __future__ import annotations

from typing import Any

import torch

from lara_tokenizer import metrics
from lara_tokenizer.evaluate.bootstrap import rounded

# exp(entropy) below this: one code stands for seven pairs in eight, or more.
DEAD_POSITION = 1.5


def codebook_report(codes_PN: torch.Tensor, codebook_size: int) -> dict[str, Any]:
    """Counts (N, K), and pooled and per position: perplexity exp(-sum_k p_k log p_k) and codes that never occur.

    `possible` is the highest pooled perplexity that so many codes could have, min(K, P N); `dead_positions` are latent
    tokens whose perplexity is below 1.5.
    """
    counts_NK = torch.stack([metrics.code_counts(column, codebook_size) for column in codes_PN.unbind(-1)])
    per_position_N = metrics.perplexity_per_position(codes_PN, codebook_size)
    dead = int(metrics.dead_codes(codes_PN, codebook_size))
    return {
        "counts": counts_NK.tolist(),
        "perplexity": rounded(float(metrics.perplexity(codes_PN, codebook_size))),
        "perplexity_per_position": [rounded(float(value)) for value in per_position_N],
        "dead_codes": dead,
        "dead_codes_per_position": (counts_NK == 0).sum(1).tolist(),
        "dead_positions": int((per_position_N < DEAD_POSITION).sum()),
        "used_share": rounded(1 - dead / codebook_size),
        "size": codebook_size,
        "possible": min(codebook_size, codes_PN.numel()),
    }
