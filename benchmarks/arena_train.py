"""The training of a contender: until a plateau, on equal pairs, at a bracketed learning rate.

The rate rises for 100 steps, stays, and falls to 0 within the last block of pairs. Published schedules end at a number
of steps that is chosen before; here nobody knows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import torch
from arena_variants import BATCH, Learner
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lara_tokenizer import metrics
from lara_tokenizer.evaluate.encoding import decode_frames, encode_frames
from lara_tokenizer.model import LatentActionProcessor
from lara_tokenizer.train.codebook_schedule import CodebookSchedule
from lara_tokenizer.train.pairs import PairDataset

BLOCK = 8192  # pairs between two checks
MOST_BLOCKS = 12  # the safety net: a run that goes on until here is reported as not at a plateau
LEAST_GAIN = 0.01  # of z_gain over the best before
IN_USE = 0.02  # z_gain below which the decoder does not use z, so that there is no plateau yet
WARMUP = 100  # steps
CHUNK = 64  # held-out pairs through the model at a time
RATES = (3e-4, 1e-3, 3e-3)
BRACKET_PAIRS = 8192  # of a run that tries a rate
RATE_LIMITS = (1e-5, 1e-1)


@dataclass(frozen=True, slots=True)
class Check:
    """Measures of held-out pairs, each contender's own: of pairs as it sees them, by its own decoder."""

    pairs: int
    z_gain: float
    gain_over_copying: float
    gain_moving: float  # over copying, on the pixels that move


@dataclass(frozen=True, slots=True)
class Course:
    """The course of a training."""

    checks: list[Check]  # every block, at the constant rate
    at_plateau: bool
    final: Check  # after the rate fell to 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def is_plateau(z_gains: list[float]) -> bool:
    """True if z is in use, and neither of the last two checks gained 0.01 of z_gain over the best before it.

    >>> is_plateau([0.1, 0.2, 0.205, 0.209]), is_plateau([0.1, 0.2, 0.205, 0.22]), is_plateau([0.0, 0.0, 0.0, 0.0])
    (True, False, False)
    """
    if len(z_gains) < 3 or max(z_gains) < IN_USE:
        return False
    return all(z_gains[-back] - max(z_gains[:-back]) < LEAST_GAIN for back in (1, 2))


class Loop:
    """The steps of a training. Every contender sees the same pairs in the same order."""

    def __init__(self, learner: Learner, pairs: PairDataset, rate: float, total_steps: int) -> None:
        self.learner, self.pairs, self.rate, self.total_steps = learner, pairs, rate, total_steps
        self.optimizer = learner.optimizer(rate)
        self.state = SimpleNamespace(global_step=0)
        # A continuous z has no codebook.
        has_codes = getattr(learner.model, "bottleneck", None) is not None
        self.codebook = CodebookSchedule(learner.model, learner.draw_latents) if has_codes else None
        self._call("on_train_begin")
        learner.model.train()

    @property
    def continuous(self) -> bool:
        """Whether the codebook is in its warm-up, so that z passes without codes."""
        return self.codebook is not None and self.learner.model.bottleneck.continuous

    def run(self, pairs: int, fall: bool = False) -> bool:
        """Train on so many pairs more; `fall`: down to a rate of 0. False where the loss is not finite any more."""
        steps = pairs // BATCH
        for done in range(steps):
            step = self.state.global_step
            share = min(1.0, (step + 1) / WARMUP) * (1 - done / steps if fall else 1.0)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * share
            if not self._step(step):
                return False
        return True

    def end(self) -> Any:
        """The model, ready for use."""
        self._call("on_train_end")
        return self.learner.model.eval()

    def _step(self, step: int) -> bool:
        self._call("on_step_begin")
        batch = self.pairs.__getitems__(range(step * BATCH, (step + 1) * BATCH))
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            loss = self.learner.loss(batch)
        if not torch.isfinite(loss):
            return False
        self.optimizer.zero_grad()
        loss.backward()
        if self.learner.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.learner.model.parameters(), self.learner.max_grad_norm)
        self.optimizer.step()
        self.learner.after_step(step + 1, self.total_steps)
        self.state.global_step += 1
        self._call("on_step_end")
        return True

    def _call(self, event: str) -> None:
        if self.codebook is not None:
            getattr(self.codebook, event)(None, self.state, None)


