"""A training recipe: plain numbers in a YAML file, checked at birth."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lara_tokenizer.train.plain import field_names, load_yaml, refuse_unknown, section, texts

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionConfig

PRESETS = ("default", "paper_exact", "moto")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, slots=True)
class AugmentationOptions:
    """One draw a pair, the same for both frames; every default is "off".

    crop_scale: the smallest share of the frame's side that a random crop keeps (1 = no crop).
    brightness, contrast, saturation: factors drawn from 1 +- this. hue: a turn of the colour circle, up to this share.
    flip: probability of a left-right mirror. reverse: probability of swapping the two frames (time runs backwards),
    so that the direction of a motion cannot be guessed from one frame.

    view_shift, view_light: the inverse model sees each frame moved by up to this share of its side and lit by factors
    of about 1 +- this, by a draw of its own, and the decoder is asked for the frame without (cross augmentation).
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


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How long, how fast, how often to look.

    batch_size: pairs that one device takes in one optimiser step. workers: processes that decode frames and load
    batches (0: none beside this one). cache_frames: decode every frame once, before the first step, into a file (a
    frame takes 3 x image_size x image_size bytes); false decodes what is drawn when it is drawn, for data too large for
    that, and then workers are what feeds the device. grace_steps: how long after the codebook's start z may look dead.
    heldout_share: of the episodes, kept from training; heldout_pairs: how many of their pairs each log looks at.
    direction_weight: above 0, a batch holds its pairs in both directions and this weighs the loss that keeps the
    direction of time visible in z (see direction.py). flow_weight: of the loss that asks z to tell where
    what moves which way (see normal_flow.py). start_at_change: the first layer of the M-Former starts as the
    difference of the two frames (see change_start.py).
    """

    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 3e-4
    warmup_steps: int = 100
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    compile: bool = False
    workers: int = 2
    cache_frames: bool = True
    log_steps: int = 50
    save_steps: int = 1000
    grace_steps: int = 500
    heldout_share: float = 0.05
    heldout_pairs: int = 256
    direction_weight: float = 0.0
    flow_weight: float = 0.0
    start_at_change: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_steps", "save_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"training {name} {getattr(self, name)}: takes at least 1.")
        if self.heldout_pairs < 2:
            raise ValueError(
                f"training heldout_pairs {self.heldout_pairs}: takes at least 2, so that codes can be shuffled."
            )
        for name in ("direction_weight", "flow_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"training {name} {getattr(self, name)}: takes 0 (off) or more.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"training precision '{self.precision}': takes one of {', '.join(PRECISIONS)}.")
        if not 0 < self.heldout_share < 1:
            raise ValueError(f"training heldout_share {self.heldout_share}: takes a share of the episodes in (0, 1).")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything a stage-1 run is; its data too where it names `sources`.

    >>> Recipe.parse({"preset": "default", "model": {"image_size": 64}, "training": {"steps": 10}}).training.steps
    10

    preset: which `LatentActionConfig` to start from; model: its keywords that differ. steady_pairs: the processor's
    option of that name, which is saved with the model. vision_encoder: a folder or
    Hub id whose weights the vision encoder starts from; None starts from random weights. sources: what `load_episodes`
    takes, for a run that is given no other; each dataset among them is drawn equally often.
    """

    preset: str = "default"
    model: Mapping[str, Any] = field(default_factory=dict)
    vision_encoder: str | None = None
    steady_pairs: bool = False
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    sources: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a YAML file as plain data. Raises ValueError for what is no recipe, naming the file and the key."""
        return load_yaml(path, cls.parse)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe from nested mappings. Raises ValueError for an unknown key or a wrong type."""
        refuse_unknown("recipe", values, field_names(cls))
        values = dict(values)
        values["model"] = dict(values.get("model") or {})
        values["augmentation"] = section(AugmentationOptions, "augmentation", values.get("augmentation"))
        values["training"] = section(TrainingOptions, "training", values.get("training"))
        values["sources"] = texts("sources", values.get("sources"))
        recipe = cls(**values)
        if not isinstance(recipe.steady_pairs, bool):
            raise ValueError(f"steady_pairs: takes true or false, got {recipe.steady_pairs!r}.")
        if recipe.training.start_at_change and recipe.vision_encoder is not None:
            raise ValueError(
                "training start_at_change sets the vision encoder's weights, and vision_encoder names pretrained ones: "
                "leave out one of the two."
            )
        if recipe.preset not in PRESETS:
            raise ValueError(f"preset '{recipe.preset}': takes one of {', '.join(PRESETS)}.")
        return recipe

    def override(self, **options: Any) -> Recipe:
        """The same recipe with some of its training numbers replaced; None leaves a number as it is."""
        changed = {name: value for name, value in options.items() if value is not None}
        return replace(self, training=replace(self.training, **changed))

    def build_config(self) -> LatentActionConfig:
        """The model's config: the preset with `model` on top. Raises ValueError for a keyword it does not have."""
        from lara_tokenizer.model import LatentActionConfig

        refuse_unknown("model", self.model, config_keywords())
        build = LatentActionConfig if self.preset == "default" else getattr(LatentActionConfig, self.preset)
        return build(**self.model)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `parse` takes."""
        return asdict(self)


def config_keywords() -> list[str]:
    """The keywords of `LatentActionConfig`: what a recipe's `model` may hold."""
    from lara_tokenizer.model import LatentActionConfig

    parameters = inspect.signature(LatentActionConfig.__init__).parameters.values()
    return [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]
