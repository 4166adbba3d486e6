"""Use of z by the decoder: errors with a pair's own codes and with others', image quality, transfer between videos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lara_tokenizer import metrics
from lara_tokenizer.evaluate.dataset import PairSet, evenly_spaced
from lara_tokenizer.evaluate.encoding import EncodedSet, batches, decode_frames, encode_frames, encode_pairs
from lara_tokenizer.evaluate.figures import DecoderFigures, estimate, resamples, rounded, sums_by_episode

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

OWN, SHUFFLED, COPY = range(3)  # axis of errors: own codes, another pair's codes, frame t shown again
ALL, MOVING = range(2)  # axis of errors: all pixels, moving pixels
RANDOM_PAIRS = 512  # decoded by the random-init model


def decoder_errors(
    model: Any,
    processor: LatentActionProcessor,
    pairs: Mapping[str, PairSet],
    encoded: Mapping[str, EncodedSet],
    seed: int,
) -> np.ndarray:
    """Squared errors summed over the pixels of each episode: (E, 3, 2), (own, shuffled, copy) x (all, moving).

    Codes are shuffled across the pairs of all cameras, so that none stays in place.
    """
    quantized = torch.cat([each.quantized_latents for each in encoded.values()])
    order = metrics.derangement(len(quantized), torch.Generator().manual_seed(seed))
    others = quantized[order].split([len(each) for each in pairs.values()])
    episodes = np.unique(np.concatenate([each.episodes for each in pairs.values()]))
    errors = np.zeros((len(episodes), 3, 2))
    for (camera, of_camera), shuffled in zip(pairs.items(), others, strict=True):
        latents = (encoded[camera].quantized_latents, shuffled)
        for rows in batches(len(of_camera)):
            now, future = of_camera.tensors(rows)
            decoded = [decode_frames(model, processor, now, each[rows]).cpu() for each in latents]
            of_pairs = squared_errors([*decoded, now.float() / 255], now, future)
            errors += sums_by_episode(of_pairs.numpy(), of_camera.episodes[rows], episodes)
    return errors


def squared_errors(predictions: list[torch.Tensor], now: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
    """Squared errors summed over the pixels of each pair: float64 (B, predictions, 2), of all and of moving pixels."""
    now, future = now.float() / 255, future.float() / 255
    moving = metrics.moving_mask(now, future)
    squared = torch.stack([(prediction - future).square() for prediction in predictions], 1)
    sums = [squared, squared * moving.unsqueeze(1)]
    return torch.stack([each.flatten(2).sum(2).double() for each in sums], 2)


def decoder_figures(
    errors_E32: np.ndarray, gain_over_random_init: dict[str, float | None], seed: int
) -> DecoderFigures:
    """Gains 1 - error / baseline, errors pooled over pixels, pairs and episodes before dividing."""
    sums = np.tensordot(resamples(len(errors_E32), seed), errors_E32, 1)  # (1 + R, 3, 2)
    gains = {}
    for name, baseline in (("z_gain", SHUFFLED), ("gain_over_copying", COPY)):
        for suffix, pixels in (("", ALL), ("_moving", MOVING)):
            base = sums[:, baseline, pixels]
            gains[name + suffix] = estimate(1 - sums[:, OWN, pixels] / np.where(base > 0, base, np.nan))
    return DecoderFigures(**gains, gain_over_random_init=gain_over_random_init)


def gain_over_random_init(
    model: Any, fresh: Any, processor: LatentActionProcessor, pairs: PairSet, encoded: EncodedSet
) -> dict[str, float | None]:
    """1 - MSE / MSE of `fresh`, a random-init model of the same configuration, over {"all", "moving"} pixels."""
    chosen = evenly_spaced(len(pairs), RANDOM_PAIRS)
    some, latents = pairs[chosen], encoded.quantized_latents[chosen]
    fresh_latents = encode_pairs(fresh, processor, some).quantized_latents
    sums = torch.zeros(2, 2, dtype=torch.float64)
    for rows in batches(len(some)):
        now, future = some.tensors(rows)
        decoded = [
            decode_frames(model, processor, now, latents[rows]).cpu(),
            decode_frames(fresh, processor, now, fresh_latents[rows]).cpu(),
        ]
        sums += squared_errors(decoded, now, future).sum(0)
    gains = metrics.gain(sums[0], sums[1])
    return {"all": rounded(float(gains[ALL])), "moving": rounded(float(gains[MOVING]))}


def image_quality(
    model: Any, processor: LatentActionProcessor, pairs: PairSet, encoded: EncodedSet, seed: int = 0
) -> dict[str, float | None]:
    """PSNR (dB) and SSIM of decoded frames, averaged over pairs, and their gains over frame t and other codes.

    `ssim_gain` = (SSIM - SSIM of frame t) / (1 - SSIM of frame t); `delta_psnr` = PSNR - PSNR with another pair's
    codes (Genie's controllability). SSIM needs frames of at least 11 pixels per side.
    """
    order = metrics.derangement(len(pairs), torch.Generator().manual_seed(seed))
    all_latents = (encoded.quantized_latents, encoded.quantized_latents[order])
    psnr, ssim = [], []
    for rows in batches(len(pairs)):
        now, future = pairs.tensors(rows)
        images = [decode_frames(model, processor, now, each[rows]).cpu().clamp(0, 1) for each in all_latents]
        images.append(now.float() / 255)
        psnr.append(torch.stack([metrics.psnr(image, future.float() / 255) for image in images]))
        ssim.append(torch.stack([metrics.ssim(image, future.float() / 255) for image in images]))
    own_psnr, shuffled_psnr, copy_psnr = torch.cat(psnr, 1).mean(1).tolist()
    own_ssim, _, copy_ssim = torch.cat(ssim, 1).mean(1).tolist()
    return {
        "psnr": rounded(own_psnr),
        "psnr_of_copying": rounded(copy_psnr),
        "delta_psnr": rounded(own_psnr - shuffled_psnr),
        "ssim": rounded(own_ssim),
        "ssim_of_copying": rounded(copy_ssim),
        "ssim_gain": rounded((own_ssim - copy_ssim) / max(1 - copy_ssim, 1e-6)),
    }


@torch.no_grad()
def transfer_figures(
    model: Any, processor: LatentActionProcessor, pairs: PairSet, encoded: EncodedSet, seed: int = 0
) -> dict[str, float | None]:
    """Two ratios of squared errors (arXiv 2601.05230), over pairs A = (a, a') and other pairs B = (b, b').

    `cut_test` = |D(a, z(a, b')) - b'|^2 / |D(a, z(a, a')) - a'|^2: about 1 where z carries the next frame itself,
    because then a jump into another video is decoded as well as a motion. `cycle_transfer` = |D(a, z(b, D(b, z))) -
    a'|^2 / |D(a, z) - a'|^2 with z = z(a, a'): down to 1 where z means the same in B as in A.
    """
    order = metrics.derangement(len(pairs), torch.Generator().manual_seed(seed)).numpy()
    others = pairs[order]
    errors = torch.zeros(3, dtype=torch.float64)
    for rows in batches(len(pairs)):
        a, a_future = pairs.tensors(rows)
        b, b_future = others.tensors(rows)
        own = encoded.quantized_latents[rows]
        b_decoded = decode_frames(model, processor, b, own).clamp(0, 1)
        cycle = encode_frames(model, processor, b, (b_decoded * 255).round().byte().cpu()).quantized_latents
        cut = encode_frames(model, processor, a, b_future).quantized_latents
        for index, (latents, expected) in enumerate(((own, a_future), (cut, b_future), (cycle, a_future))):
            prediction = decode_frames(model, processor, a, latents).cpu()
            errors[index] += (prediction - expected.float() / 255).square().sum().double()
    normal, cut_error, cycle_error = errors.clamp(min=1e-12).tolist()
    return {"cut_test": rounded(cut_error / normal), "cycle_transfer": rounded(cycle_error / normal)}
