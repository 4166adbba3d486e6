"""`refine`: joint training of tokenizer and policy (stages 2 and 3). `pretrain`: policies from pseudo-labels."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from transformers import set_seed

from lara_policy.configuration_flow_matching_policy import FlowMatchingPolicyConfig
from lara_policy.embodiment import Embodiment
from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy, parameter_counts
from lara_policy.refine.dataset import UnlabeledPairs
from lara_policy.refine.loading import LoadedBatch
from lara_policy.refine.monitor import JointCollapseMonitor, JointMonitor, is_ready
from lara_policy.refine.recipe import RefineRecipe
from lara_policy.refine.setup import RefineSetup, build_model, policy_config, set_up
from lara_tokenizer.checkpoint import read_config
from lara_tokenizer.data import Episode, LoadOptions, load_episodes
from lara_tokenizer.errors import missing_extra
from lara_tokenizer.train.train import (
    as_episodes,
    find_checkpoint,
    keep_log_until,
    open_frames,
    sources_of,
    step_of,
)
from lara_tokenizer.train.watch import CHECKPOINTS, LOG_LINES, Progress, ignore_progress
from lara_tokenizer.train.watch.trackers import check_tracker, tracker_callbacks
from lara_tokenizer.verdict.heldout import heldout_verdict

if TYPE_CHECKING:
    from lara_policy.refine.trainer import LaraTrainer
    from lara_tokenizer.model import LatentActionConfig

logger = logging.getLogger(__name__)

RESULT = "training_log.json"  # written last: its presence marks a finished run
PRETRAINED, POLICY = "pretrained", "policy"

Source = str | Path | Sequence[str | Path] | Sequence[Episode] | None


def refine(
    source: Source,
    recipe: RefineRecipe,
    *,
    out: str | Path,
    policy: str | Path | None = None,
    tokens: str | Path | None = None,
    frames: str | Path | None = None,
    resume: bool = False,
    stop: bool = True,
    progress: Progress = ignore_progress,
    tracker: str | None = None,
    **load: Unpack[LoadOptions],
) -> dict[str, Any]:
    """Train tokenizer and policy together by Eq. 7 and write both to `out`.

    `out` gets policy/ (for `FlowMatchingPolicy.from_pretrained`, with the projector for stage 3), tokenizer/ (a
    checkpoint with refined_by.json; none in mode "dit-only"), training_log.json, training_log.jsonl, curves.png and
    checkpoints/.

    Args:
        source: labelled episodes, or anything that `load_episodes` takes, with every camera that the policy is to see;
            None for the recipe's sources.
        recipe: all settings of the run.
        policy: folder or Hub id of a policy to continue from (stage 3); it keeps its sizes, and unknown robots and
            tasks get fresh weights. None starts a fresh one (stage 2).
        tokens: a table that `lara-tok encode` wrote for these episodes: the policy also learns to predict its codes
            from frame t and the task, by cross-entropy; in mode "codes" only that, from episodes with and without
            actions.
        frames: folder of decoded frames, which runs may share; default out/frames.
        resume: continue from the last checkpoint in `out`.
        stop: stop if the tokenizer collapses; False logs a warning instead.
        progress: told how far the run is, see `Progress`.
        tracker: "tensorboard" (events in out/tensorboard), "trackio" or "wandb".
        load: keywords of `load_episodes`.

    Returns:
        Counts of steps, episodes, frames and parameters; `start` and heldout_...: held-out metrics before and after.

    Raises:
        JointCollapseError: the tokenizer collapsed. The log and its curves are kept.
        ValueError: an unusable source, recipe or folder; actions that are NaN or wider than the policy's.
    """
    check_tracker(tracker)
    if find_spec("accelerate") is None:
        raise missing_extra("training", "train")
    # Late: transformers requires accelerate for TrainingArguments.
    from lara_policy.refine.trainer import LaraTrainer, load_projector, training_arguments

    out, training = Path(out), recipe.training
    frames = Path(frames or out / "frames")
    checkpoint = find_checkpoint(out, resume, RESULT)
    set_seed(training.seed)
    episodes = as_episodes(recipe.sources if source is None else source, load)
    recipe = replace(recipe, sources=sources_of(source, episodes, recipe.sources))
    arguments = training_arguments(training, out, tracker)
    with arguments.main_process_first():  # the other processes find the frames decoded
        setup = set_up(episodes, recipe, frames, policy_from=policy, tokens=tokens, progress=progress)
        model = build_model(setup, recipe)
        unlabeled = _unlabeled_pairs(recipe, setup, frames, progress)
    # On a CPU loader processes do what a GPU does faster itself.
    in_loader = training.workers and not torch.accelerator.is_available()
    processor = setup.processor if in_loader else None
    setup.samples.prepare = LoadedBatch(training.batch_size, training.shift, processor, unlabeled)
    if policy is not None:
        load_projector(model, policy)
    out.mkdir(parents=True, exist_ok=True)
    keep_log_until(out / LOG_LINES, checkpoint)
    monitor = JointMonitor(setup.heldout.batch(range(training.heldout_samples)), model, training.gradient_cosine)
    is_first = arguments.process_index == 0
    trainer = LaraTrainer(
        model,
        arguments,
        training,
        setup.samples,
        out,
        monitor=monitor,
        progress=progress if is_first else ignore_progress,
        callbacks=tracker_callbacks(tracker, out, step_of(checkpoint)) if is_first else None,
    )
    # Only now: the trainer has moved the model to its device.
    start = monitor.measure(model, arguments.bf16)
    _watch_tokenizer(trainer, recipe, start, stop)
    if training.gradient_checkpointing:
        model.policy.gradient_checkpointing_enable({"use_reentrant": False})
    trainer.train(resume_from_checkpoint=checkpoint)
    measured = {f"heldout_{name}": value for name, value in monitor.measure(model, arguments.bf16).items()}
    summary = {"steps": trainer.state.global_step, **_describe(setup), "start": start, **measured}
    if model.lam is not None:
        verdict = heldout_verdict(measured, model.lam.config.codebook_size)
        summary |= {"verdict": verdict.grade, "reason": verdict.reason}
    if trainer.is_world_process_zero():
        _save(trainer, recipe, out, setup.refined_from, summary)
    trainer.accelerator.wait_for_everyone()
    return summary


def pretrain(
    tokens: str | Path,
    source: Source,
    recipe: RefineRecipe,
    *,
    out: str | Path,
    policy: str | Path | None = None,
    frames: str | Path | None = None,
    resume: bool = False,
    progress: Progress = ignore_progress,
    tracker: str | None = None,
    **load: Unpack[LoadOptions],
) -> dict[str, Any]:
    """Train a policy from pseudo-labels, as LAPA and Moto-GPT do (Table 3): codes first, then actions.

    Phase 1: cross-entropy over the codes of every episode in the table, from frame t and the task, for
    `pretrain_steps`; written to out/pretrained/policy. Phase 2: that loss and the action loss, on the episodes with
    actions (if there are any), written as by `refine` in mode "dit-only".

    `tokens` was written by `lara-tok encode` from `source`; to compare tokenizers, give one table of each. Other
    arguments, results and errors are those of `refine`. A finished phase 1 is not repeated.
    """
    out = Path(out)
    episodes = as_episodes(recipe.sources if source is None else source, load)
    shared: dict[str, Any] = {"tokens": tokens, "frames": frames or out / "frames", "progress": progress}
    shared["tracker"] = tracker
    first = out / PRETRAINED
    summary: dict[str, Any] = {}
    if not (first / RESULT).exists():
        codes = recipe.override(mode="codes", steps=recipe.training.pretrain_steps or None)
        begun = resume and (first / CHECKPOINTS).is_dir()
        summary = refine(episodes, codes, out=first, policy=policy, resume=begun, **shared)
    # Without any action phase 2 has nothing to train on.
    if not any("actions" in episode.available_signals for episode in episodes):
        return summary
    begun = resume and (out / CHECKPOINTS).is_dir()
    return refine(episodes, recipe.override(mode="dit-only"), out=out, policy=first / POLICY, resume=begun, **shared)


def plan_refinement(recipe: RefineRecipe) -> dict[str, Any]:
    """The size of a run, computed on the meta device: no weights, no data, no download (but the tokenizer's config).

    >>> plan_refinement(RefineRecipe.load("paper_pretrain.yaml"))["samples"]  # doctest: +SKIP
    76800000
    """
    config, training = policy_config(recipe), recipe.training
    robot = Embodiment(
        "one", ("camera",), {}, 10.0, action_mean=[0] * 7, action_std=[1] * 7, state_mean=[], state_std=[]
    )
    values = {**config.to_dict(), "embodiments": [robot.to_dict()]}
    if config.context == "frames":
        values["vision_config"] = _tokenizer_config(recipe.tokenizer).vision_config
    with torch.device("meta"):
        policy = FlowMatchingPolicy(FlowMatchingPolicyConfig(**values))
    policy.freeze()
    counts = parameter_counts(policy)
    return {
        "mode": recipe.mode,
        "tokenizer": recipe.tokenizer,
        "w1": recipe.alignment.w1,
        "w2": recipe.alignment.w2,
        "layer": recipe.layer,
        "horizon": config.horizon,
        "steps": training.steps,
        "batch_size": training.batch_size,
        "samples": training.steps * training.batch_size,
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "policy_trainable_parameters": counts["trainable"],
        "parameters_of_each_embodiment": counts["state_encoder"] + counts["action_encoder"] + counts["action_decoder"],
    }


def _tokenizer_config(name: str) -> LatentActionConfig:
    """The config of a tokenizer alone. Raises ValueError for a damaged one, and for a model of another family."""
    from lara_tokenizer.model import LatentActionConfig, resolve_checkpoint

    folder = Path(resolve_checkpoint(name))
    if not folder.is_dir():
        return LatentActionConfig.from_pretrained(name)
    return read_config(folder, LatentActionConfig, (LatentActionConfig.model_type,), "Only this family is refined.")


def _unlabeled_pairs(
    recipe: RefineRecipe, setup: RefineSetup, frames: Path, progress: Progress
) -> UnlabeledPairs | None:
    """Pairs of the recipe's unlabeled sources, at the stride of the labelled ones."""
    size = recipe.training.unlabeled_batch
    if not size:
        return None
    episodes = load_episodes(recipe.unlabeled, cameras=recipe.lam_camera or ())
    source = open_frames(episodes, setup.processor, recipe.training, frames / "unlabeled", progress)
    setup.policy.add_tasks([""])  # the vector of instructions that the policy was not built with
    tasks, seed = setup.policy.config.tasks, recipe.training.seed
    return UnlabeledPairs(source, episodes, [setup.stride], tasks, size, seed)


def _watch_tokenizer(trainer: LaraTrainer, recipe: RefineRecipe, start: dict[str, float], stop: bool) -> None:
    """Detect a collapse of a tokenizer that is trained; detach z from the alignment until it has converged."""
    model = trainer.lara
    if model.lam is None or recipe.mode == "frozen-lam":
        return
    trainer.collapse_monitor = JointCollapseMonitor(start, stop)
    if not is_ready(start, model.lam.config.codebook_size):
        model.detach_latents = True
        logger.warning(
            "the tokenizer has not converged (gain over copying %.2f, perplexity %.1f): until it has, no gradient of "
            "the alignment reaches it.",
            start["gain_over_copying"],
            start["perplexity"],
        )


def _describe(setup: RefineSetup) -> dict[str, int]:
    """Counts of a run's data and of the policy's parameters."""
    counts = parameter_counts(setup.policy)
    return {
        "episodes": len(setup.demonstrations),
        "heldout_episodes": setup.heldout_episodes,
        "frames": len(setup.samples),
        "policy_trainable": counts["trainable"],
        "policy_frozen": counts["frozen"],
    }


def _save(
    trainer: LaraTrainer, recipe: RefineRecipe, out: Path, refined_from: dict[str, Any], summary: dict[str, Any]
) -> None:
    """Write policy and tokenizer in float32, and last the log, which marks the run as finished."""
    from lara_policy.refine.trainer import TOKENIZER, json_safe, save_parts

    model = trainer.lara
    model.eval().float()
    save_parts(model, out)
    if model.lam is not None:
        model.processor.save_pretrained(out / TOKENIZER)
        refined = {"refined_from": refined_from, "recipe": recipe.to_dict(), "steps": summary["steps"]}
        (out / TOKENIZER / "refined_by.json").write_text(json.dumps(refined, indent=2) + "\n", encoding="utf-8")
    log = {"recipe": recipe.to_dict(), "summary": summary, "history": trainer.state.log_history}
    (out / RESULT).write_text(json.dumps(json_safe(log), indent=2) + "\n", encoding="utf-8")