def train_to_plateau(
    learner: Learner, pairs: PairDataset, monitored: Tensor, rate: float, progress: Callable[[Check], None]
) -> Course:
    """Train until a plateau, or the safety net, and let the rate fall.

    Checks count from the first with codes: when they come into use, z_gain falls.
    """
    loop = Loop(learner, pairs, rate, (MOST_BLOCKS + 1) * BLOCK // BATCH)
    checks: list[Check] = []
    z_gains: list[float] = []
    for block in range(1, MOST_BLOCKS + 1):
        finite = loop.run(BLOCK)
        checks.append(check(learner, monitored, block * BLOCK))
        progress(checks[-1])
        z_gains += [] if loop.continuous or not finite else [checks[-1].z_gain]
        if not finite or is_plateau(z_gains):
            break
    loop.run(BLOCK, fall=True)
    loop.end()
    return Course(checks, is_plateau(z_gains), check(learner, monitored, (len(checks) + 1) * BLOCK))


def try_rate(learner: Learner, pairs: PairDataset, monitored: Tensor, rate: float) -> Check:
    """A short run at a rate, which falls in the second half."""
    loop = Loop(learner, pairs, rate, BRACKET_PAIRS // BATCH)
    half = BRACKET_PAIRS // 2
    loop.run(half)
    loop.run(half, fall=True)
    loop.end()
    return check(learner, monitored, BRACKET_PAIRS)


@torch.no_grad()
def check(learner: Learner, monitored: Tensor, pairs: int) -> Check:
    """Use of z and gains over copying on held-out pairs; what is not finite counts as the worst."""
    model, processor = learner.model, learner.processor
    model.eval()
    now, future = monitored.unbind(1)
    # As in training: the decoder predicts the later frame as the processor shows it.
    future = processor.steady_future(now, future)
    latents = torch.cat(
        [
            encode_frames(model, processor, *each).quantized_latents
            for each in zip(now.split(CHUNK), future.split(CHUNK), strict=True)
        ]
    )
    order = metrics.derangement(len(latents), torch.Generator().manual_seed(0))
    own, other = (_decoded(model, processor, now, each) for each in (latents, latents[order]))
    copied, target = now.float() / 255, future.float() / 255
    gains = (
        metrics.z_gain(own, other, target),
        metrics.gain_over_copying(own, copied, target),
        metrics.gain_over_copying(own, copied, target, metrics.moving_mask(copied, target)),
    )
    model.train()
    return Check(pairs, *(round(float(gain), 4) if torch.isfinite(gain) else -1e9 for gain in gains))


def _decoded(model: Any, processor: LatentActionProcessor, now: Tensor, latents: Tensor) -> Tensor:
    chunks = zip(now.split(CHUNK), latents.split(CHUNK), strict=True)
    return torch.cat([decode_frames(model, processor, *each) for each in chunks])


def next_rate(gains: Mapping[float, float]) -> float | None:
    """The rate to try next, by the gains over copying of those tried; None where the best is at no edge.

    Gains are those on moving pixels: on all of them, a decoder that starts as a copy is best at no rate at all. The
    first three are `RATES`; then steps of about a half decade beyond the edge, within `RATE_LIMITS`.

    >>> next_rate({3e-4: 0.1, 1e-3: 0.2}), next_rate({3e-4: 0.1, 1e-3: 0.2, 3e-3: 0.3})
    (0.003, 0.01)
    """
    untried = [rate for rate in RATES if rate not in gains]
    if untried:
        return untried[0]
    ordered = sorted(gains)
    best = max(ordered, key=lambda rate: (gains[rate], -rate))
    if best not in (ordered[0], ordered[-1]):
        return None
    beyond = _half_decade(best, -1 if best == ordered[0] else 1)
    return beyond if RATE_LIMITS[0] <= beyond <= RATE_LIMITS[1] else None


def _half_decade(rate: float, direction: int) -> float:
    """The neighbour of a rate among 1 and 3 times the powers of ten."""
    index = round(2 * math.log10(rate)) + direction
    return float(f"{1 if index % 2 == 0 else 3}e{index // 2}")
