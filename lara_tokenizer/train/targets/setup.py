"""Preparation of a run with targets: checks, features of all frames, scales of the targets, targets of many pairs.

Shape suffixes: B pairs, M channels of the motion map, G cells per side.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig

from lara_tokenizer.errors import printable
from lara_tokenizer.model import LatentActionConfig, LatentActionProcessor
from lara_tokenizer.train.augment import stabilize_pairs, to_unit_range
from lara_tokenizer.train.frames import FrameCache, FrameSource
from lara_tokenizer.train.pairs import INIT_PAIRS, PairDataset
from lara_tokenizer.train.recipe import TrainingOptions
from lara_tokenizer.train.targets.features import TargetFeatures
from lara_tokenizer.train.targets.motion_targets import MotionTargets, cells_per_side, channel_groups
from lara_tokenizer.train.targets.start import START_PAIRS

# Pairs at a time: larger arrays are taken from and given back to the system, which takes longer than the sums.
CHUNK = 64


def check_targets(options: TrainingOptions, config: LatentActionConfig) -> None:
    """Raise ValueError, before hours of decoding, if model and targets, or strides and frame rate, do not fit."""
    if options.target_encoder:
        _check_encoder(options.target_encoder)
    if options.target_weight:
        cells_per_side(config, channel_groups(with_features=bool(options.target_encoder)))
    in_frames = [stride for stride in config.strides if stride.endswith("f")]
    if options.frame_rate and in_frames:
        raise ValueError(
            f"training frame_rate leaves out frames, and stride {in_frames[0]!r} counts them. Write strides in seconds."
        )


def _check_encoder(name: str) -> None:
    """Raise ValueError for an encoder that is neither a folder nor on the Hub; downloads its config at most."""
    if Path(name).is_dir():
        return
    try:
        AutoConfig.from_pretrained(name)
    except (OSError, ValueError):
        raise ValueError(
            f"training target_encoder {printable(name)}: neither a folder here nor a model that the Hub gives. Name a "
            "vision encoder of transformers in a copy of the recipe (lara-tok recipes lam > mine.yaml), or take a "
            "recipe without one, such as lam_sim."
        ) from None


def open_features(
    frames: FrameSource, options: TrainingOptions, config: LatentActionConfig, progress: Callable[[int, int], None]
) -> TargetFeatures | None:
    """Features of the target encoder, computed where they are not there yet; None without one."""
    if not options.target_encoder:
        return None
    assert isinstance(frames, FrameCache)  # see TrainingOptions
    groups = channel_groups(with_features=True)
    return TargetFeatures.build(frames, options.target_encoder, cells_per_side(config, groups), progress)


def fit_targets(pairs: PairDataset, config: LatentActionConfig, processor: LatentActionProcessor) -> MotionTargets:
    """Targets in the scale of the first pairs."""
    parts = [_stabilized(pairs, range(first, first + CHUNK), processor) for first in range(0, INIT_PAIRS, CHUNK)]
    features = [part[1] for part in parts if part[1] is not None]
    return MotionTargets(config, torch.cat([part[0] for part in parts]), torch.cat(features) if features else None)


def target_maps(pairs: PairDataset, targets: MotionTargets, processor: LatentActionProcessor) -> Tensor:
    """Targets of the first pairs, without augmentation: (B, M, G, G)."""
    parts = [
        targets(*_stabilized(pairs, range(first, first + CHUNK), processor)) for first in range(0, START_PAIRS, CHUNK)
    ]
    return torch.cat(parts)


def _stabilized(pairs: PairDataset, rows: range, processor: LatentActionProcessor) -> tuple[Tensor, Tensor | None]:
    """Some pairs and their features."""
    batch = pairs.__getitems__(rows)
    return stabilize_pairs(to_unit_range(batch["frames"]), processor), batch.get("features")
