"""Held-out metrics of joint training, and the detection of a tokenizer collapse.

Every check uses the same held-out samples, noise and flow times.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lara_policy.refine.model import LaraModel
from lara_tokenizer.errors import LaraTokenizerError
from lara_tokenizer.thresholds import (
    ALIGNMENT_SOLVED,
    GRADIENT_CONFLICTS,
    JOINT_PATIENCE,
    MEAN_COSINE_ALARM,
    PERPLEXITY_SHARE_OF_BEST,
    RANK_SHARE_OF_START,
    READY_CODE_USE,
    SPREAD_ALARM,
    SPREAD_SHARE_OF_START,
    SPREAD_WARNING,
)
from lara_tokenizer.train.watch.monitor import HeldOutMonitor

logger = logging.getLogger(__name__)

CHUNK = 64  # samples per forward


class JointMonitor:
    """Losses of the policy, alignment, and the tokenizer's health on a fixed batch of `PolicyDataset`."""

    def __init__(self, batch: dict[str, Any], model: LaraModel, gradients: bool = False) -> None:
        self.gradients = gradients
        count = len(batch["state"])
        # Evenly over all flow times: with a few random ones the loss would vary from seed to seed.
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        self.batch = {**batch, "tau_quantile": (order + 0.5) / count}
        self.tokenizer: HeldOutMonitor | None = None
        if model.lam is not None:
            pairs = batch["pair"][batch["pair_mask"]]
            if len(pairs) < 2:
                raise ValueError(
                    f"only {len(pairs)} of {count} held-out samples have a later frame: use longer episodes, a shorter "
                    "lam_stride, or more heldout_samples."
                )
            self.tokenizer = HeldOutMonitor(pairs, model.processor)

    @torch.no_grad()
    def measure(self, model: LaraModel, bf16: bool = False) -> dict[str, float]:
        """Losses and alignment monitors by name, and `HeldOutMonitor`'s metrics without their prefix."""
        was_training = model.training
        model.eval()
        device = next(model.parameters()).device
        sums: dict[str, float] = {}
        weights: dict[str, float] = {}
        for chunk in self._chunks(device):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                out = model(**chunk)
            # L_LAM is left to HeldOutMonitor, which measures the tokenizer without its training-only parts.
            values = {name: value for name, value in out.losses.items() if name != "lam"} | out.monitors
            for name, value in values.items():
                weight = float(chunk["pair_mask"].sum()) if "alignment" in name else float(len(chunk["state"]))
                sums[name] = sums.get(name, 0.0) + weight * float(value)
                weights[name] = weights.get(name, 0.0) + weight
        measured = {name: total / max(weights[name], 1.0) for name, total in sums.items()}
        measured.pop("alignment_pairs", None)
        if self.tokenizer is not None and model.lam is not None:
            health = self.tokenizer.measure(model.lam, torch.autocast(device.type, torch.bfloat16, enabled=bf16))
            measured |= {name.removeprefix("heldout_"): value for name, value in health.items()}
        if self.gradients and model.alignment is not None:
            measured["gradient_cosine"] = self._gradient_cosine(model, device)
        model.train(was_training)
        return measured

    @torch.enable_grad()
    def _gradient_cosine(self, model: LaraModel, device: torch.device) -> float:
        """Cosine of the gradients of alignment and action loss in the policy's weights up to the tapped block."""
        blocks = model.policy.transformer.blocks[: model.layer]
        weights = [parameter for parameter in blocks.parameters() if parameter.requires_grad]
        if not weights:
            return float("nan")
        losses = model(**next(self._chunks(device))).losses
        if not losses["alignment"].requires_grad:
            return float("nan")
        alignment, action = (
            torch.cat([gradient.flatten() for gradient in _gradients(losses[name], weights)])
            for name in ("alignment", "action")
        )
        return float(F.cosine_similarity(alignment, action, dim=0))

    def _chunks(self, device: torch.device) -> Iterator[dict[str, Any]]:
        for first in range(0, len(self.batch["state"]), CHUNK):
            chunk = {name: value[first : first + CHUNK] for name, value in self.batch.items()}
            yield to_device(chunk, device)


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on `device`."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def _gradients(loss: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
    """The gradient of each weight, 0 for weights that the loss does not depend on."""
    gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    pairs = zip(gradients, weights, strict=True)
    return [torch.zeros_like(weight) if gradient is None else gradient for gradient, weight in pairs]


def is_ready(measured: Mapping[str, float], codebook_size: int) -> bool:
    """True for a tokenizer that is ready for the policy's gradient: better than copying, and its codes in use."""
    return measured["gain_over_copying"] > 0 and measured["perplexity"] > READY_CODE_USE * codebook_size


class JointCollapseError(LaraTokenizerError):
    """The tokenizer's z or codes collapsed during joint training."""


