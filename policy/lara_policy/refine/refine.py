"""From demonstrations, a tokenizer and a recipe to a refined tokenizer and a policy (stages 2 and 3)."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import set_seed

from lara_policy.configuration_flow_matching_policy import FlowMatchingPolicyConfig, policy_keywords
from lara_policy.embodiment import Embodiment
from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy, parameter_counts
from lara_policy.refine.codes import CodeTable
from lara_policy.refine.joint import ALONE, LaraModel
from lara_policy.refine.monitor import JointMonitor
from lara_policy.refine.recipe import RefineRecipe
from lara_policy.refine.samples import Demonstration, PolicySamples, measure_embodiment, read_demonstrations
from lara_policy.refine.unlabeled import UnlabeledPairs
from lara_policy.refine.watch import RefineWatch
from lara_tokenizer.data import Episode, LoadOptions, load_episodes
from lara_tokenizer.data.stride import Stride
from lara_tokenizer.errors import missing_extra
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.train.frames import FrameCache
from lara_tokenizer.train.mixture import PairedStream, StridePairs, split_streams
from lara_tokenizer.train.pairs import FrameSource
from lara_tokenizer.train.plain import refuse_unknown
from lara_tokenizer.train.reader_frames import ReaderFrames
from lara_tokenizer.train.run_folder import as_episodes, find_checkpoint, keep_log_until

logger = logging.getLogger(__name__)

NOBODY = Embodiment("", (), {}, 0.0, (), (), (), ())  # whose numbers are not known
WATCHED_SEED = 1  # of the held-out samples' order: any but the training samples' will do


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
    data = _read(source, recipe, policy, tokens, frames or out / "frames", load, progress)
    model = _build(data, recipe)
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
    config, training = _config(recipe), recipe.training
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


@dataclass
class _Data:
    """What was read, and the policy that fits it."""

    policy: FlowMatchingPolicy
    lam: LatentActionModel | None
    processor: LatentActionProcessor
    kept: list[Demonstration]
    heldout_episodes: int
    samples: PolicySamples
    heldout: PolicySamples
    gap: int
    lam_view: int


def _read(
    source: Any,
    recipe: RefineRecipe,
    policy_from: Any,
    tokens: str | Path | None,
    frames: Path | str,
    load: LoadOptions,
    progress: Any,
) -> _Data:
    """Everything up to the training samples."""
    episodes = as_episodes(source, load)
    lam, processor = None, LatentActionProcessor.from_pretrained(recipe.tokenizer)
    tokenizer = LatentActionModel.from_pretrained(recipe.tokenizer)
    if tokenizer.config.standardize_latents:  # of stage 1: with batch statistics z would hang on its neighbours
        tokenizer.eval().fold_standardization()
    if recipe.mode not in ALONE:
        lam = tokenizer
    policy = FlowMatchingPolicy.from_pretrained(policy_from) if policy_from else None
    config = policy.config if policy else _config(recipe)
    sized = _sized(processor, config.image_size if config.context == "vision_language" else processor.size["height"])
    own = _frame_source(episodes, sized, recipe, frames, progress)
    pair_source = own
    if lam is not None and sized.size != processor.size:
        pair_source = _frame_source(episodes, processor, recipe, Path(frames) / "pairs", progress)
    cameras = tuple(dict.fromkeys(stream.camera for stream in own.streams))
    lam_camera = _camera_called(recipe.lam_camera, cameras)
    codes = None if tokens is None else CodeTable.read(tokens, recipe.lam_camera)
    demonstrations = read_demonstrations(episodes, own.streams, cameras, codes)
    if recipe.mode == "codes":
        if codes is None:
            raise ValueError("mode 'codes' needs a token table (--pretrain).")
        demonstrations = [each.without_actions() for each in demonstrations]
    else:
        demonstrations = [each for each in demonstrations if each.actions.shape[1]]
        if not demonstrations:
            raise ValueError(f"none of the {len(episodes)} episodes has actions: a policy needs some.")
    config = _with_codes(config, codes) if codes else config
    config.num_cameras = max(config.num_cameras, len(cameras))
    policy = _policy(policy, config, tokenizer, sized, recipe, demonstrations, episodes)
    gap = _gap(recipe, policy, tokenizer if lam is not None else None, demonstrations)
    kept, heldout = _split(demonstrations, recipe.training.heldout_share, recipe.training.seed)

    def samples(of: list[Demonstration], seed: int) -> PolicySamples:
        return PolicySamples(
            own,
            of,
            [_numbered_robot(policy, recipe, each) for each in of],
            policy.config.tasks,
            horizon=policy.config.horizon,
            max_action_dim=policy.config.max_action_dim,
            max_state_dim=policy.config.max_state_dim,
            gap=gap,
            lam_camera=lam_camera,
            pair_frames=None if lam is None else pair_source,
            shift=recipe.training.shift,
            seed=seed,
        )

    return _Data(
        policy=policy,
        lam=lam,
        processor=processor,
        kept=kept,
        heldout_episodes=len(heldout),
        samples=samples(kept, recipe.training.seed),
        heldout=samples(heldout, WATCHED_SEED),
        gap=gap,
        lam_view=cameras.index(lam_camera),
    )


def _camera_called(name: str, cameras: tuple[str, ...]) -> str:
    """A camera by its name or the name's last part; the first where none is named."""
    found = [camera for camera in cameras if name in ("", camera, camera.rpartition(".")[2])]
    if not found:
        raise ValueError(f"lam_camera {name!r}: the episodes have {', '.join(map(repr, cameras))}.")
    return found[0]


