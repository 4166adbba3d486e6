"""What held-out samples say of policy and tokenizer: the same samples, noise and times at every check."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lara_policy.refine.model import LaraModel
from lara_tokenizer.errors import LaraTokenizerError
from lara_tokenizer.train.monitor import HeldOutMonitor

CHUNK = 64  # samples through the model at a time
READY_SHARE = 0.25  # of the codebook that a tokenizer must use before the policy may pull at it


class JointMonitor:
    """Action loss, alignment and the tokenizer's health on a fixed batch of `PolicySamples`, in evaluation mode."""

    def __init__(self, batch: dict[str, Any], model: LaraModel, gradients: bool = False) -> None:
        self.batch, self.gradients = batch, gradients
        count = len(batch["state"])
        # Evenly over all flow times: a few random ones would make the loss jump from seed to seed.
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        self.batch["chance"] = (order + 0.5) / count
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
        """`action`, `alignment`, `alignment_centered_cosine` and what `HeldOutMonitor` measures, without its prefix."""
        was_training = model.training
        model.eval()
        device = next(model.parameters()).device
        sums: dict[str, float] = {}
        weights: dict[str, float] = {}
        for chunk in self._chunks(device):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                out = model(**chunk)
            found = {name: value for name, value in out.losses.items() if name != "lam"} | out.monitors
            for name, value in found.items():
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
        """Between the gradients of alignment and action loss, in the policy's weights up to the tapped block."""
        chunk = next(self._chunks(device))
        weights = [p for p in model.policy.transformer.blocks[: model.layer].parameters() if p.requires_grad]
        if not weights:
            return float("nan")
        losses = model(**chunk).losses
        if not losses["alignment"].requires_grad:
            return float("nan")
        flat = [
            _flat(torch.autograd.grad(losses[name], weights, retain_graph=True, allow_unused=True), weights)
            for name in ("alignment", "action")
        ]
        return float(F.cosine_similarity(flat[0], flat[1], dim=0))

    def _chunks(self, device: torch.device) -> Any:
        count = len(self.batch["state"])
        for first in range(0, count, CHUNK):
            yield {
                name: value[first : first + CHUNK].to(device)
                if isinstance(value, Tensor)
                else value[first : first + CHUNK]
                for name, value in self.batch.items()
            }


def is_ready(measured: dict[str, float], codebook_size: int) -> bool:
    """Whether a tokenizer has converged enough for the policy's gradient: it beats copying and uses its codes."""
    return measured["gain_over_copying"] > 0 and measured["perplexity"] > READY_SHARE * codebook_size


def _flat(gradients: Any, weights: list[torch.nn.Parameter]) -> Tensor:
    return torch.cat(
        [
            (torch.zeros_like(weight) if gradient is None else gradient).flatten()
            for gradient, weight in zip(gradients, weights, strict=True)
        ]
    )


logger = logging.getLogger(__name__)

SPREAD_ALARM, SPREAD_WARNING = 0.25, 0.5
NARROWED = 0.9  # of the spread at the start: few tasks have little spread to begin with
RANK_SHARE = 0.5
PERPLEXITY_SHARE = 0.25
MEAN_COSINE = 0.9
ALIGNMENT_SOLVED = 0.02
CONFLICTS = 5


class JointCollapseError(LaraTokenizerError):
    """The tokenizer's z or codes died during joint training."""


@dataclass
class RefineWatch:
    """What `start` measured, and what has happened since.

    An alarm stops the run at its second check in a row: one bad batch is no collapse.

    >>> watch = RefineWatch({"spread": 1.0, "effective_rank": 80.0, "perplexity": 60.0})
    >>> watch.alarms({"spread": 0.1, "effective_rank": 70.0, "perplexity": 50.0, "mean_cosine": 0.95})
    ['z points one way: its spread is 0.100 (limit 0.25)', 'all z look alike: their mean cosine is 0.950 (limit 0.9)']
    """

    start: Mapping[str, float]
    stop: bool = True
    strikes: int = 0
    conflicts: int = 0
    warned: set[str] = field(default_factory=set)

    def state(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        return {"strikes": self.strikes, "conflicts": self.conflicts, "warned": sorted(self.warned)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """What `state` gave."""
        self.strikes, self.conflicts, self.warned = state["strikes"], state["conflicts"], set(state["warned"])

    def check(self, step: int, measured: Mapping[str, float]) -> None:
        """Raises JointCollapseError; with `stop` off, logs the same sentence as a warning."""
        self._warn(step, measured)
        found = self.alarms(measured)
        self.strikes = self.strikes + 1 if found else 0
        if self.strikes < 2:
            return
        sentence = (
            f"step {step}: the tokenizer is collapsing: {'; '.join(found)}. Lower w1 against w2 (AdamW feels only "
            "their ratio), set center: true, mix unlabeled video into L_LAM (unlabeled_batch), or use "
            "latent_gradient_scale: 0; then start from the tokenizer as it was."
        )
        if self.stop:
            raise JointCollapseError(f"stopped at {sentence} --no-stop goes on regardless.")
        logger.warning("%s", sentence)

    def alarms(self, measured: Mapping[str, float]) -> list[str]:
        """Sentences, one for each limit that is passed; a number that was not measured is not judged."""
        found = []
        if _below(measured, "spread", SPREAD_ALARM):
            found.append(f"z points one way: its spread is {measured['spread']:.3f} (limit {SPREAD_ALARM})")
        for name, share, what in (
            ("effective_rank", RANK_SHARE, "z lost directions: effective rank"),
            ("perplexity", PERPLEXITY_SHARE, "codes died: perplexity"),
        ):
            if name in self.start and _below(measured, name, share * self.start[name]):
                found.append(
                    f"{what} {measured[name]:.1f}, {self.start[name]:.1f} at the start (limit {share:.0%} of it)"
                )
        if _below(measured, "gain_over_copying", 0) and self.start.get("gain_over_copying", 0) > 0:
            gain = measured["gain_over_copying"]
            found.append(f"the decoder got worse than copying frame t: gain {gain:.3f}")
        if measured.get("mean_cosine", 0) > MEAN_COSINE:
            found.append(f"all z look alike: their mean cosine is {measured['mean_cosine']:.3f} (limit {MEAN_COSINE})")
        return found

    def _warn(self, step: int, measured: Mapping[str, float]) -> None:
        narrowed = NARROWED * self.start.get("spread", 1.0)
        if _below(measured, "spread", min(SPREAD_WARNING, narrowed)) and not _below(measured, "spread", SPREAD_ALARM):
            text = f"z is narrowing: its spread is {measured['spread']:.2f}, {self.start['spread']:.2f} at the start"
            self._once(text, "spread", step)
        if _below(measured, "alignment", ALIGNMENT_SOLVED):
            self._once(
                f"the alignment is solved (loss below {ALIGNMENT_SOLVED}): z may have become a constant",
                "alignment",
                step,
            )
        if "gradient_cosine" in measured:
            self.conflicts = self.conflicts + 1 if measured["gradient_cosine"] < 0 else 0
            if self.conflicts >= CONFLICTS:
                text = f"alignment and action loss pulled in opposite directions at {CONFLICTS} checks: set stop_step"
                self._once(text, "gradient_cosine", step)

    def _once(self, sentence: str, key: str, step: int) -> None:
        if key not in self.warned:
            self.warned.add(key)
            logger.warning("step %d: %s", step, sentence)


def _below(measured: Mapping[str, float], name: str, limit: float) -> bool:
    """Whether it was measured and lies below; NaN does."""
    return name in measured and not measured[name] >= limit
