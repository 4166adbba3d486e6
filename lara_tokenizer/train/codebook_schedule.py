"""When the codebook starts and when its dead codes come back: by the step alone, so it survives a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from lara_tokenizer.model import LatentActionModel

logger = logging.getLogger(__name__)

START_BATCHES = 4  # batches of latents for the k-means start


class CodebookSchedule(TrainerCallback):
    """First `continuous_steps` steps without quantization, then a k-means start, then revival every `dead_code_steps`.

    The numbers are the model config's; 0 switches that part off. `draw_latents(batches, step)` gives latents (B, N, D)
    of training pairs.
    """

    def __init__(self, model: LatentActionModel, draw_latents: Callable[[int, int], Tensor]) -> None:
        self.model, self.draw_latents = model, draw_latents
        self.continuous_steps = model.config.continuous_steps
        self.dead_code_steps, self.dead_code_share = model.config.dead_code_steps, model.config.dead_code_share

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A checkpoint written at the very last continuous step has no codebook yet: it starts on the next step.
        self.model.bottleneck.continuous = self.continuous_steps > 0 and state.global_step <= self.continuous_steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        bottleneck = self.model.bottleneck
        if not bottleneck.continuous or state.global_step < self.continuous_steps:
            return
        bottleneck.start_codebook(self.draw_latents(START_BATCHES, state.global_step))
        bottleneck.continuous = False
        self._share()
        logger.info("step %d: codebook started by k-means", state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        due = self.dead_code_steps and state.global_step % self.dead_code_steps == 0
        # The start clears the counters, so the first revival waits for a whole window.
        if not due or self.model.bottleneck.continuous or state.global_step <= self.continuous_steps:
            return
        latents = self.draw_latents(1, state.global_step)
        revived = self.model.bottleneck.revive_dead_codes(latents, state.global_step, self.dead_code_share)
        self._share()
        logger.debug("step %d: %d dead codes revived", state.global_step, revived)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.model.bottleneck.continuous = False

    def _share(self) -> None:
        """Each process saw other pairs: all take the first one's codebook."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.broadcast(self.model.bottleneck.codebook.weight.data, src=0)