def _config(recipe: RefineRecipe) -> FlowMatchingPolicyConfig:
    refuse_unknown("policy", recipe.policy, policy_keywords())
    build = FlowMatchingPolicyConfig.small if recipe.policy_preset == "small" else FlowMatchingPolicyConfig
    return build(**recipe.policy)


def _sized(processor: LatentActionProcessor, side: int) -> LatentActionProcessor:
    """The tokenizer's processor, or one like it for frames of another size."""
    if processor.size["height"] == side:
        return processor
    values = {**processor.to_dict(), "size": {"height": side, "width": side}, "steady_pairs": False}
    return LatentActionProcessor.from_dict(values)


def _frame_source(
    episodes: Any, processor: LatentActionProcessor, recipe: RefineRecipe, folder: Path | str, progress: Any
) -> FrameSource:
    if not recipe.training.cache_frames:
        return ReaderFrames(episodes, processor)
    report = progress or (lambda phase, done, total, logs: None)
    return FrameCache.build(
        episodes,
        processor,
        folder,
        workers=recipe.training.workers,
        progress=lambda done, total: report("frames", done, total, {}),
    )


def _robot_of(recipe: RefineRecipe, dataset: str) -> str:
    return recipe.embodiments.get(dataset, dataset or "robot")


def _numbered_robot(
    policy: FlowMatchingPolicy, recipe: RefineRecipe, demonstration: Demonstration
) -> tuple[int, Embodiment]:
    """A demonstration's robot and its place; without actions nobody's, in the first place."""
    if not demonstration.actions.shape[1]:
        return 0, NOBODY
    name = _robot_of(recipe, demonstration.dataset)
    return policy.embodiment_number(name), policy.embodiments[name]


def _with_codes(config: FlowMatchingPolicyConfig, codes: CodeTable) -> FlowMatchingPolicyConfig:
    """The config with queries for the table's codes. Raises ValueError where it has others."""
    asked, has = (codes.num_codes, codes.codebook_size), (config.num_codes, config.codebook_size)
    if config.num_codes and has != asked:
        raise ValueError(f"the policy tells {has[0]} codes of {has[1]}, {codes.path} holds {asked[0]} of {asked[1]}.")
    return FlowMatchingPolicyConfig(**{**config.to_dict(), "num_codes": asked[0], "codebook_size": asked[1]})


def _policy(
    policy: FlowMatchingPolicy | None,
    config: FlowMatchingPolicyConfig,
    tokenizer: LatentActionModel,
    processor: LatentActionProcessor,
    recipe: RefineRecipe,
    demonstrations: list[Demonstration],
    episodes: Any,
) -> FlowMatchingPolicy:
    """A fresh policy for these robots and tasks, or the given one with what it lacks added."""
    by_robot: dict[str, list[Demonstration]] = {}
    for each in (each for each in demonstrations if each.actions.shape[1]):
        by_robot.setdefault(_robot_of(recipe, each.dataset), []).append(each)
    sizes = _image_sizes(episodes, demonstrations)
    robots = [measure_embodiment(name, of, sizes[of[0].dataset]) for name, of in by_robot.items()]
    tasks = sorted({text for each in demonstrations for text in each.texts})
    if policy is not None and config.num_codes != policy.config.num_codes:
        raise ValueError("this policy has no code queries: one that learns codes must begin with them (--pretrain).")
    if policy is None:
        for robot in robots:
            robot.check_fits(config.max_action_dim, config.max_state_dim)
        values = config.to_dict() | {"embodiments": [robot.to_dict() for robot in robots]}
        if config.context == "vision_language":
            policy = FlowMatchingPolicy(FlowMatchingPolicyConfig(**values))
            policy.processor = processor
            return policy
        return FlowMatchingPolicy.from_tokenizer(
            tokenizer, processor, FlowMatchingPolicyConfig(**(values | {"tasks": tasks}))
        )
    for robot in robots:
        policy.add_embodiment(robot)
    policy.add_tasks(tasks)
    return policy


