"""Three frames a, b, c, equally far apart: does z add up, turn with time, and say more than its frame b?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lara_tokenizer.evaluate.bootstrap import rounded
from lara_tokenizer.evaluate.equivariance import latents_between, rms
from lara_tokenizer.evaluate.pairs import PairSet

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

LEAST_CHAINS = 10


def chains_of(pairs: PairSet, most: int) -> np.ndarray:
    """int (T, 3): rows of frames a, b, c where (a, b) and (b, c) are pairs; at most so many, evenly spread."""
    after = dict(zip(pairs.now.tolist(), pairs.future.tolist(), strict=True))
    found = [(a, b, after[b]) for a, b in after.items() if b in after]
    chains = np.array(found, int).reshape(-1, 3)
    return chains[np.unique(np.linspace(0, len(chains) - 1, min(most, len(chains))).round().astype(int))]


def chain_report(model: Any, processor: LatentActionProcessor, pairs: PairSet, most: int) -> dict[str, Any]:
    """Of chains of two pairs of the set; every figure is None where there are fewer than ten.

    `past_future_cosine`: cos(z(a, b), z(c, b)), S-PCFC of CoMo; near 1 where z is about frame b, not about the motion.
    `past_future_cosine_centred`: the same less the mean z. `composition`: |z(a, c) - z(a, b) - z(b, c)| / |z(a, c)|.
    `inverse`: |z(a, b) + z(b, a)| / |z(a, b)|; both are root mean squares of z less z of no change, and 0 is best.
    """
    names = ("past_future_cosine", "past_future_cosine_centred", "composition", "inverse")
    chains = chains_of(pairs, most)
    if len(chains) < LEAST_CHAINS:
        return {"chains": len(chains), **dict.fromkeys(names)}
    a, b, c = (pairs.frames[rows] for rows in chains.T)

    def z(first: np.ndarray, second: np.ndarray) -> torch.Tensor:
        return latents_between(model, processor, first, second).flatten(1)

    there, back = z(a, b), z(c, b)
    still = z(b, b).mean(0)
    onward, whole, reverse = z(b, c) - still, z(a, c) - still, z(b, a) - still
    mean = (there + back).mean(0) / 2
    found = [
        _cosine(there, back),
        _cosine(there - mean, back - mean),
        rms(whole - (there - still) - onward) / max(rms(whole), 1e-12),
        rms(there - still + reverse) / max(rms(there - still), 1e-12),
    ]
    return {"chains": len(chains), **dict(zip(names, map(rounded, found), strict=True))}


def _cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(first, second, dim=1).mean())
