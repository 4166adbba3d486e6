"""What the loops of all stages share: transformers.Trainer on a dataset of numbered draws."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from transformers import Trainer

from lara_tokenizer.train.pairs import DrawSampler


class DrawTrainer(Trainer):
    """Trainer whose `train_dataset` gives whole batches for numbers, from its `frames`, a `FrameSource`."""

    def compute_loss_context_manager(self) -> ExitStack:
        """Trainer's autocast and, on a CPU, plain attention: its backward takes 25 % less time than the fused one's."""
        stack = ExitStack()
        stack.enter_context(super().compute_loss_context_manager())
        if self._plain_attention():
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        return stack

    def _plain_attention(self) -> bool:
        return self.args.device.type == "cpu"

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: Trainer's estimate is for language models."""
        return 0

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's, with loader processes started as the source of frames needs it."""
        loader = super().get_train_dataloader()
        start_method = self.train_dataset.frames.start_method  # type: ignore[union-attr]
        if loader.num_workers and start_method is not None:
            # accelerate's loader is a wrapper that would keep the attribute to itself.
            getattr(loader, "base_dataloader", loader).multiprocessing_context = start_method
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> DrawSampler:
        # One epoch is the whole run, so that a restart finds its place by counting batches.
        samples = self.args.max_steps * self.args.train_batch_size * self.args.world_size
        return DrawSampler(samples * self.args.gradient_accumulation_steps)
