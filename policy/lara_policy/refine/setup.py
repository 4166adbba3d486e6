"""Setup of a joint training run: episodes, a policy that fits them, training and held-out samples, the model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lara_policy.attach import load_tokenizer
from lara_policy.configuration_flow_matching_policy import FlowMatchingPolicyConfig, policy_keywords
from lara_policy.embodiment import Embodiment
from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy
from lara_policy.refine.dataset import CodeTable, Demonstration, PolicyDataset, read_demonstrations
from lara_policy.refine.model import MODES_WITHOUT_TOKENIZER, LaraModel, differing_settings
from lara_policy.refine.recipe import RefineRecipe
from lara_tokenizer.checkpoint import Checkpoint, read_processor
from lara_tokenizer.data import Episode
from lara_tokenizer.data.stride import Stride
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.train.mixture import PairedSequence, StridePairs, split_sequences
from lara_tokenizer.train.sequences import FrameSequence
from lara_tokenizer.train.train import check_memory, open_frames
from lara_tokenizer.train.watch import Progress, ignore_progress
from lara_tokenizer.train.yaml_config import refuse_unknown

logger = logging.getLogger(__name__)

NO_ROBOT = Embodiment("", (), {}, 0.0, (), (), (), ())  # of demonstrations without actions
HELDOUT_SEED = 1  # of the held-out samples' order; any constant


@dataclass
class RefineSetup:
    """The objects that a run is built from."""

    policy: FlowMatchingPolicy
    lam: LatentActionModel | None
    processor: LatentActionProcessor  # the tokenizer's
    demonstrations: list[Demonstration]  # to train on
    heldout_episodes: int
    samples: PolicyDataset
    heldout: PolicyDataset
    stride: str  # of the tokenizer's pairs, such as "0.5s"
    stride_frames: int
    refined_from: dict[str, Any]  # identity of the tokenizer's checkpoint


def set_up(
    episodes: Sequence[Episode],
    recipe: RefineRecipe,
    frames: str | Path,
    *,
    policy_from: str | Path | None = None,
    tokens: str | Path | None = None,
    progress: Progress = ignore_progress,
) -> RefineSetup:
    """Read the episodes and build or extend the policy. Arguments and errors are those of `refine`."""
    policy = FlowMatchingPolicy.from_pretrained(policy_from) if policy_from else None
    config = policy.config if policy else policy_config(recipe)
    checkpoint = Checkpoint.open(recipe.tokenizer)
    processor = read_processor(checkpoint.folder)
    has_lam = recipe.mode not in MODES_WITHOUT_TOKENIZER
    # A fresh policy without a tokenizer still needs its vision encoder.
    tokenizer = _load_tokenizer(checkpoint) if has_lam or (policy is None and config.context == "frames") else None
    policy_processor = _policy_processor(policy, config, processor)
    own = open_frames(episodes, policy_processor, recipe.training, frames, progress)
    pairs = own
    if has_lam and differing_settings(policy_processor, processor):
        pairs = open_frames(episodes, processor, recipe.training, Path(frames) / "pairs", progress)
    cameras = _cameras(own.sequences, recipe.lam_camera)
    codes = None if tokens is None else CodeTable.read(tokens, recipe.lam_camera)
    demonstrations = _demonstrations(episodes, own.sequences, cameras, codes, recipe.mode == "codes")
    robots = _measure_robots(recipe, episodes, demonstrations)
    # Sorted: the order of task vectors must not depend on that of the episodes.
    tasks = sorted({text for each in demonstrations for text in each.texts})
    num_cameras = len(next(iter(cameras.values())))
    if policy is None:
        policy = _fresh_policy(config, robots, tasks, codes, num_cameras, tokenizer, policy_processor)
    else:
        _extend_policy(policy, robots, tasks, codes, num_cameras)
    lam = tokenizer if has_lam else None
    stride, stride_frames = _pair_stride(recipe, policy, lam, demonstrations)
    training, heldout = _split(demonstrations, recipe.training.heldout_share, recipe.training.seed)

    def dataset(split: list[Demonstration], seed: int) -> PolicyDataset:
        return PolicyDataset(
            own,
            split,
            [_indexed_robot(policy, recipe, each) for each in split],
            policy.config,
            stride_frames=stride_frames,
            pair_frames=pairs if has_lam else None,
            shift=recipe.training.shift,
            seed=seed,
        )

    return RefineSetup(
        policy=policy,
        lam=lam,
        processor=processor,
        demonstrations=training,
        heldout_episodes=len(heldout),
        samples=dataset(training, recipe.training.seed),
        heldout=dataset(heldout, HELDOUT_SEED),
        stride=stride,
        stride_frames=stride_frames,
        refined_from=checkpoint.identity(),
    )


def build_model(setup: RefineSetup, recipe: RefineRecipe) -> LaraModel:
    """Policy and tokenizer as one module with a fresh projector."""
    return LaraModel(
        setup.policy,
        setup.lam,
        setup.processor,
        recipe.alignment,
        mode=recipe.mode,
        layer=recipe.layer,
        stride_frames=setup.stride_frames,
        shift=recipe.training.shift,
    )


def policy_config(recipe: RefineRecipe) -> FlowMatchingPolicyConfig:
    """A fresh policy's config: the preset, changed by `policy`. Raises ValueError for an unknown keyword."""
    refuse_unknown("policy", recipe.policy, policy_keywords())
    build = FlowMatchingPolicyConfig.small if recipe.policy_preset == "small" else FlowMatchingPolicyConfig
    return build(**recipe.policy)


