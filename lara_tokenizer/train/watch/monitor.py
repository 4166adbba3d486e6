"""Health of z and the codebook on held-out pairs: `HeldOutMonitor` measures, `CollapseMonitor` stops training."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
from einops import rearrange
from torch import Tensor

from lara_tokenizer import metrics
from lara_tokenizer.errors import LaraTokenizerError
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.thresholds import PERPLEXITY_FLOOR, PERPLEXITY_SHARE_OF_BEST, SPREAD_ALARM, STAGE_ONE_PATIENCE
from lara_tokenizer.train.augment import normalize, to_unit_range
from lara_tokenizer.train.targets.motion_targets import MotionTargets

CHUNK = 256  # pairs through the model at a time
CHECK_COST = 0.55  # of a held-out pair, in training pairs: one encoding and two decodings, without a gradient
CHECK_SHARE = 0.05  # of a run's work that its checks may cost


def is_check(step: int, log_steps: int, batch_size: int, heldout: int, last: int) -> bool:
    """Whether held-out samples are measured at the log of a step: so seldom that it costs at most `CHECK_SHARE`.

    A function of the step alone, so that a resumed run has the same checks. The last log always has one.

    >>> [step for step in range(50, 301, 50) if is_check(step, 50, 32, heldout=256, last=300)]
    [100, 200, 300]
    """
    logs = math.ceil(heldout * CHECK_COST / (CHECK_SHARE * log_steps * batch_size))
    return step % (logs * log_steps) == 0 or step > last - log_steps


class CollapseError(LaraTokenizerError):
    """Collapse of z or the codebook: further steps would train only the decoder."""


class CollapseMonitor:
    """Raises `CollapseError` if z or the codebook is collapsed at several checks in a row.

    The limits are those of `lara_tokenizer/thresholds.py`.

    Args:
        grace_steps: checks before this step raise nothing.
        patience: checks in a row; one bad batch is no collapse.

    >>> monitor = CollapseMonitor(grace_steps=0, patience=1)
    >>> monitor.check(100, {"spread": 0.1, "perplexity": 40.0}, codebook=True)  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    CollapseError: stopped at step 100: z collapsed: ...
    """

    def __init__(self, grace_steps: int, patience: int = STAGE_ONE_PATIENCE) -> None:
        self.grace_steps = grace_steps
        self.patience = patience
        self.best_perplexity = 0.0
        self.strikes = 0

    def check(self, step: int, measured: dict[str, float], codebook: bool) -> None:
        """Judge `measured`, which holds `spread` and `perplexity`; the latter only if the `codebook` is in use."""
        if codebook:
            self.best_perplexity = max(self.best_perplexity, measured["perplexity"])
        if step < self.grace_steps:
            return
        reason = self._reason(measured, codebook)
        self.strikes = self.strikes + 1 if reason else 0
        if reason and self.strikes >= self.patience:
            raise CollapseError(
                f"stopped at step {step}: {reason}. Lower the learning rate, lengthen continuous_steps, set "
                "standardize_latents and dead_code_steps in the recipe, or resume from an earlier checkpoint."
            )

    def _reason(self, measured: dict[str, float], codebook: bool) -> str | None:
        # Negated comparisons, so that NaN counts as collapsed.
        if not measured["spread"] >= SPREAD_ALARM:
            return f"z collapsed: its spread is {measured['spread']:.3f} (about 1 is healthy, the limit {SPREAD_ALARM})"
        lowest = max(PERPLEXITY_FLOOR, PERPLEXITY_SHARE_OF_BEST * self.best_perplexity)
        if codebook and not measured["perplexity"] >= lowest:
            return (
                f"the codebook collapsed: perplexity {measured['perplexity']:.1f}, best so far "
                f"{self.best_perplexity:.1f}, the limit {lowest:.1f}"
            )
        return None


class HeldOutMonitor:
    """Measures of a model on the same held-out pairs, shuffled the same way, at every check.

    Args:
        frames: uint8 (B, 2, 3, S, S). With `processor.steady_pairs` the decoder is compared to the stabilized later
            frame, which is its target in training.
        processor: the model's.
        targets: of the motion map in training; adds `heldout_r2_` of each of their groups.
        features: of the frames (B, 2, C, G, G), if the targets take them.
    """

    def __init__(
        self,
        frames: Tensor,
        processor: LatentActionProcessor,
        targets: MotionTargets | None = None,
        features: Tensor | None = None,
    ) -> None:
        now, future = frames.unbind(1)
        self.frames = torch.stack([now, processor.steady_future(now, future)], 1)
        self.image_mean = processor.image_mean
        self.image_std = processor.image_std
        self.order = metrics.derangement(len(frames), torch.Generator().manual_seed(0))
        self.targets = targets
        self.target_maps = None if targets is None else targets(to_unit_range(self.frames), features)

    @torch.no_grad()
    def measure(self, model: LatentActionModel, autocast: AbstractContextManager) -> dict[str, float]:
        """Measure z, codebook and decoder in eval mode; keys start with `heldout_` (see `metrics.py`)."""
        was_training = model.training
        model.eval()
        with autocast:
            out = self._forward(model)
            regressed = self._r2(model)
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
        return {f"heldout_{name}": float(value) for name, value in (measured | regressed).items()}

    def _r2(self, model: LatentActionModel) -> dict[str, float]:
        """The share of each group of targets that the motion map explains."""
        if self.targets is None or self.target_maps is None:
            return {}
        maps = []
        for frames in self.frames.split(CHUNK):
            pair = normalize(to_unit_range(frames.to(model.device)), self.image_mean, self.image_std)
            tokens = model.get_frame_features(torch.cat(pair)).chunk(2)
            maps.append(model.inverse_dynamics.motion_map(*tokens).float().cpu())
        return {f"r2_{name}": value for name, value in self.targets.r2(torch.cat(maps), self.target_maps).items()}

    def _forward(self, model: LatentActionModel) -> dict[str, Tensor]:
        """Latents, codes and frames in 0..1 of all pairs, computed in chunks."""
        pixels: list[tuple[Tensor, Tensor]] = []
        latents, codes, quantized = [], [], []
        for frames in self.frames.split(CHUNK):
            now, future = normalize(to_unit_range(frames.to(model.device)), self.image_mean, self.image_std)
            encoded = model.encode(now, future)
            assert encoded.latents is not None
            assert encoded.codes is not None
            assert encoded.quantized_latents is not None
            pixels.append((now, future))
            latents.append(encoded.latents.float())
            codes.append(encoded.codes)
            quantized.append(encoded.quantized_latents)

        def decode(z_BND: Tensor) -> Tensor:
            chunks = zip(pixels, z_BND.split(CHUNK), strict=True)
            return self._unit(torch.cat([model.decode(now, quantized_latents=z) for (now, _), z in chunks]))

        z_BND = torch.cat(quantized)
        return {
            "latents": torch.cat(latents),
            "codes": torch.cat(codes),
            "now": self._unit(torch.cat([now for now, _ in pixels])),
            "future": self._unit(torch.cat([future for _, future in pixels])),
            "own": decode(z_BND),
            "shuffled": decode(z_BND[self.order.to(model.device)]),
        }

    def _unit(self, pixel_values: Tensor) -> Tensor:
        """Undo the normalization: in 0..1 the errors of all channels have the same weight."""
        mean, std = (
            rearrange(torch.tensor(values, device=pixel_values.device), "c -> c 1 1")
            for values in (self.image_mean, self.image_std)
        )
        return pixel_values.float() * std + mean
