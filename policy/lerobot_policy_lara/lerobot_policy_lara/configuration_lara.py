"""The config of `--policy.type=lara`: a base policy, a tokenizer, and their alignment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import draccus
from lara_policy.alignment import AlignmentOptions
from lerobot.configs.policies import PreTrainedConfig

# LeRobot's policy type -> our tap preset, where the names differ.
PRESET_OF_TYPE = {"groot": "groot_n1_7"}


@PreTrainedConfig.register_subclass("lara")
@dataclass
class LARAConfig(PreTrainedConfig):
    """Config of a LeRobot policy that is trained with the LARA loss in addition to its own.

    Features, normalization, optimizer and action chunk are the base policy's.

    Args:
        base_type, base_config: LeRobot's name of the policy, and fields of its config: {"chunk_size": 16}.
        base_path: a folder or Hub id of a trained policy to continue from, instead of `base_type`; `base_config` may
            change fields of its config.
        tokenizer: "lara-lam", a folder or a Hub id.
        tap, layer: the hidden state that is read, see `lara_policy.attach_lara`; by default the preset of `base_type`.
        camera: the dataset's name of the tokenizer's camera; by default the first.
        future_offset: frames from the pair's first to its second; one of the offsets of the chunk's actions, by default
            the last.
        mode: "joint" or "frozen-lam".
        alignment: w1, w2, center, ...: see `lara_policy.alignment.AlignmentOptions`.
        tokenizer_lr: learning rate of tokenizer and projector; by default the base's.
        tokenizer_config, processor_config: set when the policy is built, so that checkpoints are self-contained.

    Raises:
        ValueError: invalid fields, or fields that do not fit together.
    """

    # No field of type PreTrainedConfig: draccus would recurse into it for ever.
    base_type: str | None = None
    base_config: dict[str, Any] = field(default_factory=dict)
    base_path: str | None = None
    tokenizer: str = "lara-lam"
    tap: str | None = None
    layer: str | None = None
    camera: str | None = None
    future_offset: int | None = None
    mode: str = "joint"
    alignment: AlignmentOptions = field(default_factory=AlignmentOptions)
    tokenizer_lr: float | None = None
    tokenizer_config: dict[str, Any] | None = None
    processor_config: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.base = self._make_base()
        self.base_type = self.base.type
        self.n_obs_steps = self.base.n_obs_steps
        if self.base_type == "lara":
            raise ValueError(
                "the base policy is lara itself: export its base first (python -m lerobot_policy_lara.export)."
            )
        if self.alignment.tau_min or self.alignment.align_unlabeled:
            raise ValueError(
                "alignment.tau_min and align_unlabeled need flow times, which no LeRobot policy exposes: leave them 0."
            )
        self.pair_tokens()

    @property
    def built(self) -> bool:
        """True once a policy was built from this config, which then contains base and tokenizer completely."""
        return self.tokenizer_config is not None

    def pair_tokens(self) -> int:
        """Number of the chunk's action tokens up to the future frame."""
        actions, offset = self.base.action_delta_indices, self.pair_offset
        if offset not in actions or offset < 1:
            raise ValueError(
                f"future_offset {offset}: the actions of this {self.base_type!r} are those of frames t+{actions[0]} to "
                f"t+{actions[-1]}. Take one of them, 1 or later."
            )
        return actions.index(offset) + 1

    @property
    def pair_offset(self) -> int:
        """Frames from a pair's first frame to its second."""
        return self.base.action_delta_indices[-1] if self.future_offset is None else self.future_offset

    @property
    def observation_delta_indices(self) -> list[int]:
        """The base's offsets, and the future frame's."""
        return [*(self.base.observation_delta_indices or [0]), self.pair_offset]

    @property
    def action_delta_indices(self) -> list[int]:
        return self.base.action_delta_indices

    @property
    def reward_delta_indices(self) -> None:
        return None

    @property
    def normalization_mapping(self) -> dict[str, Any]:
        return self.base.normalization_mapping

    @property
    def n_action_steps(self) -> int:
        return self.base.n_action_steps

    @property
    def drop_n_last_frames(self) -> int:
        return getattr(self.base, "drop_n_last_frames", 0)

    def get_optimizer_preset(self) -> Any:
        return self.base.get_optimizer_preset()

    def get_scheduler_preset(self) -> Any:
        return self.base.get_scheduler_preset()

    def set_dataset_feature_metadata(self, features: dict[str, Any]) -> None:
        """Forward LeRobot's dataset features to a base that accepts them."""
        accept = getattr(self.base, "set_dataset_feature_metadata", None)
        if accept is not None:
            accept(features)

    def validate_features(self) -> None:
        """Forward the features to the base, which may add to them."""
        self.base.input_features = self.input_features
        self.base.output_features = self.output_features
        self.base.validate_features()

    def remember(self, tokenizer_config: dict[str, Any], processor_config: dict[str, Any]) -> None:
        """Store the configs that the policy was built from: loading it needs neither `base_path` nor `tokenizer`."""
        self.base_config = _encoded(self.base)
        self.tokenizer_config = tokenizer_config
        self.processor_config = processor_config

    def _make_base(self) -> PreTrainedConfig:
        fields = dict(self.base_config)
        if self.base_path is not None and not self.built:
            fields = {**_encoded(PreTrainedConfig.from_pretrained(self.base_path)), **fields}
        elif self.base_type is None:
            raise ValueError(
                "no base policy: give --policy.base_type (act, diffusion, smolvla, ...), or --policy.base_path."
            )
        fields = {"type": self.base_type, **fields, "device": self.device, "push_to_hub": False}
        return draccus.decode(PreTrainedConfig, fields)


def _encoded(config: PreTrainedConfig) -> dict[str, Any]:
    return draccus.encode(config, PreTrainedConfig)
