"""What held-out samples say of policy and tokenizer: the same samples, noise and times at every check."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lara_policy.refine.joint import LaraModel
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
