"""Latent action models, their configs and their processor: the code that ships with the weights.

The folder is flat and closed: files import each other only by `from .file import Name`, and nothing else but torch,
numpy, PIL and transformers. So `AutoModel.from_pretrained(folder, trust_remote_code=True)` works where lara-tokenizer
is not installed.

The names below load on first use, all at once, and register the families with transformers' Auto classes: importing
the package, or `bundled.py`, costs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .bundled import resolve_checkpoint

if TYPE_CHECKING:
    from .families import (
        FAMILIES,
        MODEL_TYPES,
        ForwardDynamicsModel,
        FrameEncoder,
        FrameEncoderConfig,
        InverseDynamicsModel,
        LaqConfig,
        LaqModel,
        LatentActionConfig,
        LatentActionEncoderOutput,
        LatentActionModel,
        LatentActionOutput,
        LatentActionPreTrainedModel,
        LatentActionProcessor,
        SpaceTimeVaeConfig,
        SpaceTimeVaeModel,
        SpaceTimeVqConfig,
        SpaceTimeVqModel,
        load_model,
    )

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
    "resolve_checkpoint",
]


def __getattr__(name: str) -> object:
    if name not in __all__:  # a submodule, or no name at all
        raise AttributeError(f"{__name__} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.families"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
