"""From demonstrations, a tokenizer and a recipe to a refined tokenizer and a policy (stages 2 and 3)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from transformers import set_seed

from lara_policy.configuration_flow_matching_policy import FlowMatchingPolicyConfig
from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy, parameter_counts
from lara_policy.refine.dataset import UnlabeledPairs
from lara_policy.refine.model import LaraModel
from lara_policy.refine.monitor import CollapseMonitor, JointMonitor, is_ready
from lara_policy.refine.recipe import RefineRecipe
from lara_policy.refine.setup import Progress, RefineSetup, build_model, frame_source, policy_config, set_up
from lara_tokenizer.data import Episode, LoadOptions, load_episodes
from lara_tokenizer.errors import missing_extra
from lara_tokenizer.train.run_folder import CHECKPOINTS, as_episodes, find_checkpoint, keep_log_until

if TYPE_CHECKING:
    from lara_policy.refine.trainer import LaraTrainer


from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

from lara_policy.refine.recipe import RefineRecipe
from lara_policy.refine.refine import RESULT, refine
from lara_tokenizer.data import Episode, LoadOptions
from lara_tokenizer.train.run_folder import CHECKPOINTS, as_episodes

logger = logging.getLogger(__name__)

RESULT = "training_log.json"  # written last: where it is, a run is finished


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
    progress: Progress | None = None,
    **load: Unpack[LoadOptions],
) -> dict[str, Any]:
    """Train tokenizer and policy together by Eq. 7, and leave both in `out`.

    `out` holds policy/ (for `FlowMatchingPolicy.from_pretrained`, with the projector that stage 3 goes on with),
    tokenizer/ (loads like any other; refined_by.json says what refined it; none in mode "dit-only"), training_log.json,
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
    # Late: transformers wants accelerate for its arguments.
    from lara_policy.refine.trainer import LOG_LINES, LaraTrainer, load_projector, training_arguments

    out, training = Path(out), recipe.training
    frames = Path(frames or out / "frames")
    checkpoint = find_checkpoint(out, resume, RESULT)
    set_seed(training.seed)
    episodes = as_episodes(recipe.sources if source is None else source, load)
    arguments = training_arguments(training, out / CHECKPOINTS)
    with arguments.main_process_first():  # the others find its frames decoded
        data = set_up(episodes, recipe, frames, policy_from=policy, tokens=tokens, progress=progress)
        model = build_model(data, recipe)
        unlabeled = _unlabeled(recipe, data, frames, progress)
    if policy is not None:
        load_projector(model, policy)
    out.mkdir(parents=True, exist_ok=True)
    keep_log_until(out / LOG_LINES, checkpoint)
    monitor = JointMonitor(data.heldout.batch(range(training.heldout_samples)), model, training.gradient_cosine)
    report = progress or (lambda phase, done, total, logs: None)
    trainer = LaraTrainer(
        model,
        arguments,
        training,
        data.samples,
        out,
        monitor=monitor,
        unlabeled=unlabeled,
        progress=lambda step, logs: report("steps", step, training.steps, logs),
    )
    start = monitor.measure(model, arguments.bf16)
    _watch(trainer, model, recipe, start, stop)
    if training.gradient_checkpointing:
        model.policy.gradient_checkpointing_enable({"use_reentrant": False})
    trainer.train(resume_from_checkpoint=checkpoint)
    counts = parameter_counts(model.policy)
    summary = {
        "steps": trainer.state.global_step,
        "episodes": len(data.kept),
        "heldout_episodes": data.heldout_episodes,
        "frames": len(data.samples),
        "policy_trainable": counts["trainable"],
        "policy_frozen": counts["frozen"],
        "start": start,
        **{f"heldout_{name}": value for name, value in monitor.measure(model, arguments.bf16).items()},
    }
    if trainer.is_world_process_zero():
        _save(model, recipe, out, data.refined_from, summary, trainer.state.log_history)
    trainer.accelerator.wait_for_everyone()
    return summary


