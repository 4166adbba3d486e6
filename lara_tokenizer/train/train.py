"""From a source of video and a recipe to a saved checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Unpack

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import set_seed

from lara_tokenizer.data import Episode, LoadOptions
from lara_tokenizer.errors import missing_extra
from lara_tokenizer.model import LatentActionConfig, LatentActionModel, LatentActionProcessor
from lara_tokenizer.train.augment import normalise, steady_pairs, to_unit_range
from lara_tokenizer.train.change_start import start_at_change
from lara_tokenizer.train.frames import FrameCache
from lara_tokenizer.train.mixture import PairedStream, find_pairs, split_streams
from lara_tokenizer.train.monitor import HeldOutMonitor
from lara_tokenizer.train.pairs import START_PAIRS, FrameSource, PairDataset
from lara_tokenizer.train.reader_frames import ReaderFrames
from lara_tokenizer.train.recipe import Recipe, config_keywords
from lara_tokenizer.train.run_folder import as_episodes, find_checkpoint, keep_log_until

logger = logging.getLogger(__name__)


def plan_training(recipe: Recipe) -> dict[str, Any]:
    """What a recipe would train, on the meta device: no weights, no data, no download.

    >>> plan_training(Recipe.load("paper_lam.yaml"))["trainable_parameters"]  # doctest: +SKIP
    121210944

    Returns sizes, parameter counts, steps, pairs and floating-point operations (two a multiply-add).
    """
    config, training = recipe.build_config(), recipe.training
    with torch.device("meta"):
        model = LatentActionModel(config)
    # Fake tensors have no storage either, but a real device's name, which autocast asks for.
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
    progress: Callable[[str, int, int, dict[str, float]], None] | None = None,
    **load: Unpack[LoadOptions],
) -> dict[str, Any]:
    """Train on `source` (whatever `load_episodes` takes, or episodes) and leave a whole checkpoint in `out`.

    `load` are the keywords of `load_episodes`. Every dataset of the source is drawn equally often, and within it every
    episode's camera; None takes the recipe's sources.

    `out` holds config.json, model.safetensors, preprocessor_config.json, training_log.json, training_log.jsonl (a line
    every log) and checkpoints/; `frames` (default out/frames) is the cache of decoded frames, which runs may share;
    there is none where the recipe says cache_frames: false.
    `progress(phase, done, total, logs)` is called while "frames" are decoded and at each log of "steps".

    Returns a summary: steps, pairs, episodes, the last held-out measures, and for each dataset how many episodes,
    streams and pairs it trains with and which strides it can meet.
    Raises CollapseError when z or the codebook dies, ValueError for a source, recipe or folder that cannot be used.
    """
    if find_spec("accelerate") is None:
        raise missing_extra("training", "train")
    # Late: transformers refuses to define its training arguments' device without accelerate.
    from lara_tokenizer.train.trainer import LOG_LINES, LatentActionTrainer

    out, training = Path(out), recipe.training
    checkpoint = find_checkpoint(out, resume, "model.safetensors")
    set_seed(training.seed)
    config = recipe.build_config()
    size = {"height": config.image_size, "width": config.image_size}
    processor = LatentActionProcessor(size=size, steady_pairs=recipe.steady_pairs)
    if frames is not None and not training.cache_frames:
        raise ValueError(f"a cache folder, {frames}, was given, but the recipe says cache_frames: false. Drop one.")
    report = progress or (lambda phase, done, total, logs: None)
    episodes = as_episodes(recipe.sources if source is None else source, load)
    pixels: FrameSource
    if training.cache_frames:
        pixels = FrameCache.build(
            episodes,
            processor,
            frames or out / "frames",
            workers=training.workers,
            progress=lambda done, total: report("frames", done, total, {}),
        )
    else:
        pixels = ReaderFrames(episodes, processor)
    kept, heldout = split_streams(find_pairs(pixels.streams, config.strides), training.heldout_share, training.seed)
    pairs = PairDataset(pixels, kept, training.seed)
    # The same pairs at every check and in every run of one seed.
    watched = PairDataset(pixels, heldout).batch(range(training.heldout_pairs))
    out.mkdir(parents=True, exist_ok=True)
    keep_log_until(out / LOG_LINES, checkpoint)
    model = _build_model(recipe, config)
    if training.start_at_change:
        sample = steady_pairs(to_unit_range(pairs.batch(range(START_PAIRS))), processor)
        start_at_change(model, *normalise(sample, processor.image_mean, processor.image_std), training.seed)
    trainer = LatentActionTrainer(
        model,
        processor,
        training,
        recipe.augmentation,
        pairs,
        HeldOutMonitor(watched, processor),
        out,
        progress=lambda step, logs: report("steps", step, training.steps, logs),
    )
    pixels.close()
    trainer.train(resume_from_checkpoint=checkpoint)
    summary = {
        "episodes": _count_episodes(kept),
        "heldout_episodes": _count_episodes(heldout),
        "pairs": len(pairs),
        "steps": trainer.state.global_step,
        "datasets": _describe(kept, config.strides),
        **_last_measures(trainer.state.log_history),
    }
    save_checkpoint(model, processor, out)
    log = {"recipe": recipe.to_dict(), "summary": summary, "history": trainer.state.log_history}
    (out / "training_log.json").write_text(json.dumps(log, indent=2) + "\n", encoding="utf-8")
    return summary


def save_checkpoint(model: LatentActionModel, processor: LatentActionProcessor, out: str | Path) -> None:
    """Fold the standardisation of z into the last linear layer and write model and processor whole, in float32."""
    model = model.eval().float()
    if model.config.standardize_latents:
        model.fold_standardization()
    model.save_pretrained(out)
    processor.save_pretrained(out)


def _build_model(recipe: Recipe, config: LatentActionConfig) -> LatentActionModel:
    if recipe.vision_encoder is None:
        if config.freeze_vision_encoder:
            raise ValueError(
                "the vision encoder is frozen but has random weights: name pretrained ones as vision_encoder in the "
                "recipe (a folder or a Hub id), or set freeze_vision_encoder to false."
            )
        return LatentActionModel(config)
    overrides = {name: getattr(config, name) for name in config_keywords() if name != "vision_config"}
    return LatentActionModel.from_vision_pretrained(recipe.vision_encoder, **overrides)


def _count_episodes(streams: Sequence[PairedStream]) -> int:
    return len({(each.stream.dataset, each.stream.episode) for each in streams})


def _describe(streams: Sequence[PairedStream], strides: Sequence[str]) -> dict[str, dict[str, Any]]:
    described = {}
    for dataset in sorted({each.stream.dataset for each in streams}):
        own = [each for each in streams if each.stream.dataset == dataset]
        met = {pairs.stride for each in own for pairs in each.pairs}
        described[dataset] = {
            "episodes": _count_episodes(own),
            "streams": len(own),
            "pairs": sum(pairs.count for each in own for pairs in each.pairs),
            "strides": [stride for number, stride in enumerate(strides) if number in met],
        }
    return described


def _last_measures(history: list[dict[str, float]]) -> dict[str, float]:
    last = next((line for line in reversed(history) if "heldout_z_gain" in line), {})
    return {name: value for name, value in last.items() if name.startswith("heldout_")}