def _image_sizes(episodes: Any, demonstrations: list[Demonstration]) -> dict[str, dict[str, tuple[int, int]]]:
    """Of each dataset's cameras: (height, width) of the first frame of its first episode."""
    by_id = {(episode.dataset, episode.id): episode for episode in episodes}
    sizes: dict[str, dict[str, tuple[int, int]]] = {}
    for each in demonstrations:
        if each.dataset in sizes:
            continue
        episode = by_id[each.dataset, each.episode]
        shapes = {camera: episode.frames(camera, [0]).shape for camera in each.streams}
        sizes[each.dataset] = {camera: (shape[1], shape[2]) for camera, shape in shapes.items()}
        episode.close()
    return sizes


def _gap(
    recipe: RefineRecipe,
    policy: FlowMatchingPolicy,
    tokenizer: LatentActionModel | None,
    demonstrations: list[Demonstration],
) -> int:
    """Frames between the two of a pair; warns where that is not what the tokenizer was trained on."""
    if tokenizer is None:
        return 1
    strides = [Stride.parse(stride) for stride in tokenizer.config.strides]
    asked = recipe.lam_stride or (
        f"{policy.config.horizon}f" if recipe.paper_exact or not strides else tokenizer.config.strides[0]
    )
    gaps = {_frames_of(Stride.parse(asked), each) for each in demonstrations}
    if len(gaps) > 1:
        raise ValueError(
            f"lam_stride {asked}: {', '.join(map(str, sorted(gaps)))} frames in different datasets; one must fit all."
        )
    gap = gaps.pop()
    if gap > policy.config.horizon:
        raise ValueError(
            f"lam_stride {asked} is {gap} frames, and the policy predicts {policy.config.horizon} actions: the pair "
            f"must lie within the chunk. Give a shorter lam_stride, or horizon: {gap}."
        )
    trained = {_frames_of(stride, demonstrations[0]) for stride in strides}
    if strides and gap not in trained and not recipe.paper_exact:
        logger.warning(
            "stride mismatch: pairs are %d frames apart (%s), the tokenizer was trained on %s, %s frames here.",
            gap, asked, ", ".join(tokenizer.config.strides), ", ".join(map(str, sorted(trained))),
        )  # fmt: skip
    return gap


def _frames_of(stride: Stride, demonstration: Demonstration) -> int:
    times = next(iter(demonstration.streams.values())).timestamps
    future = stride.future_indices(times, np.array([0]))
    if future[0] < 0:  # the episode is shorter than the stride
        return max(1, round(stride.value * demonstration.fps)) if stride.unit == "s" else int(stride.value)
    return int(future[0])


def _split(
    demonstrations: list[Demonstration], share: float, seed: int
) -> tuple[list[Demonstration], list[Demonstration]]:
    """(training, held out) by episode, as stage 1 does it."""
    streams = [
        PairedStream(next(iter(each.streams.values())), (StridePairs(0, each.num_frames, 0),))
        for each in demonstrations
    ]
    _, heldout = split_streams(streams, share, seed)
    out = {(each.stream.dataset, each.stream.episode) for each in heldout}
    held = [(each.dataset, each.episode) in out for each in demonstrations]
    kept = [each for each, is_out in zip(demonstrations, held, strict=True) if not is_out]
    return kept, [each for each, is_out in zip(demonstrations, held, strict=True) if is_out]


def _build(data: _Data, recipe: RefineRecipe) -> LaraModel:
    return LaraModel(
        data.policy,
        data.lam,
        data.processor,
        recipe.alignment,
        mode=recipe.mode,
        layer=recipe.layer,
        gap=data.gap,
        lam_view=data.lam_view,
        shift=recipe.training.shift,
    )


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
    source = _frame_source(episodes, model.processor, recipe, Path(frames) / "unlabeled", progress)
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
