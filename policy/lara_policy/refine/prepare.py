"""What a joint run starts from: episodes read, a policy that fits them, samples to train on and to watch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lara_policy.attach import load_tokenizer
from lara_policy.configuration_flow_matching_policy import FlowMatchingPolicyConfig, policy_keywords
from lara_policy.embodiment import Embodiment
from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy
from lara_policy.refine.codes import CodeTable
from lara_policy.refine.joint import ALONE, LaraModel, differing_pixels
from lara_policy.refine.recipe import RefineRecipe
from lara_policy.refine.samples import Demonstration, PolicySamples, measure_embodiment, read_demonstrations
from lara_tokenizer.checkpoint import Checkpoint
from lara_tokenizer.data import Episode
from lara_tokenizer.data.stride import Stride
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.train.frames import FrameCache
from lara_tokenizer.train.mixture import PairedStream, StridePairs, split_streams
from lara_tokenizer.train.pairs import FrameSource
from lara_tokenizer.train.plain import refuse_unknown
from lara_tokenizer.train.reader_frames import ReaderFrames
from lara_tokenizer.train.streams import Stream

logger = logging.getLogger(__name__)

NOBODY = Embodiment("", (), {}, 0.0, (), (), (), ())  # whose numbers are not known
WATCHED_SEED = 1  # of the held-out samples' order: any but the training samples' will do

Progress = Callable[[str, int, int, dict[str, float]], None]


@dataclass
class Prepared:
    """What was read, and the policy that fits it.

    `stride` and `gap`, in frames, are those of the tokenizer's pairs; `refined_from` says which weights it started as.
    """

    policy: FlowMatchingPolicy
    lam: LatentActionModel | None
    processor: LatentActionProcessor
    kept: list[Demonstration]
    heldout_episodes: int
    samples: PolicySamples
    heldout: PolicySamples
    stride: str
    gap: int
    refined_from: dict[str, Any]


def prepare(
    episodes: Sequence[Episode],
    recipe: RefineRecipe,
    frames: str | Path,
    *,
    policy_from: str | Path | None = None,
    tokens: str | Path | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Everything up to the training samples. Arguments and errors are those of `refine`."""
    policy = FlowMatchingPolicy.from_pretrained(policy_from) if policy_from else None
    config = policy.config if policy else policy_config(recipe)
    checkpoint = Checkpoint.open(recipe.tokenizer)
    processor = LatentActionProcessor.from_pretrained(checkpoint.folder)
    needed = recipe.mode not in ALONE or (policy is None and config.context == "frames")
    tokenizer = _tokenizer(checkpoint) if needed else None
    lam = None if recipe.mode in ALONE else tokenizer
    sized = _processor_of_frames(policy, config, processor)
    own = frame_source(episodes, sized, recipe, frames, progress)
    pairs = own
    if lam is not None and differing_pixels(sized, processor):
        pairs = frame_source(episodes, processor, recipe, Path(frames) / "pairs", progress)
    cameras = _cameras(own.streams, recipe.lam_camera)
    codes = None if tokens is None else CodeTable.read(tokens, recipe.lam_camera)
    demonstrations = _demonstrations(episodes, own, cameras, codes, recipe.mode == "codes")
    views = len(next(iter(cameras.values())))
    policy = _policy(policy, config, tokenizer, sized, recipe, demonstrations, episodes, codes, views)
    stride, gap = _stride(recipe, policy, lam, demonstrations)
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
            pair_frames=None if lam is None else pairs,
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
        stride=stride,
        gap=gap,
        refined_from=checkpoint.identity(),
    )


def build_model(data: Prepared, recipe: RefineRecipe) -> LaraModel:
    """Policy and tokenizer as one module, its projector fresh."""
    return LaraModel(
        data.policy,
        data.lam,
        data.processor,
        recipe.alignment,
        mode=recipe.mode,
        layer=recipe.layer,
        gap=data.gap,
        shift=recipe.training.shift,
    )


