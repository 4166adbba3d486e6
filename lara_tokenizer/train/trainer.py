"""The stage-1 loop: transformers.Trainer with our pairs, our augmentation, our log."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PrinterCallback, TrainingArguments

from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.train.augment import augment_pairs, normalise, own_views, steady_pairs, to_unit_range
from lara_tokenizer.train.direction import both_directions, direction_loss
from lara_tokenizer.train.draw_trainer import DrawTrainer
from lara_tokenizer.train.monitor import CollapseWatch, HeldOutMonitor
from lara_tokenizer.train.normal_flow import NormalFlow
from lara_tokenizer.train.pairs import START_PAIRS, PairDataset
from lara_tokenizer.train.recipe import AugmentationOptions, TrainingOptions
from lara_tokenizer.train.schedule import CodebookSchedule

logger = logging.getLogger(__name__)

LOG_LINES = "training_log.jsonl"

CODEBOOK_DRAWS = 2**40  # draws from here on are the codebook's: no training comes so far


def training_arguments(options: TrainingOptions, folder: str | Path) -> TrainingArguments:
    """The recipe's numbers in Trainer's words; checkpoints go to `folder`."""
    on_gpu = torch.cuda.is_available()
    loader: dict[str, Any] = {"dataloader_num_workers": options.workers}
    if options.workers:
        loader |= {"dataloader_prefetch_factor": 4, "dataloader_persistent_workers": True}
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup_steps,
        lr_scheduler_type="cosine",
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        optim="adamw_torch_fused" if on_gpu else "adamw_torch",
        bf16=options.precision == "bf16",
        use_cpu=not torch.accelerator.is_available(),  # else Trainer refuses bf16, which CPUs do well
        torch_compile=options.compile,
        logging_steps=options.log_steps,
        # Asking whether a loss is finite waits for the device at every step; the monitor stops a dead run.
        logging_nan_inf_filter=False,
        save_steps=options.save_steps,
        save_total_limit=1,
        seed=options.seed,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        **loader,
    )


class LatentActionTrainer(DrawTrainer):
    """Trainer whose batches are uint8 frames and whose log holds every loss term and the held-out measures.

    `progress(step, logs)` is called at each log.
    """

    def __init__(
        self,
        model: LatentActionModel,
        processor: LatentActionProcessor,
        options: TrainingOptions,
        augmentation: AugmentationOptions,
        pairs: PairDataset,
        monitor: HeldOutMonitor,
        out: str | Path,
        progress: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        super().__init__(
            model=model,
            args=training_arguments(options, Path(out) / "checkpoints"),
            train_dataset=pairs,
            data_collator=PairDataset.whole,
        )
        self.model_accepts_loss_kwargs = False
        self.lam, self.pairs = model, pairs  # under their own types; `self.model` may be wrapped
        self.processor = processor
        self.augmentation, self.monitor, self.progress = augmentation, monitor, progress
        self.options = options
        self.flow: NormalFlow | None = None
        if options.flow_weight:
            steady, _ = self._pairs(pairs.batch(range(START_PAIRS)))
            self.flow = NormalFlow(model.config, *steady.unbind(1))
        self.watch = CollapseWatch(model.config.continuous_steps + options.grace_steps)
        self.log_lines = Path(out) / LOG_LINES
        self._terms: dict[str, Tensor] = {}
        self._terms_count = 0
        self.add_callback(CodebookSchedule(model, self.draw_latents))
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Augment, normalise, forward; the terms are summed on the device until the next log asks for them."""
        steady, seen = self._pairs(inputs["frames"])
        now, future = self._pixel_values(steady)
        views = None if seen is steady else self._pixel_values(seen)
        out = model(pixel_values=now, future_pixel_values=future, views=views)
        loss, terms = out.loss, {**out.losses, "perplexity": out.perplexity}
        if self.options.direction_weight:
            terms["direction"] = direction_loss(out.latents)
            loss = loss + self.options.direction_weight * terms["direction"]
        if self.flow is not None:
            terms["flow"] = self.flow.loss(out.latents, *self._both_ways(steady))
            loss = loss + self.options.flow_weight * terms["flow"]
        for name, value in terms.items():
            # The mean: with several GPUs in one process each gives a number of its own.
            self._terms[name] = self._terms.get(name, 0) + value.detach().mean()
        self._terms_count += 1
        return (loss, out) if return_outputs else loss

    def draw_latents(self, batches: int, step: int) -> Tensor:
        """z (B, N, D) of some batches of the training mixture, in training mode, drawn by seed and step alone."""
        size = self.args.per_device_train_batch_size
        numbers = CODEBOOK_DRAWS + (step * batches + np.arange(batches)[:, None]) * size + np.arange(size)
        latents = []
        self.lam.train()
        with torch.no_grad(), self._autocast():
            for batch in numbers:
                _, seen = self._pairs(self.pairs.batch(batch).to(self.args.device))
                z_BND = self.lam.encode(*self._pixel_values(seen)).latents
                assert z_BND is not None
                latents.append(z_BND.float())
        return torch.cat(latents)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss terms and the held-out measures; write a line; stop where z or the codebook is dead."""
        if "loss" in logs:
            logs |= {f"train_{name}": float(value / self._terms_count) for name, value in self._terms.items()}
            self._terms, self._terms_count = {}, 0
            logs |= self.monitor.measure(self.lam, self._autocast())
        super().log(logs, start_time)
        with self.log_lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.state.global_step, **logs}) + "\n")
        if self.progress is not None:
            self.progress(self.state.global_step, logs)
        if "heldout_spread" in logs:
            measured = {name: logs[f"heldout_{name}"] for name in ("spread", "perplexity")}
            self.watch.check(self.state.global_step, measured, codebook=not self.lam.bottleneck.continuous)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # Saved files carry the vision encoder's published tensor names; Trainer reads them as they are, finds half of
        # them missing, warns and goes on with random weights. `from_pretrained` knows both names.
        restored = LatentActionModel.from_pretrained(resume_from_checkpoint)
        self.lam.load_state_dict(restored.state_dict())

    def _pairs(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, 2, 3, S, S) -> what the decoder gets and is asked for, and what the inverse model sees, in 0..1."""
        # In float32 even under bf16: colours are exact to a 255th part only there.
        with torch.autocast(frames.device.type, enabled=False), torch.no_grad():
            pairs = augment_pairs(to_unit_range(frames), self.augmentation)
            steady = steady_pairs(pairs, self.processor)
            if not self.augmentation.view_shift and not self.augmentation.view_light:
                return steady, steady
            return steady, steady_pairs(own_views(pairs, self.augmentation), self.processor)

    def _pixel_values(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(pairs.device.type, enabled=False), torch.no_grad():
            return self._both_ways(
                torch.stack(normalise(pairs, self.processor.image_mean, self.processor.image_std), 1)
            )

    def _both_ways(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        now, future = pairs.unbind(1)
        return both_directions(now, future) if self.options.direction_weight else (now, future)

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16)
