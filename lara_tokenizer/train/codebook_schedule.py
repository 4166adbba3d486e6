"""`CodebookSchedule`: VQ warm-up without quantization, k-means initialization, and resets of dead codes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from lara_tokenizer.model import LatentActionModel
from lara_tokenizer.model.matching import MatchingInverseModel

logger = logging.getLogger(__name__)

INIT_BATCHES = 4  # batches of latents for the k-means initialization


class CodebookSchedule(TrainerCallback):
    """Trainer callback that warms up, initializes and maintains the codebook.

    For the first `continuous_steps` of the model's config z is not quantized; then the codebook is initialized by
    k-means, and every `dead_code_steps` unused codes are reset. 0 disables either part. All decisions depend on the
    step alone, so that they survive a restart.

    Args:
        model: its bottleneck is changed.
        draw_latents: draw_latents(batches, step) returns latents (B, N, D) of training pairs.
        start_latents: start_latents(step) is called before the codebook's initialization, and may change z.
    """

    def __init__(
        self,
        model: LatentActionModel,
        draw_latents: Callable[[int, int], Tensor],
        start_latents: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.model = model
        self.draw_latents = draw_latents
        self.start_latents = start_latents
        self.continuous_steps = model.config.continuous_steps
        self.dead_code_steps = model.config.dead_code_steps
        self.dead_code_share = model.config.dead_code_share

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A checkpoint written at the very last continuous step has no codebook yet: the next step initializes it.
        self.model.bottleneck.continuous = self.continuous_steps > 0 and state.global_step <= self.continuous_steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        bottleneck = self.model.bottleneck
        if not bottleneck.continuous or state.global_step < self.continuous_steps:
            return
        self.start_latents(state.global_step)
        bottleneck.start_codebook(self.draw_latents(INIT_BATCHES, state.global_step))
        bottleneck.continuous = False
        self._broadcast()
        logger.info("step %d: codebook initialized by k-means", state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        is_due = self.dead_code_steps and state.global_step % self.dead_code_steps == 0
        # The initialization clears the usage counters, so the first reset waits for a whole window.
        if not is_due or self.model.bottleneck.continuous or state.global_step <= self.continuous_steps:
            return
        latents = self.draw_latents(1, state.global_step)
        num_reset = self.model.bottleneck.revive_dead_codes(latents, state.global_step, self.dead_code_share)
        self._broadcast()
        logger.debug("step %d: %d dead codes reset", state.global_step, num_reset)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.model.bottleneck.continuous = False

    def _broadcast(self) -> None:
        """Copy the first process's codebook, and start of z, to all: each has drawn other pairs."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            inverse = self.model.inverse_dynamics
            if isinstance(inverse, MatchingInverseModel):
                torch.distributed.broadcast(inverse.to_latents.weight.data, src=0)
            torch.distributed.broadcast(self.model.bottleneck.codebook.weight.data, src=0)
