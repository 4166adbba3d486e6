"""`Recipe`: the options of a stage-1 run, parsed from a YAML file and validated on construction."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lara_tokenizer._parse import shown
from lara_tokenizer.train.yaml_config import (
    YamlRecipe,
    override,
    parse_mapping,
    parse_section,
    parse_strings,
    refuse_unknown,
)

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionConfig

PRESETS = ("default", "paper_exact", "moto")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, slots=True)
class AugmentationOptions:
    """Random augmentation of frame pairs; every default means "off".

    Both frames of a pair are augmented alike, except by `view_shift` and `view_light`.

    Attributes:
        crop_scale: smallest share of the frame's side that a random crop keeps; 1 is no crop.
        brightness, contrast, saturation: factors are drawn from 1 +- this.
        hue: rotation of the colour circle, up to this share of it.
        flip: probability of a left-right mirror.
        reverse: probability of swapping the two frames, so that the direction of a motion cannot be guessed from one.
        view_shift: the encoder sees each frame shifted independently by up to this share of its side, while the
            decoder predicts the unshifted frame (cross augmentation).
        view_light: the same with colour gains of about 1 +- this.
    """

    crop_scale: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    flip: float = 0.0
    reverse: float = 0.0
    view_shift: float = 0.0
    view_light: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.crop_scale <= 1:
            raise ValueError(f"augmentation crop_scale {self.crop_scale}: takes a share in (0, 1]; 1 is no crop.")
        for name in ("brightness", "contrast", "saturation", "flip", "reverse", "view_light"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation {name} {getattr(self, name)}: takes 0 (off) to 1.")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"augmentation hue {self.hue}: takes 0 (off) to 0.5 of the colour circle.")
        if not 0 <= self.view_shift <= 0.5:
            raise ValueError(f"augmentation view_shift {self.view_shift}: takes 0 (off) to 0.5 of the frame's side.")

    @property
    def has_views(self) -> bool:
        """Whether the encoder sees other frames than the decoder (cross augmentation)."""
        return bool(self.view_shift or self.view_light)


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """Options that the training loops of all stages share.

    Attributes:
        steps: optimiser steps of the run.
        batch_size: samples per device and optimiser step.
        learning_rate: peak of the cosine schedule.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm.
        precision: fp32 or bf16 (autocast; weights stay in float32).
        workers: processes that decode frames and load batches; 0 loads in the training process.
        cache_frames: decode every frame once, before the first step, into a file of 3 x image_size^2 bytes per frame.
            False decodes on demand, for data too large for that; then `workers` limits the speed.
        log_steps: steps between logs. Held-out samples are measured at each one, or at every second or third ... where
            that would cost more than 5 % of the run.
        save_steps: steps between checkpoints.
        heldout_share: share of the episodes that is not trained on.
        seed: of initial weights and samples.
    """

    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    workers: int = 2
    cache_frames: bool = True
    log_steps: int = 50
    save_steps: int = 1000
    heldout_share: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        largest = {"steps": 10**9, "batch_size": 2**16, "log_steps": 10**9, "save_steps": 10**9}
        for name, limit in largest.items():
            if not 1 <= getattr(self, name) <= limit:
                raise ValueError(f"training {name} {getattr(self, name)}: takes at least 1, at most {limit:,}.")
        if not 0 <= self.workers <= 1024:
            raise ValueError(f"training workers {self.workers}: takes 0 to 1,024.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"training seed {self.seed}: takes 0 to {2**32 - 1}.")
        for name in ("learning_rate", "weight_decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"training {name} {getattr(self, name)}: takes 0 or more.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"training precision {shown(self.precision)}: takes one of {', '.join(PRECISIONS)}.")
        if not 0 < self.heldout_share < 1:
            raise ValueError(f"training heldout_share {self.heldout_share}: takes a share of the episodes in (0, 1).")


@dataclass(frozen=True, slots=True)
class TrainingOptions(LoopOptions):
    """Options of the stage-1 training loop, beside those of `LoopOptions`.

    Attributes:
        warmup_steps: steps over which the learning rate rises.
        compile: use torch.compile.
        grace_steps: steps after the start of the codebook before a collapse of z stops training.
        heldout_pairs: held-out pairs that each check measures.
        flow_weight: weight of the loss that regresses the normal flow from z, 0 for none (see losses.py).
        start_at_change: initialize the first layer of the M-Former as the difference of the two frames
            (see difference_init.py).
        frame_rate: frames of each camera a second to train on, at most: those nearest to a regular grid of its clock.
            Others are neither decoded nor cached, and pairs are as far apart as the strides say. 0 takes all.
        target_weight: weight of the loss that regresses the motion map of the matching inverse model onto the teachers
            of targets/motion_targets.py, 0 for none.
        target_encoder: folder or Hub id of a frozen vision encoder, the change of whose features is one of these
            teachers; "" for none. Needs cache_frames, and no augmentation that moves pixels.
        detach_latents: keep the gradient of the reconstruction from z, which then follows its targets alone.
    """

    warmup_steps: int = 100
    compile: bool = False
    grace_steps: int = 500
    heldout_pairs: int = 256
    flow_weight: float = 0.0
    start_at_change: bool = False
    frame_rate: float = 0.0
    target_weight: float = 0.0
    target_encoder: str = ""
    detach_latents: bool = False

    def __post_init__(self) -> None:
        LoopOptions.__post_init__(self)  # super() does not work in a dataclass with slots
        if not 2 <= self.heldout_pairs <= 2**16:
            raise ValueError(
                f"training heldout_pairs {self.heldout_pairs}: takes at least 2, so that codes can be shuffled, and at "
                f"most {2**16:,}."
            )
        for name in ("warmup_steps", "grace_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"training {name} {getattr(self, name)}: takes 0 or more.")
        for name in ("flow_weight", "target_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"training {name} {getattr(self, name)}: takes 0 (off) or more.")
        if self.frame_rate and not 0.01 <= self.frame_rate <= 1000:
            raise ValueError(f"training frame_rate {self.frame_rate}: takes 0 (all frames), or 0.01 to 1000 a second.")
        for name in ("target_encoder", "detach_latents"):
            if getattr(self, name) and not self.target_weight:
                raise ValueError(f"training {name} belongs to the targets: set target_weight, or leave it out.")
        if self.target_encoder and not self.cache_frames:
            raise ValueError(
                "training target_encoder: its features are kept beside the cached frames, and cache_frames is false. "
                "Set it to true, or leave out target_encoder."
            )


@dataclass(frozen=True, slots=True)
class Recipe(YamlRecipe):
    """The options of a stage-1 run, and its data too if it names `sources`.

    Attributes:
        preset: the `LatentActionConfig` to start from.
        model: keywords of the config that differ from the preset.
        vision_encoder: folder or Hub id of pretrained weights of the vision encoder; None starts from random weights.
        steady_pairs: global motion compensation of pairs by the processor; saved with the model.
        augmentation: see `AugmentationOptions`.
        training: see `TrainingOptions`.
        sources: as `load_episodes` takes them, used if a run is given no other; each dataset is sampled equally often.

    >>> Recipe.parse({"preset": "default", "model": {"image_size": 64}, "training": {"steps": 10}}).training.steps
    10
    """

    preset: str = "default"
    model: Mapping[str, Any] = field(default_factory=dict)
    vision_encoder: str | None = None
    steady_pairs: bool = False
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    sources: tuple[str, ...] = ()

    @classmethod
    def _parse_fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        training = _without_direction_weight(values.get("training"))
        return values | {
            "model": parse_mapping("model", values.get("model")),
            "augmentation": parse_section(AugmentationOptions, "augmentation", values.get("augmentation")),
            "training": parse_section(TrainingOptions, "training", training),
            "sources": parse_strings("sources", values.get("sources")),
        }

    def __post_init__(self) -> None:
        if not isinstance(self.steady_pairs, bool):
            raise ValueError(f"steady_pairs: takes true or false, got {shown(self.steady_pairs)}.")
        if self.vision_encoder is not None and not isinstance(self.vision_encoder, str):
            raise ValueError(f"vision_encoder: takes a folder or a Hub id, got {shown(self.vision_encoder)}.")
        if self.training.start_at_change and self.vision_encoder is not None:
            raise ValueError(
                "training start_at_change sets the vision encoder's weights, and vision_encoder names pretrained ones: "
                "leave out one of the two."
            )
        if self.training.target_encoder and (self.augmentation.crop_scale < 1 or self.augmentation.flip):
            raise ValueError(
                "training target_encoder: its features are those of whole frames, and augmentation crop_scale or flip "
                "moves their pixels. Set crop_scale to 1 and flip to 0, or leave out target_encoder."
            )
        if self.preset not in PRESETS:
            raise ValueError(f"preset {shown(self.preset)}: takes one of {', '.join(PRESETS)}.")

    def override(self, **options: Any) -> Recipe:
        """A copy with some training options replaced; None leaves an option unchanged."""
        return replace(self, training=override(self.training, **options))

    def build_config(self) -> LatentActionConfig:
        """Build the model's config: the preset updated by `model`. Raises ValueError for an unknown keyword."""
        from lara_tokenizer.model import LatentActionConfig

        refuse_unknown("model", self.model, config_keywords())
        build = LatentActionConfig if self.preset == "default" else getattr(LatentActionConfig, self.preset)
        return build(**self.model)


def config_keywords() -> list[str]:
    """Keywords of `LatentActionConfig`, the allowed keys of a recipe's `model`."""
    from lara_tokenizer.model import LatentActionConfig

    parameters = inspect.signature(LatentActionConfig.__init__).parameters.values()
    return [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]


def _without_direction_weight(training: Any) -> Any:
    """Refuse a removed option; recipes in the logs of earlier runs may still carry it as 0."""
    if not isinstance(training, Mapping) or "direction_weight" not in training:
        return training
    if training["direction_weight"]:
        raise ValueError(
            "training direction_weight was removed: z learned to separate the directions of a pair without learning "
            "its motion. Use flow_weight, with augmentation reverse: 0.5 (see docs/lara-lam.md)."
        )
    return {name: value for name, value in training.items() if name != "direction_weight"}
