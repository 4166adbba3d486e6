"""Is z alive? Measured on one fixed batch of held-out pairs; training stops with a sentence when it is not."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from lara_tokenizer import metrics
from lara_tokenizer.errors import LaraTokenizerError
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.train.augment import normalise, to_unit_range

CHUNK = 256  # pairs through the model at a time


class CollapseError(LaraTokenizerError):
    """z or the codebook died: further steps would train the decoder alone."""


@dataclass(frozen=True, slots=True)
class CollapseThresholds:
    """Below these, at `patience` checks in a row, training stops.

    spread: z points one way for every pair (1 is healthy). perplexity: as good as a single code is in use.
    perplexity_of_best: the share of the best perplexity so far that may be lost.
    """

    spread: float = 0.25
    perplexity: float = 2.0
    perplexity_of_best: float = 0.25
    patience: int = 3


class CollapseWatch:
    """Raises `CollapseError` once z or the codebook has been dead for some checks after the grace period.

    >>> watch = CollapseWatch(grace_steps=0, thresholds=CollapseThresholds(patience=1))
    >>> watch.check(100, {"spread": 0.1, "perplexity": 40.0}, codebook=True)  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    CollapseError: stopped at step 100: z died: ...
    """

    def __init__(self, grace_steps: int, thresholds: CollapseThresholds | None = None) -> None:
        self.grace_steps = grace_steps
        self.thresholds = thresholds or CollapseThresholds()
        self.best_perplexity = 0.0
        self.strikes = 0

    def check(self, step: int, measured: dict[str, float], codebook: bool) -> None:
        """`measured` holds `spread` and `perplexity`; the latter counts only where the `codebook` is in use."""
        if codebook:
            self.best_perplexity = max(self.best_perplexity, measured["perplexity"])
        if step < self.grace_steps:
            return
        reason = self._reason(measured, codebook)
        self.strikes = self.strikes + 1 if reason else 0
        if reason and self.strikes >= self.thresholds.patience:
            raise CollapseError(
                f"stopped at step {step}: {reason}. Lower the learning rate, lengthen continuous_steps, set "
                "standardize_latents and dead_code_steps in the recipe, or go on from an earlier checkpoint."
            )

    def _reason(self, measured: dict[str, float], codebook: bool) -> str | None:
        limits = self.thresholds
        if not measured["spread"] >= limits.spread:  # so that NaN counts as dead
            return f"z died: its spread is {measured['spread']:.3f} (healthy is about 1, the limit {limits.spread})"
        lowest = max(limits.perplexity, limits.perplexity_of_best * self.best_perplexity)
        if codebook and not measured["perplexity"] >= lowest:
            return (
                f"the codebook died: perplexity {measured['perplexity']:.1f}, best so far {self.best_perplexity:.1f}, "
                f"the limit {lowest:.1f}"
            )
        return None


class HeldOutMonitor:
    """Measures a model on `frames`, uint8 (B, 2, 3, S, S): the same pairs, shuffled the same way, at every check.

    Where the processor steadies pairs, the steady later frame is also what the decoder is measured by.
    """

    def __init__(self, frames: Tensor, processor: LatentActionProcessor) -> None:
        now, future = frames.unbind(1)
        self.frames = torch.stack([now, processor.steady_future(now, future)], 1)
        self.image_mean, self.image_std = processor.image_mean, processor.image_std
        self.order = metrics.derangement(len(frames), torch.Generator().manual_seed(0))

    @torch.no_grad()
    def measure(self, model: LatentActionModel, autocast: AbstractContextManager) -> dict[str, float]:
        """Spread and rank of z, perplexity, gain over copying and z_gain (all and moving pixels), in eval mode."""
        was_training = model.training
        model.eval()
        with autocast:
            out = self._forward(model)
        model.train(was_training)
        size = model.config.codebook_size
        now, future = out["now"], out["future"]
        moving = metrics.moving_mask(now, future)
        measured = {
            "spread": metrics.spread(out["latents"]),
            "effective_rank": metrics.effective_rank(out["latents"]),
            "mean_cosine": metrics.mean_cosine(out["latents"]),
            "perplexity": metrics.perplexity(out["codes"], size),
            "perplexity_per_position": metrics.perplexity_per_position(out["codes"], size).mean(),
            "dead_codes": metrics.dead_codes(out["codes"], size),
            "gain_over_copying": metrics.gain_over_copying(out["own"], now, future),
            "gain_over_copying_moving": metrics.gain_over_copying(out["own"], now, future, moving),
            "z_gain": metrics.z_gain(out["own"], out["shuffled"], future),
            "z_gain_moving": metrics.z_gain(out["own"], out["shuffled"], future, moving),
        }
        return {f"heldout_{name}": float(value) for name, value in measured.items()}

    def _forward(self, model: LatentActionModel) -> dict[str, Tensor]:
        """Latents, codes and pixels in 0..1, of all pairs, a chunk at a time."""
        device = model.device
        pixels: list[tuple[Tensor, Tensor]] = []
        latents, codes, quantized = [], [], []
        for frames in self.frames.split(CHUNK):
            now, future = normalise(to_unit_range(frames.to(device)), self.image_mean, self.image_std)
            encoded = model.encode(now, future)
            assert encoded.latents is not None
            assert encoded.codes is not None
            assert encoded.quantized_latents is not None
            pixels.append((now, future))
            latents.append(encoded.latents.float())
            codes.append(encoded.codes)
            quantized.append(encoded.quantized_latents)
        order = self.order.to(device)
        shuffled = torch.cat(quantized)[order].split(CHUNK)
        own = [model.decode(now, quantized_latents=z) for (now, _), z in zip(pixels, quantized, strict=True)]
        other = [model.decode(now, quantized_latents=z) for (now, _), z in zip(pixels, shuffled, strict=True)]
        return {
            "latents": torch.cat(latents),
            "codes": torch.cat(codes),
            "now": self._unit(torch.cat([now for now, _ in pixels])),
            "future": self._unit(torch.cat([future for _, future in pixels])),
            "own": self._unit(torch.cat(own)),
            "shuffled": self._unit(torch.cat(other)),
        }

    def _unit(self, pixel_values: Tensor) -> Tensor:
        """The processor's pixel space -> 0..1, where errors of the channels weigh the same."""
        mean = torch.tensor(self.image_mean, device=pixel_values.device).view(-1, 1, 1)
        std = torch.tensor(self.image_std, device=pixel_values.device).view(-1, 1, 1)
        return pixel_values.float() * std + mean