# --- Tokenizer and frames ---------------------------------------------------------------------------------------------


def _load_tokenizer(checkpoint: Checkpoint) -> LatentActionModel:
    tokenizer = load_tokenizer(checkpoint.folder)
    if tokenizer.config.standardize_latents:  # a part of stage 1: batch statistics would make z depend on its batch
        tokenizer.eval().fold_standardization()
    return tokenizer


def _policy_processor(
    policy: FlowMatchingPolicy | None, config: FlowMatchingPolicyConfig, processor: LatentActionProcessor
) -> LatentActionProcessor:
    """The policy's image processor, which it also uses in roll-outs; a fresh policy gets the tokenizer's.

    Warns if a policy's differs from the tokenizer's: then each gets frames of its own, and no features are shared.
    """
    if policy is None:
        if config.context == "frames" or processor.size["height"] == config.image_size:
            return processor
        size = {"height": config.image_size, "width": config.image_size}
        return LatentActionProcessor.from_dict({**processor.to_dict(), "size": size, "steady_pairs": False})
    own = policy.processor
    assert own is not None
    differing = differing_settings(own, processor)
    if differing and config.context == "frames":
        settings = [
            f"{name} of the policy {getattr(own, name)}, of the tokenizer {getattr(processor, name)}"
            for name in differing
        ]
        logger.warning("processor mismatch: %s", "; ".join(settings))
    return own


def _cameras(sequences: Sequence[FrameSequence], lam_camera: str) -> dict[str, tuple[str, ...]]:
    """Each dataset's cameras, the tokenizer's first.

    Raises ValueError if a dataset lacks the tokenizer's camera, or the datasets differ in the count of cameras.
    """
    names_of: dict[str, dict[str, None]] = {}
    for sequence in sequences:
        names_of.setdefault(sequence.dataset, {})[sequence.camera] = None
    ordered: dict[str, tuple[str, ...]] = {}
    for dataset, names in names_of.items():
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
    sequences: Sequence[FrameSequence],
    cameras: dict[str, tuple[str, ...]],
    codes: CodeTable | None,
    codes_only: bool,
) -> list[Demonstration]:
    """Episodes with actions; in mode "codes" all that the table contains, without their actions."""
    demonstrations = read_demonstrations(episodes, sequences, cameras, codes)
    if codes_only:
        if codes is None:
            raise ValueError("mode 'codes' needs a token table (--pretrain).")
        return [each.without_actions() for each in demonstrations]
    labelled = [each for each in demonstrations if each.actions.shape[1]]
    if not labelled:
        raise ValueError(f"none of the {len(episodes)} episodes has actions: a policy needs some.")
    return labelled


