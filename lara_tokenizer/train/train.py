"""`train_latent_action_model`: stage 1, from a video source and a recipe to a saved checkpoint.

`as_episodes`, `find_checkpoint` and `keep_log_until` begin the runs of every stage.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Unpack

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerState, set_seed

from lara_tokenizer._parse import read_json_object
from lara_tokenizer.data import Episode, LoadOptions
from lara_tokenizer.errors import first_line, missing_extra
from lara_tokenizer.model import LatentActionConfig, LatentActionModel, LatentActionProcessor
from lara_tokenizer.thresholds import IDLE_MOTION
from lara_tokenizer.train.augment import LoadedViews, normalize, stabilize_pairs, to_unit_range
from lara_tokenizer.train.difference_init import initialize_from_difference
from lara_tokenizer.train.frames import FrameCache, FrameSource, ReaderFrames
from lara_tokenizer.train.mixture import PairedSequence, find_pairs, split_sequences
from lara_tokenizer.train.pairs import INIT_PAIRS, PairDataset, pixel_ranges
from lara_tokenizer.train.recipe import LoopOptions, Recipe, TrainingOptions, config_keywords
from lara_tokenizer.train.targets.motion_targets import MotionTargets
from lara_tokenizer.train.targets.setup import check_targets, fit_targets, open_features, target_maps
from lara_tokenizer.train.targets.start import initialize_latents, initialize_motion
from lara_tokenizer.train.watch import CHECKPOINTS, LOG_LINES, Progress, ignore_progress
from lara_tokenizer.train.watch.monitor import HeldOutMonitor
from lara_tokenizer.train.watch.trackers import check_tracker
from lara_tokenizer.verdict.card import CARD
from lara_tokenizer.verdict.heldout import heldout_verdict, run_card


def plan_training(recipe: Recipe) -> dict[str, Any]:
    """Sizes and cost of a recipe's run, computed on the meta device: no weights, no data, no download.

    Returns sizes, parameter counts, steps, pairs and floating-point operations (two per multiply-add).

    >>> plan_training(Recipe.load("paper_lam.yaml"))["trainable_parameters"]  # doctest: +SKIP
    121210944
    """
    config = recipe.build_config()
    training = recipe.training
    with torch.device("meta"):
        model = LatentActionModel(config)
    # Fake tensors have no storage either, but the name of a real device, which autocast needs.
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        frames = torch.empty(1, 3, config.image_size, config.image_size)
        forward = _flops(lambda: model.eval()(frames, frames), torch.no_grad())
        step = _flops(lambda: model.train()(frames, frames).loss.backward(), nullcontext())
    counts = {True: 0, False: 0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    pairs = training.steps * training.batch_size
    return {
        "image_size": config.image_size,
        "codes": f"{config.num_latents} x {config.codebook_size} codes of {config.codebook_dim} numbers",
        "strides": config.strides,
        "trainable_parameters": counts[True],
        "frozen_parameters": counts[False],
        "steps": training.steps,
        "batch_size": training.batch_size,
        "pairs": pairs,
        "forward_gflop_per_pair": round(forward / 1e9, 3),
        "training_gflop_per_pair": round(step / 1e9, 3),
        "training_exaflop": round(step * pairs / 1e18, 6),
    }


def _flops(run: Callable[[], object], context: AbstractContextManager) -> int:
    with context, FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def train_latent_action_model(
    source: str | Path | Sequence[str | Path] | Sequence[Episode] | None,
    recipe: Recipe,
    *,
    out: str | Path,
    frames: str | Path | None = None,
    resume: bool = False,
    progress: Progress = ignore_progress,
    tracker: str | None = None,
    **load: Unpack[LoadOptions],
) -> dict[str, Any]:
    """Train on a source and save the checkpoint in `out`.

    Every dataset of the source is sampled equally often, and within it every camera of every episode. `out` will
    contain config.json, model.safetensors, preprocessor_config.json, card.json, training_log.json, training_log.jsonl
    (one line per log), curves.png and checkpoints/.

    Args:
        source: whatever `load_episodes` takes, or episodes; None takes the recipe's sources.
        recipe: model, augmentation and training options.
        out: the run's folder.
        frames: folder of the cache of decoded frames (default out/frames), which runs may share; not used if the
            recipe sets cache_frames: false.
        resume: continue from the last checkpoint in `out`.
        progress: told how far the run is, see `Progress`.
        tracker: "tensorboard" (events in out/tensorboard), "trackio" or "wandb".
        load: keywords of `load_episodes`.

    Returns:
        A summary: steps, pairs, episodes, the last held-out measures, a verdict with its reason, and per dataset the
        counts of its episodes, camera sequences ("streams") and pairs, and the strides that its frame rate allows.

    Raises:
        CollapseError: z or the codebook collapsed. The log and its curves are kept.
        ValueError: a source, recipe or folder that cannot be used.
    """
    check_tracker(tracker)
    if find_spec("accelerate") is None:
        raise missing_extra("training", "train")
    # Late: transformers refuses to define its training arguments' device without accelerate.
    from lara_tokenizer.train.trainer import LatentActionTrainer

    out, training = Path(out), recipe.training
    checkpoint = find_checkpoint(out, resume, "model.safetensors")
    set_seed(training.seed)
    config = recipe.build_config()
    size = {"height": config.image_size, "width": config.image_size}
    processor = LatentActionProcessor(size=size, steady_pairs=recipe.steady_pairs)
    if frames is not None and not training.cache_frames:
        raise ValueError(f"a cache folder, {frames}, was given, but the recipe has cache_frames: false. Leave out one.")
    episodes = as_episodes(recipe.sources if source is None else source, load)
    recipe = replace(recipe, sources=sources_of(source, episodes, recipe.sources))
    check_targets(training, config)
    pixels = open_frames(
        episodes, processor, recipe.training, frames or out / "frames", progress, frame_rate=training.frame_rate
    )
    features = open_features(pixels, training, config, lambda done, total: progress("features", done, total, {}))
    paired = find_pairs(pixels.sequences, config.strides)
    training_sequences, heldout = split_sequences(paired, training.heldout_share, training.seed)
    pairs = PairDataset(pixels, training_sequences, training.seed, min_motion=IDLE_MOTION, features=features)
    # The same pairs at every check and in every run of one seed.
    heldout_pairs = PairDataset(pixels, heldout, min_motion=IDLE_MOTION, features=features)
    measured = heldout_pairs.__getitems__(range(training.heldout_pairs))
    progress("start", 0, training.steps, {})
    targets = fit_targets(pairs, config, processor) if training.target_weight else None
    out.mkdir(parents=True, exist_ok=True)
    keep_log_until(out / LOG_LINES, checkpoint)
    model = _build_model(recipe, config)
    if checkpoint is None:
        _initialize(model, training, pairs, targets, processor)
    # On a CPU loader processes make the views. A GPU makes them faster itself, but not the targets.
    if training.workers and (targets is not None or not torch.accelerator.is_available()):
        pairs.prepare = LoadedViews(recipe.augmentation, processor, training.seed, targets)
    trainer = LatentActionTrainer(
        model,
        processor,
        training,
        recipe.augmentation,
        pairs,
        HeldOutMonitor(measured["frames"], processor, targets, measured.get("features")),
        out,
        targets,
        progress,
        tracker,
        first_step=step_of(checkpoint),
    )
    ranges = pixel_ranges(pairs)
    pixels.close()  # before loader processes may fork
    trainer.train(resume_from_checkpoint=checkpoint)
    summary = _summarize(trainer.state, training_sequences, heldout, config)
    save_checkpoint(model, processor, out)
    card = run_card(summary, config.strides, config.codebook_size, ranges)
    (out / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    log = {"recipe": recipe.to_dict(), "summary": summary, "history": trainer.state.log_history}
    (out / "training_log.json").write_text(json.dumps(log, indent=2) + "\n", encoding="utf-8")
    return summary


def open_frames(
    episodes: Sequence[Episode],
    processor: LatentActionProcessor,
    options: LoopOptions,
    folder: str | Path,
    progress: Progress = ignore_progress,
    *,
    frame_rate: float = 0.0,
) -> FrameSource:
    """Frames of the episodes at the processor's size: decoded once into `folder`, or on demand (`cache_frames`)."""
    if not options.cache_frames:
        return ReaderFrames(episodes, processor, frame_rate=frame_rate)
    return FrameCache.build(
        episodes,
        processor,
        folder,
        frame_rate=frame_rate,
        workers=options.workers,
        progress=lambda done, total: progress("frames", done, total, {}),
    )


