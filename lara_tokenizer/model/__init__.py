"""The model, its config and its processor: everything in this folder ships with the weights.

The folder is flat and closed: only `from .file import Name`, and only torch, numpy, PIL and transformers, so
that `AutoModel.from_pretrained(folder, trust_remote_code=True)` works where lara-tokenizer is not installed.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModel

from .bundled import resolve_checkpoint
from .configuration_latent_action import LatentActionConfig
from .image_processing_latent_action import LatentActionProcessor
from .modeling_latent_action import (
    ForwardDynamicsModel,
    InverseDynamicsModel,
    LatentActionEncoderOutput,
    LatentActionModel,
    LatentActionOutput,
)

__all__ = [
    "ForwardDynamicsModel",
    "InverseDynamicsModel",
    "LatentActionConfig",
    "LatentActionEncoderOutput",
    "LatentActionModel",
    "LatentActionOutput",
    "LatentActionProcessor",
    "resolve_checkpoint",
]

AutoConfig.register(LatentActionConfig.model_type, LatentActionConfig)
AutoModel.register(LatentActionConfig, LatentActionModel)
AutoImageProcessor.register(LatentActionConfig, slow_image_processor_class=LatentActionProcessor)
# The second registration writes `auto_map` and the code files beside saved weights.
LatentActionConfig.register_for_auto_class()
LatentActionModel.register_for_auto_class("AutoModel")
LatentActionProcessor.register_for_auto_class("AutoImageProcessor")
