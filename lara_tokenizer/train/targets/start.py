"""Initial weights with which z is the principal components of the targets from the first step on that they are met.

z is a linear function of the motion map, and the motion map is regressed onto the targets. So z starts as the best
linear summary of the targets in closed form, and is trained from there.

Shape suffixes: B pairs, M channels of the motion map, G cells per side, Q = M * G * G, K = N * D numbers of z.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lara_tokenizer.model import LatentActionModel
from lara_tokenizer.model.matching import MatchingInverseModel

START_PAIRS = 4096  # of the training pairs


@torch.no_grad()
def initialize_latents(model: LatentActionModel, targets_BMGG: Tensor) -> None:
    """Set the weights from the motion map to z, and let the motion map start at 0, the mean of the targets.

    z gets the N * D principal directions of the targets and of their negatives, which are the targets of the reversed
    pairs. They are dealt to the N latents by variance, there and back, so that each has the same share. One scale gives
    z a mean square of 1.

    Raises ValueError if the motion map has fewer numbers than z.
    """
    inverse = model.inverse_dynamics
    assert isinstance(inverse, MatchingInverseModel)
    latents, dim = inverse.latent_shape
    maps_BQ = targets_BMGG.flatten(1)
    if maps_BQ.shape[1] < latents * dim:
        raise ValueError(
            f"target_weight: {latents} x {dim} numbers of z cannot be told apart by the {maps_BQ.shape[1]} of the "
            "motion map. Reduce num_latents or codebook_dim, or enlarge image_size."
        )
    # With both signs the mean is 0, and the second moment is that of one of them.
    variances_Q, directions_QQ = torch.linalg.eigh(maps_BQ.T @ maps_BQ / len(maps_BQ))
    largest_K = variances_Q.flip(0)[: latents * dim].clamp(min=0)
    directions_QK = directions_QQ.flip(1)[:, : latents * dim]
    scale = largest_K.mean().clamp(min=1e-12).rsqrt()
    inverse.to_latents.weight.copy_(scale * directions_QK[:, deal(latents, dim)].T)
    inverse.to_latents.bias.zero_()
    inverse.to_motion.weight.zero_()
    inverse.to_motion.bias.zero_()


def deal(latents: int, dim: int) -> Tensor:
    """For each number of z (N * D,), the rank of its direction: rank 0 to N - 1 to latents 0 to N - 1, then back.

    >>> deal(3, 2).view(3, 2).tolist()
    [[0, 5], [1, 4], [2, 3]]
    """
    ranks_DN = torch.arange(latents * dim).view(dim, latents)
    ranks_DN[1::2] = ranks_DN[1::2].flip(1)
    return ranks_DN.T.flatten()
