"""Does the decoder use z: errors with a pair's own codes, with another pair's, and of showing frame t again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lara_tokenizer import metrics
from lara_tokenizer.evaluate.bootstrap import figure, resamples, rounded, sums_by_episode
from lara_tokenizer.evaluate.encoding import batches, decode_frames, encode_pairs
from lara_tokenizer.evaluate.pairs import EncodedSet, PairSet

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

OWN, SHUFFLED, COPY = range(3)
ALL, MOVING = range(2)
RANDOM_PAIRS = 512  # that a random-init model decodes


def decoder_errors(
    model: Any,
    processor: LatentActionProcessor,
    pairs: Mapping[str, PairSet],
    encoded: Mapping[str, EncodedSet],
    seed: int,
) -> np.ndarray:
    """Squared errors summed over each episode's pixels: (E, 3, 2), of (own, shuffled, copy) x (all, moving pixels).

    Codes are shuffled across the pairs of all cameras, so that none stays in place.
    """
    quantized = torch.cat([part.quantized_latents for part in encoded.values()])
    order = metrics.derangement(len(quantized), torch.Generator().manual_seed(seed))
    others = quantized[order].split([len(part) for part in pairs.values()])
    episodes = np.unique(np.concatenate([part.episodes for part in pairs.values()]))
    errors = np.zeros((len(episodes), 3, 2))
    for (camera, part), shuffled in zip(pairs.items(), others, strict=True):
        latents = (encoded[camera].quantized_latents, shuffled)
        for rows in batches(len(part)):
            now, future = (torch.from_numpy(part.frames[side[rows]]) for side in (part.now, part.future))
            decoded = [decode_frames(model, processor, now, each[rows]).cpu() for each in latents]
            of_pairs = squared_errors([*decoded, now.float() / 255], now, future)
            errors += sums_by_episode(of_pairs.numpy(), part.episodes[rows], episodes)
    return errors


def squared_errors(predictions: list[torch.Tensor], now: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
    """Summed over the pixels of each pair: float64 (B, predictions, 2), all pixels and those that move."""
    now, future = now.float() / 255, future.float() / 255
    moving = metrics.moving_mask(now, future)
    squared = torch.stack([(prediction - future).square() for prediction in predictions], 1)
    sums = [squared, squared * moving.unsqueeze(1)]
    return torch.stack([part.flatten(2).sum(2).double() for part in sums], 2)


def decoder_report(errors_E32: np.ndarray, seed: int) -> dict[str, dict[str, Any]]:
    """Gains 1 - error / baseline, errors pooled over pixels, pairs and episodes, with intervals by episode.

    `z_gain` is over another pair's codes, `gain_over_copying` over frame t; `_moving` counts moving pixels alone.
    """
    sums = np.tensordot(resamples(len(errors_E32), seed), errors_E32, 1)  # (1 + R, 3, 2)
    found = {}
    for name, baseline in (("z_gain", SHUFFLED), ("gain_over_copying", COPY)):
        for suffix, pixels in (("", ALL), ("_moving", MOVING)):
            base = sums[:, baseline, pixels]
            gain = 1 - sums[:, OWN, pixels] / np.where(base > 0, base, np.nan)
            found[name + suffix] = figure(gain)
    return found


def gain_over_random_init(
    model: Any,
    fresh: Any,
    processor: LatentActionProcessor,
    pairs: PairSet,
    encoded: EncodedSet,
) -> dict[str, float | None]:
    """1 - MSE / MSE of a random-init model of the same configuration: did the decoder learn anything?"""
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(RANDOM_PAIRS, len(pairs))).round().astype(int))
    some = PairSet(pairs.frames, pairs.now[chosen], pairs.future[chosen], None, pairs.episodes[chosen])
    random_latents = encode_pairs(fresh, processor, some).quantized_latents
    sums = torch.zeros(2, 2, dtype=torch.float64)
    for rows in batches(len(some)):
        now, future = (torch.from_numpy(some.frames[side[rows]]) for side in (some.now, some.future))
        decoded = [
            decode_frames(model, processor, now, encoded.quantized_latents[chosen[rows]]).cpu(),
            decode_frames(fresh, processor, now, random_latents[rows]).cpu(),
        ]
        sums += squared_errors(decoded, now, future).sum(0)
    gains = metrics.gain(sums[0], sums[1])
    return {"all": rounded(float(gains[ALL])), "moving": rounded(float(gains[MOVING]))}
