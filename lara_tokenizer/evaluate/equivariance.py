"""How z responds to what is no action: nothing at all, a shift of the camera, a nuisance over both frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lara_tokenizer.evaluate.bootstrap import rounded
from lara_tokenizer.evaluate.encoding import encode_pairs
from lara_tokenizer.evaluate.pairs import EncodedSet, PairSet

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

SHIFT = 3  # pixels of the model's frames


def response_report(
    model: Any, processor: LatentActionProcessor, pairs: PairSet, latents_PND: torch.Tensor
) -> dict[str, float | None]:
    """Root mean square of z relative to that of true pairs: of a frame with itself, and with itself moved by 3 px.

    0 is best: z(o, o) and z(o, moved o) hold no action. A z that is not centred has a norm of its own; see
    `zero_transition_centred`, which is |z(o, o) - mean z| relative to |z - mean z|.
    """
    frames = pairs.frames[pairs.now]
    moved = {
        "zero_transition": frames,
        "shift_horizontal": shifted(frames, SHIFT, axis=3),
        "shift_vertical": shifted(frames, SHIFT, axis=2),
    }
    found = {name: latents_between(model, processor, frames, future) for name, future in moved.items()}
    reference = rms(latents_PND)
    mean = latents_PND.mean(0)
    report = {name: rounded(rms(latents) / max(reference, 1e-12)) for name, latents in found.items()}
    centred = rms(found["zero_transition"] - mean) / max(rms(latents_PND - mean), 1e-12)
    return report | {"zero_transition_centred": rounded(centred)}


def invariance_report(plain: EncodedSet, under_nuisance: EncodedSet) -> dict[str, float | None]:
    """The same pairs with and without a nuisance: how many codes change, and how far z moves.

    `flip_rate` = P[c != c'] over all codes; `nuisance_to_signal` = E |z' - z|^2 / tr Var z: 0 where z does not notice,
    2 where z' is of another pair.
    """
    z, other = plain.latents.flatten(1).double(), under_nuisance.latents.flatten(1).double()
    variance = float(z.var(0, correction=0).sum())
    flips = None
    if plain.codes is not None and under_nuisance.codes is not None:
        flips = rounded(float((plain.codes != under_nuisance.codes).double().mean()))
    ratio = float((other - z).square().sum(1).mean()) / max(variance, 1e-12)
    return {"flip_rate": flips, "nuisance_to_signal": rounded(ratio)}


def shifted(frames: np.ndarray, pixels: int, axis: int) -> np.ndarray:
    """Frames (B, 3, S, S) moved along an axis; the edge is repeated where nothing is known."""
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
    """sqrt(E |z|^2), z flattened."""
    return float(latents_PND.flatten(1).double().square().sum(1).mean().sqrt())
