"""Where the M-Former looks: each query's attention over the patches of both frames (the paper's Fig. 5).

Shape suffixes: B pairs, N queries, A heads, T = N + P + 1 + P tokens of the M-Former, P tokens of a frame (special
ones first), G patches along a frame's side, S pixels along a frame's side.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionMaps:
    """Where each query looks.

    Fields:
        maps (B, N, 2, G, G): float32, over the patches of frame t and of frame t+C; a query's two maps sum to 1.
        on_patches (B, N): float32, the share of the query's attention that lay on patches before that; the rest is
            on special tokens (CLS, registers), on the separator and on the queries themselves.
    """

    maps: Tensor
    on_patches: Tensor


def has_attention_maps(model: Any) -> bool:
    """Whether the model has an M-Former over a vision encoder's patches, whose attentions `encode` can be asked for."""
    takes = "output_attentions" in inspect.signature(model.encode).parameters
    return takes and hasattr(model.config, "num_frame_tokens")


@torch.no_grad()
def attention_maps(model: Any, pixel_values: Tensor, future_pixel_values: Tensor) -> AttentionMaps:
    """Each query's attention over the patches of frame t and frame t+C, by attention rollout (arXiv 2005.00928).

    >>> attention_maps(model, **processor(frames[:-5], frames[5:])).maps.shape  # doctest: +SKIP
    torch.Size([40, 8, 2, 8, 8])

    Heads are averaged; layers are multiplied, each with half of the residual stream: R = prod_l (A_l + I) / 2, the last
    layer leftmost. Why not the last layer alone: by then a token is a mixture of others, and where it stands says
    little about what it holds. With the bundled model, painting a patch grey moves z more where the rollout is high;
    the last layer's attention does not foretell it. What the vision encoder has mixed before, no map sees.

    pixel_values, future_pixel_values: (B, 3, S, S) from the processor. Raises ValueError for a model without
    attentions (see `has_attention_maps`).
    """
    if not has_attention_maps(model):
        raise ValueError(f"{type(model).__name__} has no attention maps: they are those of an M-Former.")
    attentions = model.encode(pixel_values, future_pixel_values, output_attentions=True).attentions
    mixing = [
        (layer_BATT.float().mean(1) + torch.eye(layer_BATT.shape[-1]).to(layer_BATT)) / 2 for layer_BATT in attentions
    ]
    rollout_BTT = reduce(lambda below, layer: layer @ below, mixing)
    tokens = model.config.num_frame_tokens
    queries = rollout_BTT.shape[-1] - 2 * tokens - 1
    rows_BNT = rollout_BTT[:, :queries]
    vision = model.config.vision_config
    side = vision.image_size // vision.patch_size
    # Special tokens come first, so a frame's patches are the last of its tokens.
    ends = (queries + tokens, queries + 2 * tokens + 1)
    patches = torch.stack([rows_BNT[..., end - side**2 : end] for end in ends], 2)
    on_patches = patches.sum((2, 3))
    return AttentionMaps((patches / on_patches[..., None, None]).unflatten(-1, (side, side)), on_patches)


def background_share(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of each query's attention that lies outside the arm: (B, N).

    >>> background_share(torch.full((1, 8, 2, 4, 4), 1 / 32), torch.zeros(1, 2, 64, 64, dtype=torch.bool))[0, 0]
    tensor(1.)

    maps: (B, N, 2, G, G) of `attention_maps`. masks: bool (B, 2, S, S), true on the arm, S a multiple of G. A patch
    that the arm covers in part counts by area, so attention spread evenly has the background's share of the area.
    Raises ValueError for masks of another shape.
    """
    side = maps.shape[-1]
    if masks.shape[:2] != (len(maps), 2) or masks.shape[-1] != masks.shape[-2] or masks.shape[-1] % side:
        raise ValueError(
            f"masks are {tuple(masks.shape)}, expected ({len(maps)}, 2, S, S) with S a multiple of {side}, "
            "one mask for each frame."
        )
    arm_B2GG = F.avg_pool2d(masks.to(maps), masks.shape[-1] // side)
    return 1 - (maps * arm_B2GG.unsqueeze(1)).sum((2, 3, 4))
