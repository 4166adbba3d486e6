"""Training loops on transformers.Trainer: `IndexedTrainer` for all stages, `LatentActionTrainer` for stage 1."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from lara_tokenizer.errors import first_line, printable
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.model.matching import MatchingInverseModel
from lara_tokenizer.train.augment import Views, make_views, normalize, targets_of
from lara_tokenizer.train.codebook_schedule import CodebookSchedule
from lara_tokenizer.train.losses import NormalFlow
from lara_tokenizer.train.pairs import INIT_PAIRS, InfiniteSampler, PairDataset
from lara_tokenizer.train.recipe import AugmentationOptions, LoopOptions, TrainingOptions
from lara_tokenizer.train.targets.motion_targets import MotionTargets, weighted_sum
from lara_tokenizer.train.targets.start import START_PAIRS, initialize_latents
from lara_tokenizer.train.watch import CHECKPOINTS, LOG_LINES, Progress, ignore_progress
from lara_tokenizer.train.watch.monitor import CollapseMonitor, HeldOutMonitor, is_check
from lara_tokenizer.train.watch.plot import CURVES, draw_run
from lara_tokenizer.train.watch.trackers import tracker_arguments, tracker_callbacks

STEP_SECONDS = 0.2  # between two reports of the last loss: reading it waits for the device

CODEBOOK_SAMPLES = 2**40  # first sample index that is reserved for the codebook: no training goes that far


def loop_arguments(options: LoopOptions, out: str | Path, tracker: str | None, **others: Any) -> TrainingArguments:
    """`TrainingArguments` of a run in `out` from the options that all stages share; `others` are further keywords."""
    on_gpu = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(Path(out) / CHECKPOINTS),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        optim="adamw_torch_fused" if on_gpu else "adamw_torch",
        bf16=options.precision == "bf16",
        use_cpu=not torch.accelerator.is_available(),  # else Trainer refuses bf16, which CPUs support
        logging_steps=options.log_steps,
        # Testing whether a loss is finite synchronises with the device at every step; the monitor stops a dead run.
        logging_nan_inf_filter=False,
        save_steps=options.save_steps,
        save_total_limit=1,
        seed=options.seed,
        dataloader_num_workers=options.workers,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        disable_tqdm=True,
        **tracker_arguments(tracker, Path(out)),
        **others,
    )


def training_arguments(options: TrainingOptions, out: str | Path, tracker: str | None = None) -> TrainingArguments:
    """`TrainingArguments` of stage 1, of a run in `out`."""
    loader = {"dataloader_prefetch_factor": 4, "dataloader_persistent_workers": True} if options.workers else {}
    return loop_arguments(
        options, out, tracker, warmup_steps=options.warmup_steps, torch_compile=options.compile, **loader
    )


@contextmanager
def _damage_of(checkpoint: str | None, what: str) -> Iterator[None]:
    """Any error in the block as a ValueError that says what to do."""
    try:
        yield
    except Exception as error:
        reason = printable(first_line(error))[:200]
        raise ValueError(f"{checkpoint}: {what} is damaged ({reason}). Delete this folder, or start anew.") from error


class IndexedTrainer(Trainer):
    """Trainer on a dataset that returns whole batches for lists of sample indices.

    `train_dataset.frames` is a `FrameSource`, which decides how loader processes start. Subclasses set `progress`
    and `log_lines`.
    """

    log_lines: Path

    progress: Progress = staticmethod(ignore_progress)
    _reported = 0.0

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's loop. However it ends, the curves are drawn: those of a run that collapsed say most."""
        try:
            return super().train(*args, **kwargs)
        finally:
            if self.is_world_process_zero():
                draw_run(self.log_lines, self.log_lines.with_name(CURVES))

    def checks(self, options: LoopOptions, heldout: int) -> bool:
        """Whether the log of this step measures the held-out samples, see `is_check`."""
        return is_check(self.state.global_step, options.log_steps, options.batch_size, heldout, self.args.max_steps)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Trainer's step, and a report of the loss before it every now and then."""
        loss = super().training_step(*args, **kwargs)
        if time.monotonic() - self._reported >= STEP_SECONDS:
            self.progress("step", self.state.global_step + 1, self.args.max_steps, {"loss": float(loss)})
            self._reported = time.monotonic()
        return loss

    def compute_loss_context_manager(self) -> ExitStack:
        """Trainer's autocast and, on a CPU, plain attention: its backward pass takes 25 % less time than the fused."""
        stack = ExitStack()
        stack.enter_context(super().compute_loss_context_manager())
        if self._plain_attention():
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        return stack

    def _plain_attention(self) -> bool:
        return self.args.device.type == "cpu"

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: Trainer's estimate is for language models."""
        return 0

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's loader, its processes started by the method that the frame source needs."""
        loader = super().get_train_dataloader()
        start_method = self.train_dataset.frames.start_method  # type: ignore[union-attr]
        if loader.num_workers and start_method is not None:
            # accelerate's wrapper would keep the attribute to itself instead of passing it on.
            getattr(loader, "base_dataloader", loader).multiprocessing_context = start_method
        return loader

    # Both are pickles, which torch reads as plain data; damaged ones raise errors of many types.
    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _damage_of(checkpoint, "optimizer.pt or scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _damage_of(checkpoint, "the file of random states (rng_state*.pth)"):
            super()._load_rng_state(checkpoint)

    def _get_train_sampler(self, train_dataset: Any = None) -> InfiniteSampler:
        # One epoch is the whole run, so that a restart finds its position by counting batches.
        samples = self.args.max_steps * self.args.train_batch_size * self.args.world_size
        return InfiniteSampler(samples * self.args.gradient_accumulation_steps)


class LatentActionTrainer(IndexedTrainer):
    """Trainer of a latent action model; its log contains every loss term and the held-out measures.

    Args:
        model: on any device; trained in place.
        processor: the model's; its global motion compensation and normalization are applied to batches.
        options: of the loop.
        augmentation: of the batches.
        pairs: training pairs.
        monitor: measures held-out pairs at each log.
        out: folder of the log and of checkpoints/.
        targets: of the motion map, for `target_weight`.
        progress: called with "step" and "steps", see `Progress`.
        tracker: one of `TRACKERS`.
        first_step: the step that the run starts at, above 0 where it resumes.
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
        targets: MotionTargets | None = None,
        progress: Progress = ignore_progress,
        tracker: str | None = None,
        first_step: int = 0,
    ) -> None:
        super().__init__(
            model=model,
            args=training_arguments(options, out, tracker),
            train_dataset=pairs,
            data_collator=PairDataset.collate,
            callbacks=tracker_callbacks(tracker, Path(out), first_step),
        )
        self.model_accepts_loss_kwargs = False
        # Under their own types: `self.model` may be wrapped.
        self.lam = model
        self.pairs = pairs
        self.processor = processor
        self.options = options
        self.augmentation = augmentation
        self.monitor = monitor
        self.progress = progress
        self.targets = targets
        self.flow: NormalFlow | None = None
        if options.flow_weight:
            first = self._augment(pairs.batch(range(INIT_PAIRS))).decoder
            self.flow = NormalFlow(model.config, *first.unbind(1))
        self.collapse_monitor = CollapseMonitor(model.config.continuous_steps + options.grace_steps)
        self.log_lines = Path(out) / LOG_LINES
        self._terms: dict[str, Tensor] = {}
        self._terms_count = 0
        self.add_callback(CodebookSchedule(model, self.draw_latents, self.start_latents))
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Loss of an augmented batch; its terms are summed on the device until the next log."""
        decoder_pair, encoder_pair, targets = self._views(inputs)
        now, future = self._pixel_values(decoder_pair)
        views = self._pixel_values(encoder_pair) if self.augmentation.has_views else None
        detached = {"detach_latents": True} if self.options.detach_latents else {}
        out = model(pixel_values=now, future_pixel_values=future, views=views, **detached)
        loss = out.loss
        terms = {**out.losses, "perplexity": out.perplexity}
        if self.flow is not None:
            terms["flow"] = self.flow.loss(out.latents, *decoder_pair.unbind(1))
            loss = loss + self.options.flow_weight * terms["flow"]
        if self.targets is not None and targets is not None:
            losses = self.targets.losses(out.motion_map, targets)
            loss = loss + self.options.target_weight * weighted_sum(losses)
            terms |= {f"target_{name}": value for name, value in losses.items()}
        for name, value in terms.items():
            # The mean, since DataParallel returns one value per GPU.
            self._terms[name] = self._terms.get(name, 0) + value.detach().mean()
        self._terms_count += 1
        return (loss, out) if return_outputs else loss

    def draw_latents(self, batches: int, step: int) -> Tensor:
        """Latents z (B, N, D) of some training batches, in training mode; the choice depends on seed and step alone."""

        def latents_of(now: Tensor, future: Tensor) -> Tensor:
            z_BND = self.lam.encode(now, future).latents
            assert z_BND is not None
            return z_BND

        return self._draw(latents_of, batches, step)

    def start_latents(self, step: int) -> None:
        """Set z to the principal components of the motion maps, as they are when the codebook is about to start."""
        inverse = self.lam.inverse_dynamics
        if self.targets is None:
            return
        assert isinstance(inverse, MatchingInverseModel)  # see `check_targets`

        def maps_of(now: Tensor, future: Tensor) -> Tensor:
            return inverse.motion_map(*self.lam.get_frame_features(torch.cat([now, future])).chunk(2))

        batches = -(-START_PAIRS // self.args.per_device_train_batch_size)
        initialize_latents(self.lam, self._draw(maps_of, batches, step), self.targets.groups)

    def _draw(self, function: Callable[[Tensor, Tensor], Tensor], batches: int, step: int) -> Tensor:
        """float32 results of `function` on the pixel values of some training batches."""
        size = self.args.per_device_train_batch_size
        indices = CODEBOOK_SAMPLES + (step * batches + np.arange(batches)[:, None]) * size + np.arange(size)
        results = []
        self.lam.train()
        with torch.no_grad(), self._autocast():
            for batch in indices:
                encoder_pair = self._augment(self.pairs.batch(batch).to(self.args.device)).encoder
                results.append(function(*self._pixel_values(encoder_pair)).float())
        return torch.cat(results)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add loss terms and held-out measures, write a line of the log, and stop if z or the codebook collapsed."""
        if "loss" in logs:
            logs |= {f"train_{name}": float(value / self._terms_count) for name, value in self._terms.items()}
            self._terms = {}
            self._terms_count = 0
            if self.checks(self.options, self.options.heldout_pairs):
                logs |= self.monitor.measure(self.lam, self._autocast())
        super().log(logs, start_time)
        with self.log_lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.state.global_step, **logs}) + "\n")
        self.progress("steps", self.state.global_step, self.args.max_steps, logs)
        if "heldout_spread" in logs:
            measured = {name: logs[f"heldout_{name}"] for name in ("spread", "perplexity")}
            in_use = not self.lam.bottleneck.continuous
            self.collapse_monitor.check(self.state.global_step, measured, codebook=in_use)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # Saved files carry the vision encoder's published tensor names. Trainer would read them literally, find half of
        # them missing, warn and continue with random weights; `from_pretrained` maps both names.
        restored = LatentActionModel.from_pretrained(resume_from_checkpoint)
        self.lam.load_state_dict(restored.state_dict())

    def _views(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Decoder pairs, encoder pairs and targets of a batch; loader processes may have made them (LoadedViews)."""
        if "views" in inputs:
            return inputs["frames"], inputs["views"], inputs.get("targets")
        views = self._augment(inputs["frames"])
        if self.targets is None:
            return views.decoder, views.encoder, None
        targets = targets_of(views, inputs.get("features"), self.targets)
        return views.decoder, views.encoder, targets.to(self.args.device)

    def _augment(self, frames: Tensor) -> Views:
        """Views of pairs, uint8 (B, 2, 3, S, S)."""
        # In float32 even under bf16, which cannot represent 255 steps of colour.
        with torch.autocast(frames.device.type, enabled=False), torch.no_grad():
            return make_views(frames, self.augmentation, self.processor)

    def _pixel_values(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(pairs.device.type, enabled=False), torch.no_grad():
            # Recolouring leaves other strides; with one layout kernels sum in one order.
            return normalize(pairs.contiguous(), self.processor.image_mean, self.processor.image_std)

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16)
