"""Initial weights from the motion map to z: the principal components of the motion that the model can tell.

z is a linear function of the motion map, and the motion map is regressed onto the targets. Before the first step z is
set to the principal components of the targets themselves; when the codebook starts, to those of the motion maps of the
half-trained model. What no pair of frames can tell of the targets, and of the features that is most, is then no longer
among the directions of z.

The first `CODED` numbers of each latent are the directions of largest variance. The others are scaled down, so that
the codes, which are nearest in squared distance, are spent on the former, and z still holds the latter.

Shape suffixes: B pairs, M channels of the motion map, G cells per side, Q = M * G * G, K = N * D numbers of z.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lara_tokenizer.model import LatentActionModel
from lara_tokenizer.model.matching import MatchingInverseModel
from lara_tokenizer.train.targets.motion_targets import FEATURES, FLOW, NORMAL_FLOW

START_PAIRS = 4096  # of the training pairs
CODED = 8  # numbers of a latent that its codes are made for; more, and 128 codes a latent are spread too thin
UNCODED_SCALE = 0.25
# Weight of each group's channels in the variance that ranks the directions; the features are five times as many
# channels as the flows together, and codes spent on them are lost to motion.
WEIGHTS = {FLOW: 1.0, NORMAL_FLOW: 0.7, FEATURES: 0.7}


@torch.no_grad()
def initialize_motion(model: LatentActionModel) -> None:
    """Let the motion map start at 0, the mean of the targets."""
    inverse = _matching(model)
    nn.init.zeros_(inverse.to_motion.weight)
    nn.init.zeros_(inverse.to_motion.bias)  # type: ignore[arg-type]


@torch.no_grad()
def initialize_latents(model: LatentActionModel, maps_BMGG: Tensor, groups: dict[str, slice]) -> None:
    """Set the weights from the motion map to z by motion maps, or targets, of some pairs.

    z gets the N * D principal directions of the maps and of their negatives, which are those of the reversed pairs.
    They are dealt to the N latents by variance, there and back, so that each has the same share. One scale gives z a
    mean square of 1. A decoder that reads z as a motion map gets the inverse.

    Args:
        model: with a matching inverse model.
        maps_BMGG: in any number.
        groups: the channels of each teacher, `MotionTargets.groups`.

    Raises:
        ValueError: the motion map has fewer numbers than z.
    """
    inverse = _matching(model)
    latents, dim = inverse.latent_shape
    weight_M11 = torch.ones(maps_BMGG.shape[1], 1, 1)
    for name, channels in groups.items():
        weight_M11[channels] = WEIGHTS[name]
    maps_BQ = (maps_BMGG.float().cpu() * weight_M11).flatten(1)
    if maps_BQ.shape[1] < latents * dim:
        raise ValueError(
            f"target_weight: {latents} x {dim} numbers of z cannot be told apart by the {maps_BQ.shape[1]} of the "
            "motion map. Reduce num_latents or codebook_dim, or enlarge image_size."
        )
    # With both signs the mean is 0, and the second moment is that of one of them.
    variances_Q, directions_QQ = torch.linalg.eigh(maps_BQ.T @ maps_BQ / len(maps_BQ))
    ranks_K = deal(latents, dim)
    scale_K = torch.where(ranks_K < CODED * latents, 1.0, UNCODED_SCALE)
    variance_K = variances_Q.flip(0)[ranks_K].clamp(min=0) * scale_K.square()
    scale_K = scale_K * variance_K.mean().clamp(min=1e-12).rsqrt()
    directions_QK = directions_QQ.flip(1)[:, ranks_K] * weight_M11.expand_as(maps_BMGG[0]).reshape(-1, 1)
    inverse.to_latents.weight.copy_((directions_QK * scale_K).T)
    inverse.to_latents.bias.zero_()
    decoder = model.forward_dynamics.decoder
    if decoder.motion_channels:
        # The decoder reads z as a motion map, which a new z must not change: directions are orthogonal but for the
        # weights of their channels.
        decoder.to_motion.weight.copy_(torch.linalg.pinv(inverse.to_latents.weight.float()))
        decoder.to_motion.bias.zero_()


def _matching(model: LatentActionModel) -> MatchingInverseModel:
    assert isinstance(model.inverse_dynamics, MatchingInverseModel)
    return model.inverse_dynamics


def deal(latents: int, dim: int) -> Tensor:
    """For each number of z (N * D,), the rank of its direction: rank 0 to N - 1 to latents 0 to N - 1, then back.

    >>> deal(3, 2).view(3, 2).tolist()
    [[0, 5], [1, 4], [2, 3]]
    """
    ranks_DN = torch.arange(latents * dim).view(dim, latents)
    ranks_DN[1::2] = ranks_DN[1::2].flip(1)
    return ranks_DN.T.flatten()