# --- Robots and policy ------------------------------------------------------------------------------------------------


def _robot_name(recipe: RefineRecipe, dataset: str) -> str:
    return recipe.embodiments.get(dataset, dataset or "robot")


def _measure_robots(
    recipe: RefineRecipe, episodes: Sequence[Episode], demonstrations: list[Demonstration]
) -> list[Embodiment]:
    """Each robot's statistics over all its frames. Raises ValueError if its demonstrations differ in width.

    Its images are as large as the first frame of its first episode.
    """
    by_id = {(episode.dataset, episode.id): episode for episode in episodes}
    by_robot: dict[str, list[Demonstration]] = {}
    for each in demonstrations:
        if each.actions.shape[1]:
            by_robot.setdefault(_robot_name(recipe, each.dataset), []).append(each)
    robots = []
    for name, own in by_robot.items():
        actions = [each.actions for each in own]
        states = [each.states for each in own if each.states is not None]
        state_widths = {each.shape[1] for each in states} | ({0} if len(states) < len(own) else set())
        for what, widths in (("actions", {each.shape[1] for each in actions}), ("states", state_widths)):
            if len(widths) > 1:
                raise ValueError(
                    f"embodiment {name!r}: {what} of {' and '.join(map(str, sorted(widths)))} numbers. One robot has "
                    "one width: give its datasets different `embodiment` names."
                )
        episode = by_id[own[0].dataset, own[0].episode]
        shapes = {camera: episode.frames(camera, [0]).shape for camera in own[0].sequences}
        episode.close()
        robot = Embodiment.measure(
            name,
            actions=np.concatenate(actions),
            states=np.concatenate(states) if states else None,
            cameras=tuple(own[0].sequences),
            image_sizes={camera: (shape[1], shape[2]) for camera, shape in shapes.items()},
            fps=round(float(np.median([each.fps for each in own])), 6),
        )
        robots.append(robot)
    return robots


def _indexed_robot(policy: FlowMatchingPolicy, recipe: RefineRecipe, each: Demonstration) -> tuple[int, Embodiment]:
    if not each.actions.shape[1]:
        return 0, NO_ROBOT
    name = _robot_name(recipe, each.dataset)
    return policy.embodiment_index(name), policy.embodiments[name]


def _fresh_policy(
    config: FlowMatchingPolicyConfig,
    robots: list[Embodiment],
    tasks: list[str],
    codes: CodeTable | None,
    num_cameras: int,
    tokenizer: LatentActionModel | None,
    processor: LatentActionProcessor,
) -> FlowMatchingPolicy:
    """A policy for these robots and tasks. Raises ValueError for actions or states wider than its config's."""
    for robot in robots:
        robot.check_fits(config.max_action_dim, config.max_state_dim)
    # Through a new config, so that the sizes are validated together.
    values = config.to_dict() | {"embodiments": [robot.to_dict() for robot in robots], "num_cameras": num_cameras}
    if codes is not None:
        values |= {"num_codes": codes.num_codes, "codebook_size": codes.codebook_size}
    seen = {} if tokenizer is None else {"vision_config": tokenizer.config.vision_config}
    check_memory(lambda: FlowMatchingPolicy(FlowMatchingPolicyConfig(**{**values, **seen})))
    if config.context == "vision_language":
        policy = FlowMatchingPolicy(FlowMatchingPolicyConfig(**values))
        policy.processor = processor
        return policy
    assert tokenizer is not None
    config = FlowMatchingPolicyConfig(**values | {"tasks": tasks})
    return FlowMatchingPolicy.from_tokenizer(tokenizer, processor, config)


