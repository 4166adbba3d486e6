"""Tokens of a frame from a vision encoder, in a fixed patch order.

Shape suffixes: B frames, S side of the frames, P tokens of a frame, V width of the vision encoder.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel


def frame_features(vision_encoder: PreTrainedModel, pixel_values_B3SS: Tensor, patch_order: str) -> Tensor:
    """Frames (B, 3, S, S) -> tokens (B, P, V). `patch_order`: "row_major", or "shuffled" as in ViT-MAE."""
    inputs: dict[str, Tensor] = {"pixel_values": pixel_values_B3SS}
    vision = vision_encoder.config
    if vision.model_type == "vit_mae" and patch_order == "row_major":
        # ViT-MAE sorts patches by noise on every call, even without masking: increasing noise preserves their order.
        patches = (vision.image_size // vision.patch_size) ** 2
        order = torch.arange(patches, device=pixel_values_B3SS.device, dtype=torch.float32)
        inputs["noise"] = order.expand(pixel_values_B3SS.shape[0], -1)
    return vision_encoder(**inputs).last_hidden_state
