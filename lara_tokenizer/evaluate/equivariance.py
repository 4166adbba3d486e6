"""Equivariance of z: its response to no change, shifts and nuisances, and its algebra over three frames in a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lara_tokenizer.evaluate.dataset import PairSet, evenly_spaced
from lara_tokenizer.evaluate.encoding import EncodedSet, encode_pairs
from lara_tokenizer.evaluate.figures import rounded

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

SHIFT = 3  # pixels of the model's frames
MIN_CHAINS = 10


def shift_responses(
    model: Any, processor: LatentActionProcessor, pairs: PairSet, latents_PND: torch.Tensor
) -> dict[str, float | None]:
    """Root mean square of z between a frame and itself, and itself shifted by 3 px, relative to z of true pairs.

    0 is best: neither contains an action. A z that is not centered has a norm of its own, hence
    `zero_transition_centred` = |z(o, o) - mean z| / |z - mean z|.
    """
    frames = pairs.frames[pairs.now]
    shifted = {
        "zero_transition": frames,
        "shift_horizontal": shift(frames, SHIFT, axis=3),
        "shift_vertical": shift(frames, SHIFT, axis=2),
    }
    responses = {name: latents_between(model, processor, frames, future) for name, future in shifted.items()}
    reference = rms(latents_PND)
    mean = latents_PND.mean(0)
    ratios = {name: rounded(rms(latents) / max(reference, 1e-12)) for name, latents in responses.items()}
    centered = rms(responses["zero_transition"] - mean) / max(rms(latents_PND - mean), 1e-12)
    return ratios | {"zero_transition_centred": rounded(centered)}


def nuisance_invariance(plain: EncodedSet, under_nuisance: EncodedSet) -> dict[str, float | None]:
    """Change of codes and of z between the same pairs with and without a nuisance.

    `flip_rate` = P[c != c'] over all codes; `nuisance_to_signal` = E |z' - z|^2 / tr Var z: 0 where z ignores the
    nuisance, 2 where z' is as far away as that of another pair.
    """
    z, other = plain.latents.flatten(1).double(), under_nuisance.latents.flatten(1).double()
    variance = float(z.var(0, correction=0).sum())
    flips = None
    if plain.codes is not None and under_nuisance.codes is not None:
        flips = rounded(float((plain.codes != under_nuisance.codes).double().mean()))
    ratio = float((other - z).square().sum(1).mean()) / max(variance, 1e-12)
    return {"flip_rate": flips, "nuisance_to_signal": rounded(ratio)}


def chains_of(pairs: PairSet, most: int) -> np.ndarray:
    """Rows of frames a, b, c where (a, b) and (b, c) are pairs: int (T, 3), at most `most`, evenly spaced."""
    after = dict(zip(pairs.now.tolist(), pairs.future.tolist(), strict=True))
    chains = np.array([(a, b, after[b]) for a, b in after.items() if b in after], int).reshape(-1, 3)
    return chains[evenly_spaced(len(chains), most)]


def composition(model: Any, processor: LatentActionProcessor, pairs: PairSet, most: int) -> dict[str, Any]:
    """Relations between the z of three frames a, b, c, equally far apart; None for fewer than ten such chains.

    `past_future_cosine`: cos(z(a, b), z(c, b)), S-PCFC of CoMo; near 1 where z describes frame b, not the motion.
    `past_future_cosine_centred`: the same less the mean z. `composition`: |z(a, c) - z(a, b) - z(b, c)| / |z(a, c)|.
    `inverse`: |z(a, b) + z(b, a)| / |z(a, b)|; both are root mean squares of z less z of no change, and 0 is best.
    """
    names = ("past_future_cosine", "past_future_cosine_centred", "composition", "inverse")
    chains = chains_of(pairs, most)
    if len(chains) < MIN_CHAINS:
        return {"chains": len(chains), **dict.fromkeys(names)}
    a, b, c = (pairs.frames[rows] for rows in chains.T)

    def z(first: np.ndarray, second: np.ndarray) -> torch.Tensor:
        return latents_between(model, processor, first, second).flatten(1)

    forward, backward = z(a, b), z(c, b)
    still = z(b, b).mean(0)
    second, both, inverse = z(b, c) - still, z(a, c) - still, z(b, a) - still
    mean = (forward + backward).mean(0) / 2
    values = [
        _mean_cosine(forward, backward),
        _mean_cosine(forward - mean, backward - mean),
        rms(both - (forward - still) - second) / max(rms(both), 1e-12),
        rms(forward - still + inverse) / max(rms(forward - still), 1e-12),
    ]
    return {"chains": len(chains), **dict(zip(names, map(rounded, values), strict=True))}


def shift(frames: np.ndarray, pixels: int, axis: int) -> np.ndarray:
    """Frames (B, 3, S, S) shifted along an axis; the edge is repeated."""
    rows = np.arange(frames.shape[axis]) - pixels
    return np.take(frames, rows.clip(0), axis=axis)


def latents_between(
    model: Any, processor: LatentActionProcessor, frames: np.ndarray, future_frames: np.ndarray
) -> torch.Tensor:
    """z (B, N, D) of pairs given as uint8 frames (B, 3, S, S) each."""
    count = len(frames)
    rows = np.arange(count)
    both = PairSet(np.concatenate([frames, future_frames]), rows, rows + count, None, rows)
    return encode_pairs(model, processor, both).latents


def rms(latents_PND: torch.Tensor) -> float:
    """Root mean square of the norm of flattened z, sqrt(E |z|^2)."""
    return float(latents_PND.flatten(1).double().square().sum(1).mean().sqrt())


def _mean_cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(first, second, dim=1).mean())
