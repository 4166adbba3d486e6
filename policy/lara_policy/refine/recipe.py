"""The recipe of joint training (stages 2 and 3): a YAML file, validated on construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lara_policy.alignment import AlignmentOptions
from lara_policy.refine.model import MODES, MODES_WITHOUT_TOKENIZER
from lara_tokenizer._parse import shown
from lara_tokenizer.train.recipe import LoopOptions
from lara_tokenizer.train.yaml_config import (
    YamlRecipe,
    field_names,
    override,
    parse_mapping,
    parse_section,
    parse_strings,
    refuse_unknown,
)

PRESETS = ("small", "paper")


@dataclass(frozen=True, slots=True)
class RefineOptions(LoopOptions):
    """Options of the joint training loop, beside those of `LoopOptions`.

    Attributes:
        pretrain_steps: steps of phase 1 of `pretrain`; 0 for `steps`.
        lam_learning_rate: learning rate of the tokenizer; 0 for the policy's.
        warmup_share: share of the steps over which the learning rate rises.
        gradient_checkpointing: recompute the policy's activations in the backward pass.
        shift: random shift augmentation in pixels, the same for all frames of a sample.
        unlabeled_batch: pairs of the unlabeled sources per step.
        heldout_samples: frames of held-out episodes that each check measures.
        gradient_cosine: each check also measures the cosine between the gradients of alignment and action loss.
    """

    steps: int = 3000
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    workers: int = 0
    log_steps: int = 100
    pretrain_steps: int = 0
    lam_learning_rate: float = 0.0
    warmup_share: float = 0.05
    gradient_checkpointing: bool = False
    shift: int = 0
    unlabeled_batch: int = 0
    heldout_samples: int = 256
    gradient_cosine: bool = False

    def __post_init__(self) -> None:
        LoopOptions.__post_init__(self)  # super() does not work in a dataclass with slots
        for name in ("pretrain_steps", "learning_rate", "lam_learning_rate", "shift", "unlabeled_batch", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"training {name} {getattr(self, name)}: takes 0 or more.")
        if not 2 <= self.heldout_samples <= 2**16:
            raise ValueError(f"training heldout_samples {self.heldout_samples}: takes 2 to {2**16:,}.")
        if self.unlabeled_batch > 2**16:
            raise ValueError(f"training unlabeled_batch {self.unlabeled_batch}: takes up to {2**16:,}.")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"training warmup_share {self.warmup_share}: takes a share in [0, 1).")


@dataclass(frozen=True, slots=True)
class RefineRecipe(YamlRecipe):
    """All settings of a joint run, optionally with its data.

    >>> RefineRecipe.parse({"policy": {"num_layers": 4}, "training": {"steps": 10}}).training.steps
    10

    Attributes:
        mode, layer, alignment: see `LaraModel` and `AlignmentOptions`.
        paper_exact: start from the paper's alignment options.
        tokenizer: "lara-lam", a folder or a Hub id.
        policy_preset, policy: sizes of a fresh policy: `small` or `paper`, and the fields that differ.
        lam_camera: the policy's camera that the tokenizer sees; the first by default.
        lam_stride: stride of the tokenizer's pairs, such as "0.5s"; by default the one it was trained on, with
            paper_exact the whole chunk.
        embodiments: dataset -> robot, for several datasets of one robot; by default each dataset is its own robot.
        sources: the labelled data, for runs that are given none.
        unlabeled: sources of video without actions.
    """

    mode: str = "joint"
    paper_exact: bool = False
    layer: str = "L-2"
    tokenizer: str = "lara-lam"
    policy_preset: str = "small"
    policy: Mapping[str, Any] = field(default_factory=dict)
    alignment: AlignmentOptions = field(default_factory=AlignmentOptions)
    training: RefineOptions = field(default_factory=RefineOptions)
    lam_camera: str = ""
    lam_stride: str = ""
    embodiments: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    unlabeled: tuple[str, ...] = ()

    @classmethod
    def _parse_fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        exact = values.get("paper_exact", False)
        if not isinstance(exact, bool):
            raise ValueError(f"paper_exact: takes true or false, got {shown(exact)}.")
        alignment = {} if values.get("alignment") is None else values["alignment"]
        if exact:
            refuse_unknown("alignment", alignment, field_names(AlignmentOptions))
            alignment = {**asdict(AlignmentOptions.paper_exact()), **alignment}
        return values | {
            "alignment": parse_section(AlignmentOptions, "alignment", alignment),
            "training": parse_section(RefineOptions, "training", values.get("training")),
            **{name: parse_mapping(name, values.get(name)) for name in ("policy", "embodiments")},
            **{name: parse_strings(name, values.get(name)) for name in ("sources", "unlabeled")},
            "layer": shown(values["layer"]).strip("'") if "layer" in values else "L-2",
        }

    def __post_init__(self) -> None:
        for name in ("tokenizer", "lam_camera", "lam_stride", "policy_preset", "mode"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}: takes a text, got {shown(getattr(self, name))}.")
        if not all(isinstance(robot, str) for robot in self.embodiments.values()):
            raise ValueError(f"embodiments: takes the robot of each dataset, got {shown(self.embodiments)}.")
        if self.mode not in MODES:
            raise ValueError(f"mode {shown(self.mode)}: takes one of {', '.join(MODES)}.")
        if self.policy_preset not in PRESETS:
            raise ValueError(f"policy_preset {shown(self.policy_preset)}: takes one of {', '.join(PRESETS)}.")
        if self.training.unlabeled_batch and self.mode in MODES_WITHOUT_TOKENIZER:
            raise ValueError(f"training unlabeled_batch: mode '{self.mode}' has no tokenizer that could learn from it.")
        if self.training.unlabeled_batch and not self.unlabeled:
            raise ValueError("training unlabeled_batch needs `unlabeled`, sources of video.")
        if self.alignment.align_unlabeled and not self.training.unlabeled_batch:
            raise ValueError("align_unlabeled needs pairs without actions: set training unlabeled_batch.")

    def override(self, *, mode: str | None = None, lam_camera: str | None = None, **training: Any) -> RefineRecipe:
        """A copy with some values replaced; None leaves a value unchanged."""
        training_options = override(self.training, **training)
        return replace(
            self, training=training_options, mode=mode or self.mode, lam_camera=lam_camera or self.lam_camera
        )