def _extend_policy(
    policy: FlowMatchingPolicy, robots: list[Embodiment], tasks: list[str], codes: CodeTable | None, num_cameras: int
) -> None:
    """Add unknown robots and tasks to a policy. Raises ValueError for data that it cannot take."""
    config = policy.config
    if config.context == "frames" and num_cameras > config.num_cameras:
        raise ValueError(f"the episodes have {num_cameras} cameras, the policy was built for {config.num_cameras}.")
    if codes is not None and (config.num_codes, config.codebook_size) != (codes.num_codes, codes.codebook_size):
        known = f"predicts {config.num_codes} codes of {config.codebook_size}" if config.num_codes else "predicts none"
        raise ValueError(
            f"the policy {known}, {codes.path} holds {codes.num_codes} of {codes.codebook_size}: begin with that table "
            "(--pretrain)."
        )
    for robot in robots:
        if robot.name not in policy.embodiments and policy.embodiments:
            known = ", ".join(map(repr, policy.embodiments))
            logger.warning(
                f"robot {robot.name!r} is new to the policy and starts with fresh weights; the policy has {known}. "
                f"If it is one of them, name it in the recipe: embodiments: {{{robot.name}: ...}}"
            )
        policy.add_embodiment(robot)
    policy.add_tasks(tasks)


# --- Pairs and split --------------------------------------------------------------------------------------------------


def _pair_stride(
    recipe: RefineRecipe,
    policy: FlowMatchingPolicy,
    tokenizer: LatentActionModel | None,
    demonstrations: list[Demonstration],
) -> tuple[str, int]:
    """Stride of the tokenizer's pairs, as given and in frames; warns if the tokenizer was trained on another."""
    if tokenizer is None:
        return "1f", 1
    chunk_size = policy.config.horizon
    trained_on = tokenizer.config.strides
    stride = recipe.lam_stride or (f"{chunk_size}f" if recipe.paper_exact else trained_on[0])
    lengths = {_stride_frames(Stride.parse(stride), each) for each in demonstrations}
    if len(lengths) > 1:
        listed = ", ".join(map(str, sorted(lengths)))
        raise ValueError(f"lam_stride {stride} is {listed} frames in different episodes: give it in frames, e.g. 5f.")
    frames = lengths.pop()
    if frames > chunk_size:
        raise ValueError(
            f"lam_stride {stride} is {frames} frames, and the policy predicts {chunk_size} actions: the pair must be "
            f"within the chunk. Give a shorter lam_stride, or horizon: {frames}."
        )
    trained_frames = {_stride_frames(Stride.parse(each), demonstrations[0]) for each in trained_on}
    if frames not in trained_frames and not recipe.paper_exact:
        logger.warning(
            f"stride mismatch: pairs are {frames} frames apart ({stride}), the tokenizer was trained on "
            f"{', '.join(trained_on)}, {', '.join(map(str, sorted(trained_frames)))} frames here."
        )
    return stride, frames


def _stride_frames(stride: Stride, demonstration: Demonstration) -> int:
    """The stride in frames at the episode's start; by the frame rate if the episode is shorter than the stride."""
    times = demonstration.first_sequence.timestamps
    future = int(stride.future_indices(times, np.array([0]))[0])
    return future if future >= 0 else stride.frames_at(demonstration.fps)


def _split(
    demonstrations: list[Demonstration], share: float, seed: int
) -> tuple[list[Demonstration], list[Demonstration]]:
    """(training, held-out) demonstrations, by episode as in stage 1."""
    paired = [PairedSequence(each.first_sequence, (StridePairs(0, each.num_frames, 0),)) for each in demonstrations]
    by_id = {(each.dataset, each.episode): each for each in demonstrations}
    training, heldout = (
        [by_id[each.sequence.dataset, each.sequence.episode] for each in side]
        for side in split_sequences(paired, share, seed)
    )
    return training, heldout
