"""What a joint run starts from: episodes read, a policy that fits them, samples to train on and to watch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lara_policy.configuration_flow_matching_policy import FlowMatchingPolicyConfig, policy_keywords
from lara_policy.embodiment import Embodiment
from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy
from lara_policy.refine.codes import CodeTable
from lara_policy.refine.joint import ALONE, LaraModel
from lara_policy.refine.recipe import RefineRecipe
from lara_policy.refine.samples import Demonstration, PolicySamples, measure_embodiment, read_demonstrations
from lara_tokenizer.data import LoadOptions
from lara_tokenizer.data.stride import Stride
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.train.frames import FrameCache
from lara_tokenizer.train.mixture import PairedStream, StridePairs, split_streams
from lara_tokenizer.train.pairs import FrameSource
from lara_tokenizer.train.plain import refuse_unknown
from lara_tokenizer.train.reader_frames import ReaderFrames
from lara_tokenizer.train.run_folder import as_episodes

logger = logging.getLogger(__name__)

NOBODY = Embodiment("", (), {}, 0.0, (), (), (), ())  # whose numbers are not known
WATCHED_SEED = 1  # of the held-out samples' order: any but the training samples' will do


@dataclass
class Prepared:
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


def prepare(
    source: Any,
    recipe: RefineRecipe,
    policy_from: Any,
    tokens: str | Path | None,
    frames: Path | str,
    load: LoadOptions,
    progress: Any,
) -> Prepared:
    """Everything up to the training samples."""
    episodes = as_episodes(source, load)
    lam, processor = None, LatentActionProcessor.from_pretrained(recipe.tokenizer)
    tokenizer = LatentActionModel.from_pretrained(recipe.tokenizer)
    if tokenizer.config.standardize_latents:  # of stage 1: with batch statistics z would hang on its neighbours
        tokenizer.eval().fold_standardization()
    if recipe.mode not in ALONE:
        lam = tokenizer
    policy = FlowMatchingPolicy.from_pretrained(policy_from) if policy_from else None
    config = policy.config if policy else policy_config(recipe)
    sized = _sized(processor, config.image_size if config.context == "vision_language" else processor.size["height"])
    own = frame_source(episodes, sized, recipe, frames, progress)
    pair_source = own
    if lam is not None and sized.size != processor.size:
        pair_source = frame_source(episodes, processor, recipe, Path(frames) / "pairs", progress)
    cameras = tuple(dict.fromkeys(stream.camera for stream in own.streams))
    lam_camera = _camera_called(recipe.lam_camera, cameras)
    codes = None if tokens is None else CodeTable.read(tokens, recipe.lam_camera)
    demonstrations = _demonstrations(episodes, own, cameras, codes, recipe.mode == "codes")
    if policy is None:
        config = _with_codes(config, codes) if codes else config
        config.num_cameras = len(cameras)
    elif codes:
        _check_codes(config, codes)
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

    return Prepared(
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


def _demonstrations(
    episodes: Any, frames: FrameSource, cameras: tuple[str, ...], codes: CodeTable | None, codes_only: bool
) -> list[Demonstration]:
    """Of episodes with actions; for codes alone of all that the table knows, without their actions."""
    found = read_demonstrations(episodes, frames.streams, cameras, codes)
    if codes_only:
        if codes is None:
            raise ValueError("mode 'codes' needs a token table (--pretrain).")
        return [each.without_actions() for each in found]
    labelled = [each for each in found if each.actions.shape[1]]
    if not labelled:
        raise ValueError(f"none of the {len(episodes)} episodes has actions: a policy needs some.")
    return labelled


def _camera_called(name: str, cameras: tuple[str, ...]) -> str:
    """A camera by its name or the name's last part; the first where none is named."""
    found = [camera for camera in cameras if name in ("", camera, camera.rpartition(".")[2])]
    if not found:
        raise ValueError(f"lam_camera {name!r}: the episodes have {', '.join(map(repr, cameras))}.")
    return found[0]


def policy_config(recipe: RefineRecipe) -> FlowMatchingPolicyConfig:
    refuse_unknown("policy", recipe.policy, policy_keywords())
    build = FlowMatchingPolicyConfig.small if recipe.policy_preset == "small" else FlowMatchingPolicyConfig
    return build(**recipe.policy)


def _sized(processor: LatentActionProcessor, side: int) -> LatentActionProcessor:
    """The tokenizer's processor, or one like it for frames of another size."""
    if processor.size["height"] == side:
        return processor
    values = {**processor.to_dict(), "size": {"height": side, "width": side}, "steady_pairs": False}
    return LatentActionProcessor.from_dict(values)


def frame_source(
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
    """The config with queries for the table's codes."""
    sizes = {"num_codes": codes.num_codes, "codebook_size": codes.codebook_size}
    return FlowMatchingPolicyConfig(**{**config.to_dict(), **sizes})


def _check_codes(config: FlowMatchingPolicyConfig, codes: CodeTable) -> None:
    """Raises ValueError where a policy tells other codes than the table's, or none."""
    asked, has = (codes.num_codes, codes.codebook_size), (config.num_codes, config.codebook_size)
    if has != asked:
        known = f"tells {has[0]} codes of {has[1]}" if has[0] else "has no code queries"
        raise ValueError(
            f"the policy {known}, {codes.path} holds {asked[0]} codes of {asked[1]}: begin with that table (--pretrain)."
        )


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


def build_model(data: Prepared, recipe: RefineRecipe) -> LaraModel:
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