def _watch(trainer: LaraTrainer, model: LaraModel, recipe: RefineRecipe, start: dict[str, float], stop: bool) -> None:
    """Watch a tokenizer that is trained, and keep the policy's pull off one that has not converged."""
    if model.lam is None or recipe.mode == "frozen-lam":
        return
    trainer.watch = CollapseMonitor(start, stop)
    if not is_ready(start, model.lam.config.codebook_size):
        model.detach_latents = True
        logger.warning(
            "the tokenizer has not converged (gain over copying %.2f, perplexity %.1f): until it has, no gradient of "
            "the alignment reaches it.",
            start["gain_over_copying"],
            start["perplexity"],
        )


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
            counts[part] for part in ("state_encoder", "action_encoder", "action_decoder")
        ),
    }


def _unlabeled(
    recipe: RefineRecipe, data: RefineSetup, frames: Path, progress: Progress | None
) -> UnlabeledPairs | None:
    """Pairs without actions, as far apart as those with."""
    size = recipe.training.unlabeled_batch
    if not size:
        return None
    episodes = load_episodes(recipe.unlabeled, cameras=recipe.lam_camera or ())
    source = frame_source(episodes, data.processor, recipe, frames / "unlabeled", progress)
    data.policy.add_tasks([""])  # for video without an instruction that the policy knows
    tasks, seed = data.policy.config.tasks, recipe.training.seed
    return UnlabeledPairs.build(source, episodes, [data.stride], tasks, size, seed)


def _save(
    model: LaraModel,
    recipe: RefineRecipe,
    out: Path,
    refined_from: dict[str, Any],
    summary: dict[str, Any],
    history: list[Any],
) -> None:
    """The parts as `save_parts` writes them, in float32, and last the log, which says that all is there."""
    from lara_policy.refine.trainer import TOKENIZER, finite, save_parts

    model.eval().float()
    save_parts(model, out)
    if model.lam is not None:
        model.processor.save_pretrained(out / TOKENIZER)
        refined = {"refined_from": refined_from, "recipe": recipe.to_dict(), "steps": summary["steps"]}
        (out / TOKENIZER / "refined_by.json").write_text(json.dumps(refined, indent=2) + "\n", encoding="utf-8")
    log = {"recipe": recipe.to_dict(), "summary": summary, "history": history}
    (out / RESULT).write_text(json.dumps(finite(log), indent=2) + "\n", encoding="utf-8")


CODES_FOLDER, POLICY = "pretrained", "policy"


def pretrain(
    tokens: str | Path,
    source: str | Path | Sequence[str | Path] | Sequence[Episode] | None,
    recipe: RefineRecipe,
    *,
    out: str | Path,
    policy: str | Path | None = None,
    frames: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[str, int, int, dict[str, float]], None] | None = None,
    **load: Unpack[LoadOptions],
) -> dict[str, Any]:
    """Phase 1: cross-entropy over the codes of every episode in the table, from frame t and the task alone, for
    `pretrain_steps`. Phase 2: that loss and the action loss, on the episodes that have actions; where none has, phase 1
    is all.

    `tokens` was written by `lara-tok encode` from `source`. The tokenizers to compare (LAM; LAM trained on with w1 = 0;
    LARA-LAM) are three tables. Phase 1 leaves out/pretrained/policy, phase 2 what `refine` leaves in "dit-only".
    Arguments, results and errors are those of `refine`; a finished phase 1 is not done again.
    """
    out = Path(out)
    episodes = as_episodes(recipe.sources if source is None else source, load)
    shared: dict[str, Any] = {"tokens": tokens, "frames": frames or out / "frames", "progress": progress}
    first = out / CODES_FOLDER
    summary: dict[str, Any] = {}
    if not (first / RESULT).exists():
        codes = recipe.override(mode="codes", steps=recipe.training.pretrain_steps or None)
        begun = resume and (first / CHECKPOINTS).is_dir()
        summary = refine(episodes, codes, out=first, policy=policy, resume=begun, **shared)
    if not any("actions" in episode.offers for episode in episodes):
        return summary
    begun = resume and (out / CHECKPOINTS).is_dir()
    return refine(episodes, recipe.override(mode="dit-only"), out=out, policy=first / POLICY, resume=begun, **shared)
