"""The training loop of stages 2 and 3: a transformers.Trainer for `LaraModel`, with its log and checkpoints."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.utils import cached_file

from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy
from lara_policy.refine.model import LaraModel
from lara_policy.refine.monitor import JointCollapseMonitor, JointMonitor, is_ready
from lara_policy.refine.recipe import RefineOptions
from lara_tokenizer._parse import read_json_object, safetensors_header
from lara_tokenizer.errors import first_line
from lara_tokenizer.model import LatentActionModel
from lara_tokenizer.train.pairs import PairDataset
from lara_tokenizer.train.trainer import IndexedTrainer, loop_arguments
from lara_tokenizer.train.watch import LOG_LINES, Progress, ignore_progress

logger = logging.getLogger(__name__)

POLICY, TOKENIZER = "policy", "tokenizer"
ALIGNMENT = "alignment.safetensors"  # the projector, beside the policy's weights
STATE = "refine_state.json"


def training_arguments(options: RefineOptions, out: str | Path, tracker: str | None = None) -> TrainingArguments:
    """The recipe's options as TrainingArguments of a run in `out`. One GPU per process (torchrun)."""
    arguments = loop_arguments(
        options,
        out,
        tracker,
        warmup_steps=round(options.warmup_share * options.steps),
        ddp_find_unused_parameters=True,  # a mode may leave modules out
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # else Trainer would spread a batch over all by DataParallel
    return arguments


class LaraTrainer(IndexedTrainer):
    """Trainer of a `LaraModel`, in stages 2 and 3.

    Random numbers of a step depend only on the seed and the step, so that a resumed run ends with the same weights.
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
        progress: Progress = ignore_progress,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.lara = model
        self.options = options
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=samples,
            data_collator=PairDataset.collate,
            callbacks=callbacks,
        )
        self.model_accepts_loss_kwargs = False  # LaraModel takes no num_items_in_batch
        self.monitor = monitor
        self.collapse_monitor: JointCollapseMonitor | None = (
            None  # set once the start is measured, on this trainer's device
        )
        self.progress = progress
        self.log_lines = Path(out) / LOG_LINES
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self.add_callback(StepCallback(model, options.seed))
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """AdamW with a learning rate of its own for the tokenizer, and no weight decay of biases and norms."""
        if self.optimizer is None:
            cls, keywords = self.get_optimizer_cls_and_kwargs(self.args)
            rate = self.options.lam_learning_rate or self.options.learning_rate
            self.optimizer = cls(parameter_groups(self.lara, rate, self.options.weight_decay), **keywords)
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of Eq. 7; its terms are summed on the device until the next log."""
        out = model(**inputs)
        # Not `.item()`: it would wait for the device at every step.
        for name, value in {**out.losses, **out.monitors}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
            self._counts[name] = self._counts.get(name, 0) + 1
        return (out.loss, out) if return_outputs else out.loss

    def _plain_attention(self) -> bool:
        # Checkpointing recomputes in the backward pass, outside that context, and needs the same attention kernel.
        return super()._plain_attention() and not self.options.gradient_checkpointing

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add this process's mean loss terms and the held-out metrics, write a line, and check for a collapse."""
        measured: dict[str, float] = {}
        if "loss" in logs:
            logs |= {f"train_{name}": float(value / self._counts[name]) for name, value in self._sums.items()}
            self._sums, self._counts = {}, {}
            if self.checks(self.options, self.options.heldout_samples):
                measured = self.monitor.measure(self.lara, self.args.bf16)
            logs |= {f"heldout_{name}": value for name, value in measured.items()}
        super().log(logs, start_time)
        if self.is_world_process_zero():
            with self.log_lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(json_safe({"step": self.state.global_step, **logs})) + "\n")
            self.progress("steps", self.state.global_step, self.args.max_steps, logs)
        # After the log line, so that it contains the metrics that stop the run.
        if measured and self.collapse_monitor is not None:
            assert self.lara.lam is not None
            ready = is_ready(measured, self.lara.lam.config.codebook_size)
            self.lara.detach_latents = self.lara.detach_latents and not ready
            self.collapse_monitor.check(self.state.global_step, measured)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        save_parts(self.lara, folder)
        state = {
            "detach_latents": self.lara.detach_latents,
            "watch": self.collapse_monitor.state() if self.collapse_monitor else None,
        }
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
        torch.save(self.args, folder / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        load_parts(self.lara, folder)
        state = read_json_object(folder / STATE)
        try:
            self.lara.detach_latents = bool(state["detach_latents"])
            if self.collapse_monitor is not None and state["watch"] is not None:
                self.collapse_monitor.restore(state["watch"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{folder / STATE} is damaged ({first_line(error)}). Delete {folder.name}.") from error


class StepCallback(TrainerCallback):
    """Passes the step to the model and seeds torch by it: a resumed run draws the same dropout masks."""

    def __init__(self, model: LaraModel, seed: int) -> None:
        self.model = model
        self.seed = seed

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.model.step = state.global_step
        torch.manual_seed((self.seed * 2**20 + state.global_step) * args.world_size + args.process_index)


def parameter_groups(model: LaraModel, lam_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """Four groups: policy with projector, and tokenizer; each with weight decay for matrices and without for others."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("lam."), parameter.ndim >= 2 and not name.endswith("bias"))
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay * decayed, **({"lr": lam_rate} if is_lam else {})}
        for (is_lam, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def save_parts(model: LaraModel, folder: Path) -> None:
    """Write policy, tokenizer (with its training state) and projector."""
    model.policy.save_pretrained(folder / POLICY)
    if model.lam is not None and model.alignment is not None:
        model.lam.save_pretrained(folder / TOKENIZER)
        save_file(model.alignment.state_dict(), folder / POLICY / ALIGNMENT)


def load_parts(model: LaraModel, folder: Path) -> None:
    """Load the result of `save_parts` into a model of the same shape."""
    model.policy.load_state_dict(FlowMatchingPolicy.from_pretrained(folder / POLICY).state_dict())
    if model.lam is not None and model.alignment is not None:
        model.lam.load_state_dict(LatentActionModel.from_pretrained(folder / TOKENIZER).state_dict())
        model.alignment.load_state_dict(_read_alignment(folder / POLICY / ALIGNMENT))


def load_projector(model: LaraModel, policy: str | Path) -> None:
    """Load the projector saved with a policy, if it has one for a z of this shape."""
    file = cached_file(policy, ALIGNMENT, _raise_exceptions_for_missing_entries=False)
    if file is None or model.alignment is None:
        return
    trained, fresh = _read_alignment(Path(file)), model.alignment.state_dict()
    if {name: value.shape for name, value in trained.items()} != {name: value.shape for name, value in fresh.items()}:
        logger.warning("%s: its projector is for another z or of another type; a fresh one is trained.", policy)
        return
    model.alignment.load_state_dict(trained)


def _read_alignment(file: Path) -> dict[str, Any]:
    """The tensors of a projector. Raises ValueError for a damaged file."""
    safetensors_header(file)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({first_line(error)}). Take it as it was saved.") from error


def json_safe(values: Any) -> Any:
    """Nested values with NaN and infinity replaced by None, which JSON can hold."""
    if isinstance(values, dict):
        return {name: json_safe(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [json_safe(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