def policy_config(recipe: RefineRecipe) -> FlowMatchingPolicyConfig:
    """A fresh policy's config: the preset with `policy` on top. Raises ValueError for a keyword it does not have."""
    refuse_unknown("policy", recipe.policy, policy_keywords())
    build = FlowMatchingPolicyConfig.small if recipe.policy_preset == "small" else FlowMatchingPolicyConfig
    return build(**recipe.policy)


def frame_source(
    episodes: Sequence[Episode],
    processor: LatentActionProcessor,
    recipe: RefineRecipe,
    folder: Path | str,
    progress: Progress | None,
) -> FrameSource:
    """Frames of all episodes at the processor's size: decoded once into `folder`, or at each draw."""
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


def _tokenizer(checkpoint: Checkpoint) -> LatentActionModel:
    """The tokenizer: what is trained, or whose encoder a fresh policy looks through."""
    tokenizer = load_tokenizer(checkpoint.folder)
    if tokenizer.config.standardize_latents:  # of stage 1: with batch statistics z would hang on its neighbours
        tokenizer.eval().fold_standardization()
    return tokenizer


def _processor_of_frames(
    policy: FlowMatchingPolicy | None, config: FlowMatchingPolicyConfig, processor: LatentActionProcessor
) -> LatentActionProcessor:
    """The policy's own, which shows it frames in roll-outs; a fresh policy takes the tokenizer's, at its own size.

    Warns where a policy's differs from the tokenizer's: each then gets frames of its own, and features are not shared.
    """
    if policy is None:
        if config.context == "frames" or processor.size["height"] == config.image_size:
            return processor
        size = {"height": config.image_size, "width": config.image_size}
        return LatentActionProcessor.from_dict({**processor.to_dict(), "size": size, "steady_pairs": False})
    own = policy.processor
    assert own is not None
    differing = differing_pixels(own, processor)
    if differing and config.context == "frames":
        logger.warning(
            "processor mismatch: %s",
            "; ".join(f"{name} of the policy {getattr(own, name)}, of the tokenizer {getattr(processor, name)}"
                      for name in differing),
        )  # fmt: skip
    return own


def _cameras(streams: Sequence[Stream], lam_camera: str) -> dict[str, tuple[str, ...]]:
    """Each dataset's cameras, the tokenizer's first.

    Raises ValueError where a dataset lacks it, or has another number of cameras than the others.
    """
    found: dict[str, dict[str, None]] = {}
    for stream in streams:
        found.setdefault(stream.dataset, {})[stream.camera] = None
    ordered: dict[str, tuple[str, ...]] = {}
    for dataset, names in found.items():
        first = [name for name in names if lam_camera in ("", name, name.rpartition(".")[2])]
        if not first:
            raise ValueError(f"lam_camera {lam_camera!r}: the episodes have {', '.join(map(repr, names))}.")
        ordered[dataset] = (first[0], *(name for name in names if name != first[0]))
    if len({len(names) for names in ordered.values()}) > 1:
        listed = "; ".join(f"{dataset or 'source'}: {', '.join(names)}" for dataset, names in ordered.items())
        raise ValueError(f"datasets with unequal numbers of cameras ({listed}): choose as many of each with --camera.")
    return ordered


