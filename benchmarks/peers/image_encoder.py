"""The small image encoder of all recipes: the 2-layer ViT of `LatentActionConfig`'s defaults, trained with the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from lara_tokenizer.model import LatentActionConfig
from lara_tokenizer.model.frame_features import frame_features


def image_encoder(image_size: int, patch_size: int, vision_config: Mapping[str, Any] | None = None) -> PreTrainedModel:
    """The encoder with random weights; `vision_config` as in `LatentActionConfig`, None for the one of all recipes."""
    config = LatentActionConfig(vision_config=vision_config, image_size=image_size, patch_size=patch_size)
    return AutoModel.from_config(config.vision_config)


def patch_features(encoder: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Frames (B, 3, S, S) from the processor -> the features of their patches (B, P, V), without the CLS token."""
    return frame_features(encoder, pixel_values, "row_major")[:, 1:]
