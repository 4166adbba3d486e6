"""What a policy sees without a vision-language model: frozen frame features, a task vector, and maybe a small stem.

Shape suffixes: B samples, V cameras, S side of the frames, P tokens of a frame, X context tokens, C their width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from lara_tokenizer.model.frame_features import frame_features

if TYPE_CHECKING:
    from lara_policy.configuration_flow_matching_policy import FlowMatchingPolicyConfig

STEM_WIDTHS = (32, 64, 64)
STEM_STRIDES = (2, 2, 1)


class KeypointStem(nn.Module):
    """Where things are: three convolutions, then the mean place of each channel's activation (spatial softmax).

    Frames (M, 3, S, S) -> one token (M, 1, C). Levine et al. 2016, arXiv 1504.00702.
    """

    def __init__(self, context_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for width_in, width_out, stride in zip((3, *STEM_WIDTHS), STEM_WIDTHS, STEM_STRIDES, strict=False):
            self.layers.append(nn.Conv2d(width_in, width_out, 5, stride=stride, padding=2))
            self.layers.append(nn.GroupNorm(8, width_out))
            self.layers.append(nn.SiLU())
        self.maps = nn.Conv2d(STEM_WIDTHS[-1], STEM_WIDTHS[-1], 1)
        self.output = nn.Linear(2 * STEM_WIDTHS[-1], context_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        maps_MKHW = self.maps(self.layers(pixel_values)).float()
        share_MKHW = maps_MKHW.flatten(2).softmax(-1).view_as(maps_MKHW)
        columns, rows = (
            (share_MKHW.sum(axis) * torch.linspace(-1, 1, share_MKHW.shape[-1], device=share_MKHW.device)).sum(-1)
            for axis in (2, 3)
        )
        return self.output(torch.cat([columns, rows], -1).to(self.output.weight.dtype)).unsqueeze(1)


class FrameContext(nn.Module):
    """Frames of every camera and a task number -> context tokens (B, X, C).

    The vision encoder is the tokenizer's, frozen: `features` takes no gradient, and where they are known already (the
    tokenizer looks at one of the same frames) they are given instead of computed.
    """

    def __init__(self, config: FlowMatchingPolicyConfig) -> None:
        super().__init__()
        if config.vision_config is None:
            raise ValueError(
                "context 'frames' needs vision_config, that of the tokenizer whose frozen features the policy sees: "
                "build the policy with FlowMatchingPolicy.from_tokenizer."
            )
        self.patch_order = config.patch_order
        self.vision_encoder = AutoModel.from_config(config.vision_config)
        self.vision_encoder.requires_grad_(False)
        self.project = nn.Linear(self.vision_encoder.config.hidden_size, config.context_size)
        self.cameras = nn.Parameter(torch.empty(config.num_cameras, config.context_size))
        self.tasks = nn.Embedding(max(len(config.tasks), 1), config.context_size)
        self.stem = KeypointStem(config.context_size) if config.keypoint_stem else None

    @torch.no_grad()
    def features(self, pixel_values: Tensor) -> Tensor:
        """Normalised frames (M, 3, S, S) -> frozen features (M, P, V)."""
        return frame_features(self.vision_encoder, pixel_values, self.patch_order)

    def forward(self, pixel_values: Tensor, tasks: Tensor, features: Tensor | None = None) -> Tensor:
        """Normalised frames (B, V, 3, S, S), tasks int64 (B,), features (B, V, P, W) or None -> (B, X, C)."""
        cameras = pixel_values.shape[1]
        if cameras > len(self.cameras):
            raise ValueError(f"{cameras} cameras came, the policy was built for {len(self.cameras)}.")
        if features is None:
            features = self.features(pixel_values.flatten(0, 1)).unflatten(0, pixel_values.shape[:2])
        tokens = self.project(features)
        if self.stem is not None:
            own = self.stem(pixel_values.flatten(0, 1)).unflatten(0, pixel_values.shape[:2])
            tokens = torch.cat([tokens, own.to(tokens.dtype)], 2)
        tokens = tokens + self.cameras[:cameras, None]
        return torch.cat([tokens.flatten(1, 2), self.tasks(tasks).unsqueeze(1)], 1)

    def grow_tasks(self, count: int, std: float) -> None:
        """Fresh vectors, normal with deviation `std`, behind those of the tasks there are."""
        old = self.tasks.weight
        self.tasks = nn.Embedding(count, old.shape[1]).to(old)
        with torch.no_grad():
            nn.init.normal_(self.tasks.weight, std=std)
            self.tasks.weight[: len(old)] = old


def shift_frames(frames_MCHW: Tensor, shift_M2: Tensor, most: int) -> Tensor:
    """Each picture moved by its (rows, columns), integers in -most..most, its edge repeated; uint8 stays uint8.

    >>> shift_frames(torch.tensor([[[[1, 2, 3]]]]), torch.tensor([[0, 1]]), 1)
    tensor([[[[1, 1, 2]]]])
    """
    count, _, height, width = frames_MCHW.shape
    padded = F.pad(frames_MCHW.float(), (most,) * 4, mode="replicate").to(frames_MCHW.dtype)
    first_M2 = most - shift_M2
    rows_MH = first_M2[:, :1] + torch.arange(height, device=frames_MCHW.device)
    columns_MW = first_M2[:, 1:] + torch.arange(width, device=frames_MCHW.device)
    every_M = torch.arange(count, device=frames_MCHW.device)[:, None, None]
    return padded[every_M, :, rows_MH[:, :, None], columns_MW[:, None]].permute(0, 3, 1, 2)
