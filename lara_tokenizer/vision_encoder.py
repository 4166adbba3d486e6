"""A frozen vision model of transformers with its pixel statistics: a control of `eval`, a teacher of `train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import AutoModel
from transformers.image_processing_utils import BaseImageProcessor

from lara_tokenizer.errors import first_line

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class VisionEncoder:
    """A vision model in evaluation mode."""

    model: Any
    config: Any  # of the images' encoder, also where the checkpoint has one of texts beside it
    prepared: dict[str, Any]  # the settings of its image processor; {} without one
    mean: tuple[float, ...]  # per RGB channel, for pixels in 0..1
    std: tuple[float, ...]


def load_vision_encoder(name: str, role: str) -> VisionEncoder:
    """Open a folder or a Hub id.

    Raises ValueError, which begins with `role`, for a model that does not read images, or cannot be loaded.
    """
    try:
        model = AutoModel.from_pretrained(name).eval().requires_grad_(False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{role} {name}: {first_line(error)}") from None
    config = getattr(model.config, "vision_config", model.config)
    model = getattr(model, "vision_model", model)  # of a pair of encoders, such as CLIP's, that of images
    if model.main_input_name != "pixel_values":
        raise ValueError(f"{role} {name} reads {model.main_input_name}; give a model that reads images.")
    try:
        prepared = BaseImageProcessor.get_image_processor_dict(name)[0]
    except (OSError, ValueError):
        prepared = {}
    mean, std = prepared.get("image_mean", IMAGENET_MEAN), prepared.get("image_std", IMAGENET_STD)
    return VisionEncoder(model, config, prepared, tuple(mean), tuple(std))