def save_checkpoint(model: LatentActionModel, processor: LatentActionProcessor, out: str | Path) -> None:
    """Write model and processor in float32, the batch norm on z folded into the last linear layer."""
    model = model.eval().float()
    if model.config.standardize_latents:
        model.fold_standardization()
    model.save_pretrained(out)
    processor.save_pretrained(out)


def check_memory(build: Callable[[], torch.nn.Module]) -> None:
    """Raise ValueError if the weights that `build` makes are larger than this machine's memory.

    The kernel would grant the memory, and kill the process once the weights are drawn.
    """
    # Without a draw of the generator that the run was seeded by.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        needed = sum(4 * parameter.numel() for parameter in build().parameters())
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ValueError(
            f"the model's weights are {needed / 1e9:,.1f} GB, and this machine has {memory / 1e9:,.1f} GB of memory: "
            "reduce its sizes in the recipe."
        )


def _build_model(recipe: Recipe, config: LatentActionConfig) -> LatentActionModel:
    check_memory(lambda: LatentActionModel(config))
    if recipe.vision_encoder is None:
        if config.freeze_vision_encoder:
            raise ValueError(
                "the vision encoder is frozen but has random weights: name pretrained ones as vision_encoder in the "
                "recipe (a folder or a Hub id), or set freeze_vision_encoder to false."
            )
        return LatentActionModel(config)
    overrides = {name: getattr(config, name) for name in config_keywords() if name != "vision_config"}
    return LatentActionModel.from_vision_pretrained(recipe.vision_encoder, **overrides)


