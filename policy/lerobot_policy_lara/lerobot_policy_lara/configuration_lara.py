"""`--policy.type=lara`: a base policy, a tokenizer, and how the two are aligned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import draccus
from lara_policy.alignment import AlignmentOptions
from lerobot.configs.policies import PreTrainedConfig

# LeRobot's names of policies for our names of taps, where the two differ.
PRESET_OF_TYPE = {"groot": "groot_n1_7"}


@PreTrainedConfig.register_subclass("lara")
@dataclass
class LARAConfig(PreTrainedConfig):
    """A base policy of LeRobot, trained with the LARA loss beside its own.

    Everything that LeRobot asks of a policy's config (features, normalisation, optimiser, action chunk) is the base's.

    Args:
        base_type, base_config: LeRobot's name of the policy, and fields of its config: {"chunk_size": 16}.
        base_path: a folder or Hub id of a trained policy to go on from, instead of `base_type`; `base_config` may
            change fields of its config.
        tokenizer: "lara-lam", a folder or a Hub id.
        tap, layer: where the hidden state is read, see `lara_policy.attach_lara`; by default the preset of `base_type`.
        camera: the dataset's name of the camera whose frames the tokenizer sees; by default the first.
        future_offset: frames between the pair's two; by default the last action's, which must be one of the chunk's.
        mode: "joint" or "frozen-lam".
        alignment: w1, w2, center, …: see `lara_policy.alignment.AlignmentOptions`.
        tokenizer_lr: learning rate of tokenizer and projector; by default the base's.
        tokenizer_config, processor_config: filled in when the policy is built, so that checkpoints are whole.

    Raises:
        ValueError: for fields that cannot be, and those that do not fit together.
    """

    # Only plain values here: draccus follows a field of type PreTrainedConfig into itself for ever.
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
                "alignment.tau_min and align_unlabeled need flow times, which no LeRobot policy tells: leave them 0."
            )
        self.kept_tokens()

    @property
    def built(self) -> bool:
        """Whether a policy was made of this config: then it tells base and tokenizer whole, and has weights."""
        return self.tokenizer_config is not None

    def kept_tokens(self) -> int:
        """How many tokens of the action chunk come up to the future frame."""
        actions, offset = self.base.action_delta_indices, self.pair_offset
        if offset not in actions or offset < 1:
            raise ValueError(
                f"future_offset {offset}: the actions of this {self.base_type!r} are those of frames t+{actions[0]} to "
                f"t+{actions[-1]}. Take one of them, 1 or later."
            )
        return actions.index(offset) + 1

    @property
    def pair_offset(self) -> int:
        """Frames from the first of a pair to the second."""
        return self.base.action_delta_indices[-1] if self.future_offset is None else self.future_offset

    @property
    def observation_delta_indices(self) -> list[int]:
        """The base's, and the future frame."""
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
        """LeRobot tells policies that ask for it what the dataset holds."""
        tell = getattr(self.base, "set_dataset_feature_metadata", None)
        if tell is not None:
            tell(features)

    def validate_features(self) -> None:
        """Hand the features on to the base, which may add to them."""
        self.base.input_features, self.base.output_features = self.input_features, self.output_features
        self.base.validate_features()

    def remember(self, tokenizer_config: dict[str, Any], processor_config: dict[str, Any]) -> None:
        """Keep what the policy was built of, so that neither `base_path` nor `tokenizer` need be there again."""
        self.base_config = _encoded(self.base)
        self.tokenizer_config, self.processor_config = tokenizer_config, processor_config

    def _make_base(self) -> PreTrainedConfig:
        fields = dict(self.base_config)
        if self.base_path is not None and not self.built:
            fields = {**_encoded(PreTrainedConfig.from_pretrained(self.base_path)), **fields}
        elif self.base_type is None:
            raise ValueError(
                "which policy? Give --policy.base_type (act, diffusion, smolvla, …), or --policy.base_path."
            )
        fields = {"type": self.base_type, **fields, "device": self.device, "push_to_hub": False}
        return draccus.decode(PreTrainedConfig, fields)


def _encoded(config: PreTrainedConfig) -> dict[str, Any]:
    return draccus.encode(config, PreTrainedConfig)