def _demonstrations(
    episodes: Sequence[Episode],
    frames: FrameSource,
    cameras: dict[str, tuple[str, ...]],
    codes: CodeTable | None,
    codes_only: bool,
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


def _policy(
    policy: FlowMatchingPolicy | None,
    config: FlowMatchingPolicyConfig,
    tokenizer: LatentActionModel | None,
    processor: LatentActionProcessor,
    recipe: RefineRecipe,
    demonstrations: list[Demonstration],
    episodes: Sequence[Episode],
    codes: CodeTable | None,
    views: int,
) -> FlowMatchingPolicy:
    """A fresh policy for these robots and tasks, or the given one with what it lacks added."""
    by_robot: dict[str, list[Demonstration]] = {}
    for each in (each for each in demonstrations if each.actions.shape[1]):
        by_robot.setdefault(_robot_of(recipe, each.dataset), []).append(each)
    sizes = _image_sizes(episodes, demonstrations)
    robots = [measure_embodiment(name, of, sizes[of[0].dataset]) for name, of in by_robot.items()]
    tasks = sorted({text for each in demonstrations for text in each.texts})
    if policy is not None:
        _grow(policy, robots, tasks, codes, views)
        return policy
    for robot in robots:
        robot.check_fits(config.max_action_dim, config.max_state_dim)
    values = config.to_dict() | {"embodiments": [robot.to_dict() for robot in robots], "num_cameras": views}
    if codes is not None:
        values |= {"num_codes": codes.num_codes, "codebook_size": codes.codebook_size}
    if config.context == "vision_language":
        policy = FlowMatchingPolicy(FlowMatchingPolicyConfig(**values))
        policy.processor = processor
        return policy
    assert tokenizer is not None
    return FlowMatchingPolicy.from_tokenizer(
        tokenizer, processor, FlowMatchingPolicyConfig(**(values | {"tasks": tasks}))
    )


def _grow(
    policy: FlowMatchingPolicy, robots: list[Embodiment], tasks: list[str], codes: CodeTable | None, views: int
) -> None:
    """Add robots and tasks that a policy does not know. Raises ValueError for what it cannot take."""
    config = policy.config
    if config.context == "frames" and views > config.num_cameras:
        raise ValueError(f"the episodes have {views} cameras, the policy was built for {config.num_cameras}.")
    if codes is not None and (config.num_codes, config.codebook_size) != (codes.num_codes, codes.codebook_size):
        known = f"tells {config.num_codes} codes of {config.codebook_size}" if config.num_codes else "tells no codes"
        raise ValueError(
            f"the policy {known}, {codes.path} holds {codes.num_codes} of {codes.codebook_size}: begin with that table "
            "(--pretrain)."
        )
    for robot in robots:
        if robot.name not in policy.embodiments and policy.embodiments:
            logger.warning(
                "robot %r is new to the policy and starts with fresh weights; it knows %s. If it is one of them, say "
                "so in the recipe: embodiments: {%s: ...}",
                robot.name, ", ".join(map(repr, policy.embodiments)), robot.name,
            )  # fmt: skip
        policy.add_embodiment(robot)
    policy.add_tasks(tasks)


def _image_sizes(
    episodes: Sequence[Episode], demonstrations: list[Demonstration]
) -> dict[str, dict[str, tuple[int, int]]]:
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


def _stride(
    recipe: RefineRecipe,
    policy: FlowMatchingPolicy,
    tokenizer: LatentActionModel | None,
    demonstrations: list[Demonstration],
) -> tuple[str, int]:
    """The gap of a pair, as asked and in frames; warns where the tokenizer was trained on another."""
    if tokenizer is None:
        return "1f", 1
    own = tokenizer.config.strides
    asked = recipe.lam_stride or (f"{policy.config.horizon}f" if recipe.paper_exact else own[0])
    gaps = {_frames_of(Stride.parse(asked), each) for each in demonstrations}
    if len(gaps) > 1:
        listed = ", ".join(map(str, sorted(gaps)))
        raise ValueError(f"lam_stride {asked} is {listed} frames in different episodes: give it in frames, such as 5f.")
    gap = gaps.pop()
    if gap > policy.config.horizon:
        raise ValueError(
            f"lam_stride {asked} is {gap} frames, and the policy predicts {policy.config.horizon} actions: the pair "
            f"must lie within the chunk. Give a shorter lam_stride, or horizon: {gap}."
        )
    trained = {_frames_of(Stride.parse(stride), demonstrations[0]) for stride in own}
    if gap not in trained and not recipe.paper_exact:
        logger.warning(
            "stride mismatch: pairs are %d frames apart (%s), the tokenizer was trained on %s, %s frames here.",
            gap, asked, ", ".join(own), ", ".join(map(str, sorted(trained))),
        )  # fmt: skip
    return asked, gap


def _frames_of(stride: Stride, demonstration: Demonstration) -> int:
    """The stride in this episode's frames, at its start; by its rate where the episode is shorter than that."""
    times = next(iter(demonstration.streams.values())).timestamps
    future = int(stride.future_indices(times, np.array([0]))[0])
    return future if future >= 0 else stride.frames_at(demonstration.fps)


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
