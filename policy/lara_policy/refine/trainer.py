"""The loop of stages 2 and 3: transformers.Trainer with our samples, our loss, our log."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.utils import cached_file

from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy
from lara_policy.refine.model import LaraModel
from lara_policy.refine.monitor import CollapseMonitor, JointMonitor, is_ready
from lara_policy.refine.recipe import RefineOptions
from lara_tokenizer.model import LatentActionModel
from lara_tokenizer.train.draw_trainer import DrawTrainer
from lara_tokenizer.train.pairs import PairDataset

logger = logging.getLogger(__name__)

LOG_LINES = "training_log.jsonl"
POLICY, TOKENIZER = "policy", "tokenizer"
ALIGNMENT = "alignment.safetensors"  # the projector, beside the policy's weights
STATE = "refine_state.json"


def training_arguments(options: RefineOptions, folder: str | Path) -> TrainingArguments:
    """The recipe's numbers in Trainer's words; checkpoints go to `folder`. One GPU a process: several need torchrun."""
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=round(options.warmup_share * options.steps),
        lr_scheduler_type="cosine",
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        optim="adamw_torch_fused" if on_gpu else "adamw_torch",
        bf16=options.precision == "bf16",
        use_cpu=not torch.accelerator.is_available(),
        logging_steps=options.log_steps,
        logging_nan_inf_filter=False,
        save_steps=options.save_steps,
        save_total_limit=1,
        seed=options.seed,
        dataloader_num_workers=options.workers,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        ddp_find_unused_parameters=True,  # a batch may hold no pair, a mode may leave parts out
        report_to=[],
        disable_tqdm=True,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # else Trainer would spread a batch over all by DataParallel
    return arguments


class LaraTrainer(DrawTrainer):
    """Trainer of a `LaraModel`. `progress(step, logs)` is called at each log.

    What is random in a step depends on the seed and the step alone, so that a killed run goes on to the same weights.
    """

    def __init__(
        self,
        model: LaraModel,
        arguments: TrainingArguments,
        options: RefineOptions,
        samples: Any,
        out: str | Path,
        *,
        monitor: JointMonitor,
        unlabeled: Callable[[int], dict[str, Any]] | None = None,
        progress: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        self.lara, self.options = model, options
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=samples,
            data_collator=PairDataset.whole,
        )
        self.model_accepts_loss_kwargs = False
        self.monitor = monitor
        self.watch: CollapseMonitor | None = None  # set once the start is measured, on this trainer's device
        self.unlabeled, self.progress = unlabeled, progress
        self.log_lines = Path(out) / LOG_LINES
        self._terms: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self.add_callback(StepKeeper(model, options.seed))
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """AdamW with a learning rate of its own for the tokenizer, and no decay of biases and norms."""
        if self.optimizer is None:
            cls, keywords = self.get_optimizer_cls_and_kwargs(self.args)
            rate = self.options.lam_learning_rate or self.options.learning_rate
            self.optimizer = cls(parameter_groups(self.lara, rate, self.options.weight_decay), **keywords)
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Eq. 7; the parts are summed on the device until the next log asks for them."""
        if self.unlabeled is not None:
            inputs = {**inputs, **_to(self.unlabeled(self._draw()), self.args.device)}
        out = model(**inputs)
        for name, value in {**out.losses, **out.monitors}.items():
            self._terms[name] = self._terms.get(name, 0) + value.detach()
            self._counts[name] = self._counts.get(name, 0) + 1
        return (out.loss, out) if return_outputs else out.loss

    def _draw(self) -> int:
        """Which batch of unlabeled pairs: one of its own for every step and process."""
        return self.state.global_step * self.args.world_size + self.args.process_index

    def _plain_attention(self) -> bool:
        # Checkpointing computes again in the backward pass, out of that context's reach, and must find the same kernel.
        return super()._plain_attention() and not self.options.gradient_checkpointing

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss, of this process's share, and the held-out measures; write a line; stop where the
        tokenizer collapses."""
        measured: dict[str, float] = {}
        if "loss" in logs:
            logs |= {f"train_{name}": float(value / self._counts[name]) for name, value in self._terms.items()}
            self._terms, self._counts = {}, {}
            measured = self.monitor.measure(self.lara, self.args.bf16)
            logs |= {f"heldout_{name}": value for name, value in measured.items()}
        super().log(logs, start_time)
        if self.is_world_process_zero():
            with self.log_lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(finite({"step": self.state.global_step, **logs})) + "\n")
            if self.progress is not None:
                self.progress(self.state.global_step, logs)
        if measured and self.watch is not None:
            assert self.lara.lam is not None
            ready = is_ready(measured, self.lara.lam.config.codebook_size)
            self.lara.detach_latents = self.lara.detach_latents and not ready
            self.watch.check(self.state.global_step, measured)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        save_parts(self.lara, folder)
        state = {"detach_latents": self.lara.detach_latents, "watch": self.watch.state() if self.watch else None}
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
        torch.save(self.args, folder / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        load_parts(self.lara, folder)
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.lara.detach_latents = state["detach_latents"]
        if self.watch is not None and state["watch"] is not None:
            self.watch.restore(state["watch"])


class StepKeeper(TrainerCallback):
    """Tells the model the step, and seeds torch by it: dropout of a step is the same whether the run came there in one
    go or was resumed."""

    def __init__(self, model: LaraModel, seed: int) -> None:
        self.model, self.seed = model, seed

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.model.step = state.global_step
        torch.manual_seed((self.seed * 2**20 + state.global_step) * args.world_size + args.process_index)


def parameter_groups(model: LaraModel, lam_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """Four groups: policy and projector, tokenizer; each with decay for matrices and without for the rest."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("lam."), parameter.ndim >= 2 and not name.endswith("bias")), []).append(
                parameter
            )
    return [
        {"params": parameters, "weight_decay": weight_decay * decayed, **({"lr": lam_rate} if is_lam else {})}
        for (is_lam, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def save_parts(model: LaraModel, folder: Path) -> None:
    """A checkpoint: policy, tokenizer and projector, each as it is, the tokenizer's training state included."""
    model.policy.save_pretrained(folder / POLICY)
    if model.lam is not None and model.alignment is not None:
        model.lam.save_pretrained(folder / TOKENIZER)
        save_file(model.alignment.state_dict(), folder / POLICY / ALIGNMENT)


def load_parts(model: LaraModel, folder: Path) -> None:
    """What `save_parts` wrote, into a model of the same shape."""
    model.policy.load_state_dict(FlowMatchingPolicy.from_pretrained(folder / POLICY).state_dict())
    if model.lam is not None and model.alignment is not None:
        model.lam.load_state_dict(LatentActionModel.from_pretrained(folder / TOKENIZER).state_dict())
        model.alignment.load_state_dict(load_file(folder / POLICY / ALIGNMENT))


def load_projector(model: LaraModel, policy: str | Path) -> None:
    """Go on with the projector of a policy's own training, where it has one for a z of this shape."""
    file = cached_file(policy, ALIGNMENT, _raise_exceptions_for_missing_entries=False)
    if file is None or model.alignment is None:
        return
    trained, fresh = load_file(file), model.alignment.state_dict()
    if {name: value.shape for name, value in trained.items()} != {name: value.shape for name, value in fresh.items()}:
        logger.warning("%s: its projector is for another z or of another kind; a fresh one is trained.", policy)
        return
    model.alignment.load_state_dict(trained)


def finite(values: Any) -> Any:
    """NaN and infinity as null: JSON has no word for them."""
    if isinstance(values, dict):
        return {name: finite(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _to(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