@dataclass
class JointCollapseMonitor:
    """Detects tokenizer collapse during joint training, relative to the metrics at the start.

    An alarm stops the run at its second check in a row: one bad batch is no collapse.

    >>> monitor = JointCollapseMonitor({"spread": 1.0, "effective_rank": 80.0, "perplexity": 60.0})
    >>> for alarm in monitor.alarms({"spread": 0.1, "perplexity": 50.0, "mean_cosine": 0.95}):
    ...     print(alarm)
    z collapsed to one direction: its spread is 0.100 (limit 0.25)
    z of different pairs are nearly parallel: their mean cosine is 0.950 (limit 0.9)

    Attributes:
        start: metrics at the start of the run.
        stop: raise on a collapse; False logs a warning instead.
        strikes: checks in a row with an alarm.
        conflicts: checks in a row with opposed gradients.
        warned: names of the warnings already logged.
    """

    start: Mapping[str, float]
    stop: bool = True
    strikes: int = 0
    conflicts: int = 0
    warned: set[str] = field(default_factory=set)

    def state(self) -> dict[str, Any]:
        """The state that a resumed run restores."""
        return {"strikes": self.strikes, "conflicts": self.conflicts, "warned": sorted(self.warned)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state()`."""
        self.strikes = state["strikes"]
        self.conflicts = state["conflicts"]
        self.warned = set(state["warned"])

    def check(self, step: int, measured: Mapping[str, float]) -> None:
        """Judge one set of metrics. Raises JointCollapseError; with `stop` off, logs its message as a warning."""
        self._warn(step, measured)
        alarms = self.alarms(measured)
        self.strikes = self.strikes + 1 if alarms else 0
        if self.strikes < JOINT_PATIENCE:
            return
        message = (
            f"step {step}: the tokenizer is collapsing: {'; '.join(alarms)}. Lower w1 relative to w2, set "
            "center: true, mix unlabeled video into L_LAM (unlabeled_batch), or use latent_gradient_scale: 0; then "
            "start from the tokenizer as it was."
        )
        if self.stop:
            raise JointCollapseError(f"stopped at {message} --no-stop continues regardless.")
        logger.warning("%s", message)

    def alarms(self, measured: Mapping[str, float]) -> list[str]:
        """A message for each exceeded limit; metrics that were not measured are not judged."""
        alarms = []
        if _below(measured, "spread", SPREAD_ALARM):
            alarms.append(
                f"z collapsed to one direction: its spread is {measured['spread']:.3f} (limit {SPREAD_ALARM})"
            )
        for name, share, what in (
            ("effective_rank", RANK_SHARE_OF_START, "z lost directions: effective rank"),
            ("perplexity", PERPLEXITY_SHARE_OF_BEST, "codes died: perplexity"),
        ):
            if name in self.start and _below(measured, name, share * self.start[name]):
                alarms.append(
                    f"{what} {measured[name]:.1f}, {self.start[name]:.1f} at the start (limit {share:.0%} of it)"
                )
        if _below(measured, "gain_over_copying", 0) and self.start.get("gain_over_copying", 0) > 0:
            gain = measured["gain_over_copying"]
            alarms.append(f"the decoder got worse than copying frame t: gain {gain:.3f}")
        if measured.get("mean_cosine", 0) > MEAN_COSINE_ALARM:
            cosine = measured["mean_cosine"]
            alarms.append(
                "z of different pairs are nearly parallel: "
                f"their mean cosine is {cosine:.3f} (limit {MEAN_COSINE_ALARM})"
            )
        return alarms

    def _warn(self, step: int, measured: Mapping[str, float]) -> None:
        narrowed = min(SPREAD_WARNING, SPREAD_SHARE_OF_START * self.start.get("spread", 1.0))
        if _below(measured, "spread", narrowed) and not _below(measured, "spread", SPREAD_ALARM):
            text = f"z is narrowing: its spread is {measured['spread']:.2f}, {self.start['spread']:.2f} at the start"
            self._warn_once(text, "spread", step)
        if _below(measured, "alignment", ALIGNMENT_SOLVED):
            text = f"the alignment is solved (loss below {ALIGNMENT_SOLVED}): z may have become a constant"
            self._warn_once(text, "alignment", step)
        if "gradient_cosine" in measured:
            self.conflicts = self.conflicts + 1 if measured["gradient_cosine"] < 0 else 0
            if self.conflicts >= GRADIENT_CONFLICTS:
                text = (
                    f"alignment and action loss pulled in opposite directions at {GRADIENT_CONFLICTS} checks "
                    "in a row: set stop_step"
                )
                self._warn_once(text, "gradient_cosine", step)

    def _warn_once(self, message: str, key: str, step: int) -> None:
        if key not in self.warned:
            self.warned.add(key)
            logger.warning("step %d: %s", step, message)


def _below(measured: Mapping[str, float], name: str, limit: float) -> bool:
    """True if a metric was measured and is below the limit; NaN counts as below."""
    return name in measured and not measured[name] >= limit