def _initialize(
    model: LatentActionModel,
    training: TrainingOptions,
    pairs: PairDataset,
    targets: MotionTargets | None,
    processor: LatentActionProcessor,
) -> None:
    """Initial weights that depend on data."""
    if training.start_at_change:
        sample = stabilize_pairs(to_unit_range(pairs.batch(range(INIT_PAIRS))), processor)
        now, future = normalize(sample, processor.image_mean, processor.image_std)
        initialize_from_difference(model, now, future, training.seed)
    if targets is not None:
        initialize_motion(model)
        initialize_latents(model, target_maps(pairs, targets, processor), targets.groups)


def as_episodes(source: Any, load: LoadOptions) -> Sequence[Episode]:
    """Resolve a source to episodes; episodes are returned as they are.

    Raises ValueError for an empty source, and for loading options beside loaded episodes.
    """
    if isinstance(source, Sequence) and not isinstance(source, str) and source and isinstance(source[0], Episode):
        if load:
            raise ValueError(f"{min(load)}: these episodes are loaded already. Give it to load_episodes")
        return source
    if not source and not load.get("from_list"):
        raise ValueError("training needs a source: give one, or name `sources` in the recipe.")
    from lara_tokenizer.data import load_episodes  # late: in-memory episodes need no decoder

    return load_episodes(source or (), **load)


