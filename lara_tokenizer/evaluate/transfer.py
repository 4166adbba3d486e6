"""Is z an action, or the next frame in disguise? It is read from one pair and carried out in another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lara_tokenizer import metrics
from lara_tokenizer.evaluate.bootstrap import rounded
from lara_tokenizer.evaluate.encoding import batches, decode_frames, encode_frames
from lara_tokenizer.evaluate.pairs import EncodedSet, PairSet

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor


@torch.no_grad()
def transfer_report(
    model: Any, processor: LatentActionProcessor, pairs: PairSet, encoded: EncodedSet, seed: int = 0
) -> dict[str, float | None]:
    """Two ratios of squared errors (arXiv 2601.05230), over pairs A = (a, a') and other pairs B = (b, b').

    `cut_test` = |D(a, z(a, b')) - b'|^2 / |D(a, z(a, a')) - a'|^2: about 1 where z carries the next frame itself, for
    then a jump into another video is decoded as well as a motion. `cycle_transfer` = |D(a, z(b, D(b, z))) - a'|^2 /
    |D(a, z) - a'|^2 with z = z(a, a'): down to 1 where z means the same in B as in A.
    """
    order = metrics.derangement(len(pairs), torch.Generator().manual_seed(seed)).numpy()
    errors = torch.zeros(3, dtype=torch.float64)
    for rows in batches(len(pairs)):
        a, a_future = (torch.from_numpy(pairs.frames[side[rows]]) for side in (pairs.now, pairs.future))
        b, b_future = (torch.from_numpy(pairs.frames[side[order[rows]]]) for side in (pairs.now, pairs.future))
        own = encoded.quantized_latents[rows]
        carried_out = decode_frames(model, processor, b, own).clamp(0, 1)
        read_again = _quantized(model, processor, b, (carried_out * 255).round().byte().cpu())
        cut = _quantized(model, processor, a, b_future)
        shown = ((own, a_future), (cut, b_future), (read_again, a_future))
        for number, (latents, target) in enumerate(shown):
            prediction = decode_frames(model, processor, a, latents).cpu()
            errors[number] += (prediction - target.float() / 255).square().sum().double()
    normal, cut_error, cycle_error = errors.clamp(min=1e-12).tolist()
    return {"cut_test": rounded(cut_error / normal), "cycle_transfer": rounded(cycle_error / normal)}


def _quantized(model: Any, processor: LatentActionProcessor, now: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
    return encode_frames(model, processor, now, future).quantized_latents
