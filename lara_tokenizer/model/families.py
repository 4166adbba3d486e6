"""The model families, registered with transformers' Auto classes. Does not ship with the weights."""

import os
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoModel, PretrainedConfig

from .bundled import resolve_checkpoint
from .configuration_frame_encoder import FrameEncoderConfig
from .configuration_laq import LaqConfig
from .configuration_latent_action import LatentActionConfig
from .configuration_space_time_vae import SpaceTimeVaeConfig
from .configuration_space_time_vq import SpaceTimeVqConfig
from .frame_encoder import FrameEncoder
from .image_processing_latent_action import LatentActionProcessor
from .modeling_base import LatentActionEncoderOutput, LatentActionPreTrainedModel
from .modeling_laq import LaqModel
from .modeling_latent_action import (
    ForwardDynamicsModel,
    InverseDynamicsModel,
    LatentActionModel,
    LatentActionOutput,
)
from .modeling_space_time_vae import SpaceTimeVaeModel
from .modeling_space_time_vq import SpaceTimeVqModel

__all__ = [
    "FAMILIES",
    "MODEL_TYPES",
    "ForwardDynamicsModel",
    "FrameEncoder",
    "FrameEncoderConfig",
    "InverseDynamicsModel",
    "LaqConfig",
    "LaqModel",
    "LatentActionConfig",
    "LatentActionEncoderOutput",
    "LatentActionModel",
    "LatentActionOutput",
    "LatentActionPreTrainedModel",
    "LatentActionProcessor",
    "SpaceTimeVaeConfig",
    "SpaceTimeVaeModel",
    "SpaceTimeVqConfig",
    "SpaceTimeVqModel",
    "load_model",
]

# The config and the model of every family. One processor prepares the frames of all.
FAMILIES: dict[type[PretrainedConfig], type[LatentActionPreTrainedModel]] = {
    LatentActionConfig: LatentActionModel,
    LaqConfig: LaqModel,
    SpaceTimeVaeConfig: SpaceTimeVaeModel,
    SpaceTimeVqConfig: SpaceTimeVqModel,
}
MODEL_TYPES = tuple(config.model_type for config in FAMILIES)

for _config, _model in FAMILIES.items():
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
    AutoImageProcessor.register(_config, slow_image_processor_class=LatentActionProcessor)
    # The second registration writes `auto_map` and the code files beside saved weights.
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
LatentActionProcessor.register_for_auto_class("AutoImageProcessor")
# The vision encoder of `LatentActionModel`s with the matching inverse model; policies read its features, too.
AutoConfig.register(FrameEncoderConfig.model_type, FrameEncoderConfig)
AutoModel.register(FrameEncoderConfig, FrameEncoder)


def load_model(name: str | os.PathLike[str], **kwargs: Any) -> LatentActionPreTrainedModel:
    """Load a latent action model of any family from "lara-lam" (bundled), a folder, or a Hub id.

    `kwargs` are those of `from_pretrained`.

    >>> load_model("lara-lam").config.num_latents  # doctest: +SKIP
    8
    """
    model: LatentActionPreTrainedModel = AutoModel.from_pretrained(resolve_checkpoint(name), **kwargs)
    return model