def sources_of(source: Any, episodes: Sequence[Episode], of_recipe: tuple[str, ...]) -> tuple[str, ...]:
    """The sources that a run reads, as they were named, for its log; () for episodes made in memory."""
    if source is None:
        return of_recipe
    if isinstance(source, str | Path):
        return (str(source),)
    if source and not isinstance(source[0], Episode):
        return tuple(map(str, source))
    return getattr(episodes, "named", ())


def find_checkpoint(out: Path, resume: bool, result: str) -> str | None:
    """The checkpoint to resume, or None for a new run.

    Args:
        out: the run's folder.
        resume: whether the user asked to resume.
        result: name of a file that a finished run leaves in `out`.

    Raises:
        ValueError: there is nothing to resume, its state is damaged, or a run would be overwritten.
    """
    folder = out / CHECKPOINTS
    # Trainer writes its state last: a folder without it was left by a kill during a save.
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    complete = [path for path in complete if path.name.rpartition("-")[2].isdecimal()]
    last = str(max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if complete else None
    if resume and last is None:
        raise ValueError(f"{folder} holds no checkpoint to resume. Start without --resume.")
    if resume and last is not None:
        _check_state(Path(last))
    if not resume and (last is not None or (out / result).exists()):
        raise ValueError(f"{out} holds a training run already. Resume it with --resume, or give another folder.")
    return last


def _check_state(folder: Path) -> None:
    """Raise ValueError if Trainer's state in a checkpoint is not that of its step."""
    file = folder / "trainer_state.json"
    read_json_object(file)
    try:
        state = TrainerState.load_from_json(str(file))
    except Exception as error:  # of entries that are unknown or of another type
        raise ValueError(f"{file} is damaged ({first_line(error)}). Delete {folder}, or start anew.") from error
    if state.global_step != int(folder.name.rpartition("-")[2]) or not isinstance(state.log_history, list):
        raise ValueError(f"{file} is not the state of its step. Delete {folder}, or start anew.")


def step_of(checkpoint: str | None) -> int:
    """The step of a checkpoint, 0 for none."""
    return int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0


def keep_log_until(path: Path, checkpoint: str | None) -> None:
    """Drop the lines of a log after a checkpoint, which the resumed run writes again; None drops all."""
    if not path.exists():
        return
    last = step_of(checkpoint)
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] <= last]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: a damaged log ({first_line(error)}). Delete it, or move it away.") from error
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _summarize(
    state: TrainerState,
    training: Sequence[PairedSequence],
    heldout: Sequence[PairedSequence],
    config: LatentActionConfig,
) -> dict[str, Any]:
    measured = _last_measures(state.log_history)
    verdict = heldout_verdict(measured, config.codebook_size)
    return {
        "episodes": _count_episodes(training),
        "heldout_episodes": _count_episodes(heldout),
        "pairs": sum(pairs.count for each in training for pairs in each.pairs),
        "steps": state.global_step,
        "datasets": _describe(training, config.strides),
        **measured,
        "verdict": verdict.grade,
        "reason": verdict.reason,
    }


def _count_episodes(sequences: Sequence[PairedSequence]) -> int:
    return len({(each.sequence.dataset, each.sequence.episode) for each in sequences})


def _describe(sequences: Sequence[PairedSequence], strides: Sequence[str]) -> dict[str, dict[str, Any]]:
    described = {}
    for dataset in sorted({each.sequence.dataset for each in sequences}):
        own = [each for each in sequences if each.sequence.dataset == dataset]
        used = {pairs.stride for each in own for pairs in each.pairs}
        described[dataset] = {
            "episodes": _count_episodes(own),
            "streams": len(own),
            "pairs": sum(pairs.count for each in own for pairs in each.pairs),
            "strides": [stride for index, stride in enumerate(strides) if index in used],
        }
    return described


def _last_measures(history: list[dict[str, float]]) -> dict[str, float]:
    last = next((line for line in reversed(history) if "heldout_z_gain" in line), {})
    return {name: value for name, value in last.items() if name.startswith("heldout_")}
