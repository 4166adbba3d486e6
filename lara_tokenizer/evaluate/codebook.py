"""Statistics of codes and latents: use of the codebook, collapse of z, information of codes about actions.

Shape suffixes: P pairs, N positions, D width of a latent token, A action dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lara_tokenizer import metrics
from lara_tokenizer.evaluate.figures import DIGITS, CodebookFigures, LatentFigures, rounded
from lara_tokenizer.thresholds import DEAD_POSITION_SHARE
from lara_tokenizer.verdict.findings import CodeFigures

BINS = 8  # of equal probability, for each action dimension


def codebook_figures(
    codes_PN: torch.Tensor, codebook_size: int, is_moving_P: np.ndarray | None = None
) -> CodebookFigures:
    """Counts, perplexities exp(-sum_k p_k log p_k) and unused codes, pooled and per position.

    Args:
        codes_PN, codebook_size: of all pairs.
        is_moving_P: pairs that are not idle; None: all.
    """
    counts_NK = _counts(codes_PN, codebook_size)
    moving_PN = codes_PN if is_moving_P is None else codes_PN[torch.from_numpy(is_moving_P)]
    per_position_N = metrics.perplexity_per_position(codes_PN, codebook_size)
    dead = int(metrics.dead_codes(codes_PN, codebook_size))
    return CodebookFigures(
        counts=counts_NK.tolist(),
        perplexity=round(float(metrics.perplexity(codes_PN, codebook_size)), DIGITS),
        perplexity_per_position=[round(float(value), DIGITS) for value in per_position_N],
        dead_codes=dead,
        dead_codes_per_position=(counts_NK == 0).sum(1).tolist(),
        dead_positions=int((counts_NK.max(1).values >= DEAD_POSITION_SHARE * len(codes_PN)).sum()),
        used_share=round(1 - dead / codebook_size, DIGITS),
        size=codebook_size,
        possible=min(codebook_size, codes_PN.numel()),
        moving_pairs=len(moving_PN),
        moving=_code_figures(moving_PN, codebook_size) if len(moving_PN) else None,
    )


def _counts(codes_PN: torch.Tensor, codebook_size: int) -> torch.Tensor:
    """Occurrences of each code at each position: (N, K)."""
    return torch.stack([metrics.code_counts(column, codebook_size) for column in codes_PN.unbind(-1)])


def _code_figures(codes_PN: torch.Tensor, codebook_size: int) -> CodeFigures:
    tuples, counts = np.unique(codes_PN.numpy(), axis=0, return_counts=True)
    most = int(counts.argmax())
    share = float(counts[most] / len(codes_PN))
    return CodeFigures.of(_counts(codes_PN, codebook_size).numpy(), tuples[most].tolist(), share)


def latent_figures(latents_PND: torch.Tensor, random_init_latents_PND: torch.Tensor) -> LatentFigures:
    """Collapse measures of z, and the spread of z of a random-init model."""
    return LatentFigures(
        spread=round(float(metrics.spread(latents_PND)), DIGITS),
        effective_rank=rounded(float(metrics.effective_rank(latents_PND))),
        mean_cosine=rounded(float(metrics.mean_cosine(latents_PND))),
        norm=rounded(float(latents_PND.flatten(1).norm(dim=1).mean())),
        random_init_spread=round(float(metrics.spread(random_init_latents_PND)), DIGITS),
    )


def code_action_information(codes_PN: np.ndarray, actions_PA: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Mutual information in bits between a code and a binned action dimension, averaged over the dimensions.

    Returns `bits_per_position` and their mean `bits`; `of`, the mean entropy of the binned action dimensions, which is
    the upper bound; and `shuffled`, the same with pairs permuted, which is the bias that the correction leaves.
    """
    actions = [binned(column) for column in actions_PA.T if column.std() > 0]
    order = np.random.default_rng(seed).permutation(len(codes_PN))
    bits, shuffled = (
        [float(np.mean([mutual_information(column, action) for action in actions])) for column in codes.T]
        for codes in (codes_PN, codes_PN[order])
    )
    return {
        "bits": rounded(float(np.mean(bits))),
        "bits_per_position": [rounded(value) for value in bits],
        "shuffled": rounded(float(np.mean(shuffled))),
        "of": rounded(float(np.mean([entropy(action) for action in actions]))),
    }


def mutual_information(first_P: np.ndarray, second_P: np.ndarray) -> float:
    """I(a, b) = H(a) + H(b) - H(a, b) in bits, of discrete values.

    >>> round(mutual_information(np.array([0, 1] * 500), np.array([0, 1] * 500)), 2)
    1.0
    """
    _, joint = np.unique(np.stack([first_P, second_P]), axis=1, return_inverse=True)
    return entropy(first_P) + entropy(second_P) - entropy(joint.ravel())


def entropy(values_P: np.ndarray) -> float:
    """Entropy of discrete values in bits, with the correction of Miller and Madow: + (occupied cells - 1) / 2P nats."""
    counts = np.unique(values_P, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum() + (len(counts) - 1) / (2 * counts.sum() * np.log(2)))


def binned(actions_P: np.ndarray) -> np.ndarray:
    """The quantile bin of each value; frequent values may fill several bins and then share one."""
    edges = np.unique(np.quantile(actions_P, np.linspace(0, 1, BINS + 1)[1:-1]))
    return np.searchsorted(edges, actions_P, side="right")
