"""How good are the decoded frames as pictures: PSNR and SSIM, beside frame t and beside another pair's codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lara_tokenizer import metrics
from lara_tokenizer.evaluate.bootstrap import rounded
from lara_tokenizer.evaluate.encoding import batches, decode_frames
from lara_tokenizer.evaluate.pairs import EncodedSet, PairSet

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor


def image_quality(
    model: Any, processor: LatentActionProcessor, pairs: PairSet, encoded: EncodedSet, seed: int = 0
) -> dict[str, float | None]:
    """Means over pairs of PSNR (dB) and SSIM, own codes; what they are above frame t and above another pair's codes.

    `ssim_gain` = (SSIM - SSIM of frame t) / (1 - SSIM of frame t); `delta_psnr` = PSNR - PSNR with another pair's
    codes (Genie's controllability). SSIM needs frames of at least 11 pixels a side.
    """
    order = metrics.derangement(len(pairs), torch.Generator().manual_seed(seed))
    shuffled = encoded.quantized_latents[order]
    rows_psnr, rows_ssim = [], []
    for rows in batches(len(pairs)):
        now, future = (torch.from_numpy(pairs.frames[side[rows]]) for side in (pairs.now, pairs.future))
        decoded = [
            decode_frames(model, processor, now, latents[rows]).cpu().clamp(0, 1)
            for latents in (encoded.quantized_latents, shuffled)
        ]
        target = future.float() / 255
        shown = [*decoded, now.float() / 255]
        rows_psnr.append(torch.stack([metrics.psnr(each, target) for each in shown]))
        rows_ssim.append(torch.stack([metrics.ssim(each, target) for each in shown]))
    psnr, shuffled_psnr, copy_psnr = torch.cat(rows_psnr, 1).mean(1).tolist()
    ssim, _, copy_ssim = torch.cat(rows_ssim, 1).mean(1).tolist()
    return {
        "psnr": rounded(psnr),
        "psnr_of_copying": rounded(copy_psnr),
        "delta_psnr": rounded(psnr - shuffled_psnr),
        "ssim": rounded(ssim),
        "ssim_of_copying": rounded(copy_ssim),
        "ssim_gain": rounded((ssim - copy_ssim) / max(1 - copy_ssim, 1e-6)),
    }
