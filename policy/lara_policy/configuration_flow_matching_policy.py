"""The configuration of a flow-matching policy: flat, JSON-serializable, validated on construction."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

from lara_policy.embodiment import Embodiment
from lara_tokenizer.model.configuration_base import LARGEST_SIZE, MOST_LAYERS, check_types, vision_config_of

_POSITIVE: tuple[str, ...] = ("hidden_size", "num_layers", "num_heads", "output_size", "horizon", "num_inference_steps")
_POSITIVE += ("max_action_dim", "max_state_dim", "context_size", "num_adapter_heads", "image_size", "num_cameras")
CONTEXTS = ("frames", "vision_language")


class FlowMatchingPolicyConfig(PretrainedConfig):
    """Sizes and embodiments of a `FlowMatchingPolicy`.

    The defaults are Table S.1 of LARA, with four adapter layers instead of one; `small()` suits a CPU.

    >>> FlowMatchingPolicyConfig(hidden_size=1536, num_heads=7)
    Traceback (most recent call last):
    ValueError: num_heads (7) must divide hidden_size (1536).

    Args:
        hidden_size, num_layers, num_heads, output_size, dropout: the diffusion transformer.
        horizon: the chunk size C, actions per predicted chunk (`chunk_size` in LeRobot).
        executed_steps: actions of a chunk executed before the next prediction (`n_action_steps` in LeRobot).
        num_inference_steps: Euler steps of the sampler.
        max_state_dim, max_action_dim: widths to which states and actions are padded.
        state_hidden_size: hidden width of the state encoder.
        embodiments: `Embodiment.to_dict` of each robot, in the order of their weights.
        max_embodiments: the largest number of embodiments.
        context: "frames": the tokenizer's frozen frame features and a learned vector per task. "vision_language":
            hidden states of a frozen transformers vision-language model for the images and the instruction.
        context_size, num_adapter_layers, num_adapter_heads: the trainable adapter between context and transformer.
        image_size: side of the square frames in pixels.
        num_cameras: ("frames") cameras per observation.
        vision_config, patch_order: ("frames") of the frozen vision encoder.
        keypoint_stem: ("frames") add the token of a small trainable convolution: features of a frozen encoder locate
            objects less precisely than they recognize them.
        tasks: ("frames") instructions in the order of their vectors.
        vision_language_model: ("vision_language") a folder or Hub id.
        vision_language_layer: ("vision_language") index of the hidden states that are read; None for the last.
        num_codes, codebook_size: query tokens that predict the tokenizer's codes, for pre-training on pseudo-labels;
            0 for none.
        initializer_range: standard deviation of initial weights.
    """

    model_type = "lara_flow_matching_policy"

    def __init__(
        self,
        hidden_size: int = 1536,
        num_layers: int = 16,
        num_heads: int = 32,
        output_size: int = 1024,
        dropout: float = 0.2,
        horizon: int = 16,
        executed_steps: int = 8,
        num_inference_steps: int = 4,
        max_state_dim: int = 64,
        max_action_dim: int = 32,
        state_hidden_size: int = 1024,
        embodiments: Sequence[Mapping[str, Any]] = (),
        max_embodiments: int = 64,
        context: str = "frames",
        context_size: int = 2048,
        num_adapter_layers: int = 4,
        num_adapter_heads: int = 32,
        image_size: int = 224,
        num_cameras: int = 1,
        vision_config: Any = None,
        patch_order: str = "row_major",
        keypoint_stem: bool = False,
        tasks: Sequence[str] = (),
        vision_language_model: str | None = None,
        vision_language_layer: int | None = None,
        num_codes: int = 0,
        codebook_size: int = 128,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.output_size = output_size
        self.dropout = dropout
        self.horizon = horizon
        self.executed_steps = executed_steps
        self.num_inference_steps = num_inference_steps
        self.max_state_dim = max_state_dim
        self.max_action_dim = max_action_dim
        self.state_hidden_size = state_hidden_size
        # A list, not a mapping by name: JSON files of configs are sorted by key, and the order is that of the weights.
        self.embodiments = [dict(values) for values in embodiments]
        self.max_embodiments = max_embodiments
        self.context = context
        self.context_size = context_size
        self.num_adapter_layers = num_adapter_layers
        self.num_adapter_heads = num_adapter_heads
        self.image_size = image_size
        self.num_cameras = num_cameras
        self.vision_config = _vision(vision_config)
        self.patch_order = patch_order
        self.keypoint_stem = keypoint_stem
        self.tasks = list(tasks)
        self.vision_language_model = vision_language_model
        self.vision_language_layer = vision_language_layer
        self.num_codes = num_codes
        self.codebook_size = codebook_size
        self.initializer_range = initializer_range
        self._check()

    @classmethod
    def small(cls, **changes: Any) -> FlowMatchingPolicyConfig:
        """The config for a CPU and a few tasks: 6 blocks of width 192, about 5 million parameters."""
        sizes = {
            "hidden_size": 192,
            "num_layers": 6,
            "num_heads": 6,
            "output_size": 192,
            "dropout": 0.1,
            "state_hidden_size": 128,
            "context_size": 192,
            "num_adapter_layers": 2,
            "num_adapter_heads": 6,
            "image_size": 64,
        }
        return cls(**{**sizes, **changes})

    def _check(self) -> None:
        check_types(self)
        for name in _POSITIVE:
            largest = MOST_LAYERS if name.endswith("layers") else LARGEST_SIZE
            if not 1 <= getattr(self, name) <= largest:
                raise ValueError(f"{name} {getattr(self, name)}: takes 1 to {largest:,}.")
        if self.num_adapter_layers > MOST_LAYERS:
            raise ValueError(f"num_adapter_layers {self.num_adapter_layers}: takes up to {MOST_LAYERS:,}.")
        for heads, size in (("num_heads", "hidden_size"), ("num_adapter_heads", "context_size")):
            if getattr(self, size) % getattr(self, heads):
                raise ValueError(f"{heads} ({getattr(self, heads)}) must divide {size} ({getattr(self, size)}).")
        if not 1 <= self.executed_steps <= self.horizon:
            raise ValueError(f"executed_steps {self.executed_steps}: takes 1 to horizon ({self.horizon}).")
        if self.context not in CONTEXTS:
            raise ValueError(f"context {self.context!r}: takes one of {', '.join(CONTEXTS)}.")
        if len(self.embodiments) > self.max_embodiments:
            raise ValueError(f"{len(self.embodiments)} embodiments: there are {self.max_embodiments} slots.")
        for values in self.embodiments:
            Embodiment.from_dict(values)
        if not all(isinstance(task, str) for task in self.tasks):
            raise ValueError("tasks: takes a list of texts.")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, including the vision config."""
        values = super().to_dict()
        if self.vision_config is not None:
            values["vision_config"] = self.vision_config.to_dict()
        return values


def policy_keywords() -> list[str]:
    """Keywords of `FlowMatchingPolicyConfig`, the keys of a recipe's `policy` section."""
    parameters = inspect.signature(FlowMatchingPolicyConfig.__init__).parameters.values()
    return [
        parameter.name
        for parameter in parameters
        if parameter.name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    ]


def _vision(config: Any) -> Any:
    """A config unchanged; a mapping with `model_type` as the config that it describes."""
    if not isinstance(config, Mapping):
        return config
    values = dict(config)
    return vision_config_of(values, values.pop("model_type", None))
