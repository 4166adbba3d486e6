"""From demonstrations, a tokenizer and a recipe to a refined tokenizer and a policy (stages 2 and 3)."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Unpack

import torch
from safetensors.torch import save_file
from transformers import set_seed

from lara_policy.configuration_flow_matching_policy import FlowMatchingPolicyConfig
from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy, parameter_counts
from lara_policy.refine.joint import LaraModel
from lara_policy.refine.monitor import JointMonitor
from lara_policy.refine.prepare import build_model, frame_source, policy_config, prepare
from lara_policy.refine.recipe import RefineRecipe
from lara_policy.refine.unlabeled import UnlabeledPairs
from lara_policy.refine.watch import RefineWatch
from lara_tokenizer.data import Episode, LoadOptions, load_episodes
from lara_tokenizer.errors import missing_extra
from lara_tokenizer.train.run_folder import find_checkpoint, keep_log_until

logger = logging.getLogger(__name__)


def refine(
    source: str | Path | Sequence[str | Path] | Sequence[Episode] | None,
    recipe: RefineRecipe,
    *,
    out: str | Path,
    policy: str | Path | None = None,
    tokens: str | Path | None = None,
    frames: str | Path | None = None,
    resume: bool = False,
    stop: bool = True,
    progress: Callable[[str, int, int, dict[str, float]], None] | None = None,
    **load: Unpack[LoadOptions],
) -> dict[str, Any]:
    """Train tokenizer and policy together by Eq. 7, and leave both in `out`.

    `out` holds policy/ (for `FlowMatchingPolicy.from_pretrained`), tokenizer/ (loads like any other; refined_by.json
    says what refined it; none in mode "dit-only"), alignment.safetensors (the projector), training_log.json,
    training_log.jsonl and checkpoints/.

    Args:
        source: labelled episodes, or whatever `load_episodes` takes, with every camera that the policy is to see; None
            for the recipe's sources.
        policy: folder or Hub id of a policy to go on from (stage 3); it keeps its sizes, and a robot or task that it
            does not know gets fresh weights. None starts one afresh (stage 2).
        tokens: a table that `lara-tok encode` wrote of these episodes: the policy also learns to tell its codes from
            frame t and the task, by cross-entropy; in mode "codes" that alone, from episodes with and without actions.
        frames: folder of decoded frames, which runs may share; default out/frames.
        resume: go on from the last checkpoint in `out`.
        stop: stop where the tokenizer collapses; with False a warning is all.
        progress: `progress(phase, done, total, logs)`, as in stage 1.
        load: keywords of `load_episodes`.

    Raises:
        JointCollapseError: The tokenizer collapsed.
        ValueError: A source, recipe or folder that cannot be used; actions wider than the policy's, or NaN in them.
    """
    if find_spec("accelerate") is None:
        raise missing_extra("training", "train")
    from lara_policy.refine.trainer import LaraTrainer  # late: transformers wants accelerate for its arguments

    out = Path(out)
    checkpoint = find_checkpoint(out, resume, "policy")
    set_seed(recipe.training.seed)
    source = recipe.sources if source is None else source
    data = prepare(source, recipe, policy, tokens, frames or out / "frames", load, progress)
    model = build_model(data, recipe)
    out.mkdir(parents=True, exist_ok=True)
    keep_log_until(out / "training_log.jsonl", checkpoint)
    monitor = JointMonitor(
        data.heldout.batch(range(recipe.training.heldout_samples)), model, recipe.training.gradient_cosine
    )
    start = monitor.measure(model)
    watch = RefineWatch(start, stop) if model.lam is not None and recipe.mode != "frozen-lam" else None
    if watch is not None and not monitor.is_ready(model, start):
        model.detach_latents = True
        logger.warning(
            "the tokenizer has not converged (gain over copying %.2f, perplexity %.1f): until it has, no gradient of "
            "the alignment reaches it.",
            start["gain_over_copying"],
            start["perplexity"],
        )
    report = progress or (lambda phase, done, total, logs: None)
    trainer = LaraTrainer(
        model,
        recipe.training,
        data.samples,
        out,
        monitor=monitor,
        watch=watch,
        unlabeled=_unlabeled(recipe, model, frames or out / "frames", progress),
        progress=lambda step, logs: report("steps", step, recipe.training.steps, logs),
    )
    if recipe.training.gradient_checkpointing:
        model.policy.gradient_checkpointing_enable({"use_reentrant": False})
    trainer.train(resume_from_checkpoint=checkpoint)
    summary = {
        "steps": trainer.state.global_step,
        "episodes": len(data.kept),
        "heldout_episodes": data.heldout_episodes,
        "frames": len(data.samples),
        **{
            f"policy_{name}": count
            for name, count in parameter_counts(model.policy).items()
            if name in ("trainable", "frozen")
        },
        "start": start,
        **{f"heldout_{name}": value for name, value in monitor.measure(model, trainer.args.bf16).items()},
    }
    _save(model, recipe, out, summary, trainer.state.log_history)
    return summary


def plan_refinement(recipe: RefineRecipe) -> dict[str, Any]:
    """What a recipe would train, on the meta device: no weights, no data, no download (but the tokenizer's config).

    >>> plan_refinement(RefineRecipe.load("paper_pretrain.yaml"))["samples"]  # doctest: +SKIP
    76800000
    """
    config, training = policy_config(recipe), recipe.training
    one_robot = {
        "name": "one",
        "cameras": ["camera"], "image_sizes": {}, "fps": 10.0,
        "action_mean": [0.0] * 7, "action_std": [1.0] * 7, "state_mean": [], "state_std": [],
    }  # fmt: skip
    values = {**config.to_dict(), "embodiments": [one_robot]}
    if config.context == "frames":
        from lara_tokenizer.model import LatentActionConfig

        values["vision_config"] = LatentActionConfig.from_pretrained(recipe.tokenizer).vision_config
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
        "parameters_of_each_embodiment": sum(
            counts[f"{part}"] for part in ("state_encoder", "action_encoder", "action_decoder")
        ),
    }


def _unlabeled(recipe: RefineRecipe, model: LaraModel, frames: Path | str, progress: Any) -> UnlabeledPairs | None:
    if not recipe.training.unlabeled_batch:
        if recipe.alignment.align_unlabeled:
            raise ValueError(
                "align_unlabeled needs pairs without actions: set training unlabeled_batch and `unlabeled`."
            )
        return None
    if not recipe.unlabeled:
        raise ValueError("training unlabeled_batch needs `unlabeled`, sources of video.")
    episodes = load_episodes(recipe.unlabeled, cameras="all")
    source = frame_source(episodes, model.processor, recipe, Path(frames) / "unlabeled", progress)
    assert model.lam is not None
    model.policy.add_tasks([""])
    return UnlabeledPairs.build(
        source, episodes, model.lam.config.strides, model.policy.config.tasks, recipe.training.unlabeled_batch,
        recipe.training.seed,
    )  # fmt: skip


def _save(model: LaraModel, recipe: RefineRecipe, out: Path, summary: dict[str, Any], history: list[Any]) -> None:
    from lara_policy.refine.trainer import ALIGNMENT, POLICY, TOKENIZER

    model.policy.float().save_pretrained(out / POLICY)
    if model.lam is not None and model.alignment is not None:
        model.lam.eval().float().save_pretrained(out / TOKENIZER)
        model.processor.save_pretrained(out / TOKENIZER)
        save_file(model.alignment.state_dict(), out / ALIGNMENT)
        refined = {"refined_from": recipe.tokenizer, "recipe": recipe.to_dict(), "steps": summary["steps"]}
        (out / TOKENIZER / "refined_by.json").write_text(json.dumps(refined, indent=2) + "\n", encoding="utf-8")
    log = {"recipe": recipe.to_dict(), "summary": summary, "history": history}
    text = json.dumps(_finite(log), indent=2)
    (out / "training_log.json").write_text(text + "\n", encoding="utf-8")


def _finite(values: Any) -> Any:
    """NaN as null: JSON has no word for it."""
    if isinstance(values, dict):
        return {name: _finite(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
