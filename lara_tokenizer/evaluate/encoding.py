"""Pairs through a model, batch by batch: to latents, and back to frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from lara_tokenizer.evaluate.pairs import EncodedSet, PairSet

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

BATCH = 64  # pairs through the model at a time


def batches(count: int) -> Iterator[slice]:
    """The rows of each batch."""
    return (slice(first, first + BATCH) for first in range(0, count, BATCH))


@torch.no_grad()
def encode_pairs(model: Any, processor: LatentActionProcessor, pairs: PairSet) -> EncodedSet:
    """z, codes and quantized z of all pairs."""
    parts = []
    for rows in batches(len(pairs)):
        now, future = (torch.from_numpy(pairs.frames[side[rows]]) for side in (pairs.now, pairs.future))
        out = encode_frames(model, processor, now, future)
        codes = None if out.codes is None else out.codes.cpu()
        parts.append((out.latents.float().cpu(), codes, out.quantized_latents.float().cpu()))
    latents, codes, quantized = zip(*parts, strict=True)
    return EncodedSet(torch.cat(latents), None if codes[0] is None else torch.cat(codes), torch.cat(quantized))


@torch.no_grad()
def encode_frames(
    model: Any, processor: LatentActionProcessor, frames_B3SS: torch.Tensor, future_frames_B3SS: torch.Tensor
) -> Any:
    """What the model says of pairs of uint8 frames (B, 3, S, S) each, prepared as the processor prepares pairs."""
    steady = processor.steady_future(frames_B3SS, future_frames_B3SS)
    pixel_values = processor.normalize_frames(torch.cat([frames_B3SS, steady])).to(model.device)
    now, future = model.get_frame_features(pixel_values).chunk(2)
    return model.encode(frame_features=now, future_frame_features=future)


@torch.no_grad()
def decode_frames(
    model: Any, processor: LatentActionProcessor, frames_B3SS: torch.Tensor, latents_BND: torch.Tensor
) -> torch.Tensor:
    """Frames t, uint8 (B, 3, S, S), and quantized z -> frames t+C as the decoder predicts them, in about 0..1."""
    frames = processor.normalize_frames(frames_B3SS.to(model.device))
    decoded = model.decode(frames, quantized_latents=latents_BND.to(model.device)).float()
    mean = torch.tensor(processor.image_mean, device=decoded.device).view(-1, 1, 1)
    std = torch.tensor(processor.image_std, device=decoded.device).view(-1, 1, 1)
    return decoded * std + mean


def random_init(model: Any, seed: int) -> Any:
    """A model of the same configuration that never learned anything: a control."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = type(model)(model.config)
    return fresh.to(model.device).eval()
