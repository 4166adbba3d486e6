"""The frame decoder: frame t and the latent action -> frame t+C (the forward model of Eq. 3).

Shape suffixes: B batch, S patches, N latent tokens, H width of the decoder.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_latent_action import LatentActionConfig
from .transformer import Transformer


class PixelHead(nn.Conv2d):
    """1x1 convolution to the pixels of a patch, or with `residual` to their change, which is initialized to zero."""

    def __init__(self, width: int, patch_size: int, residual: bool) -> None:
        super().__init__(width, 3 * patch_size * patch_size, kernel_size=1)
        self.residual = residual


class FlowHead(nn.Conv2d):
    """1x1 convolution to the flow (x, y) of a patch's pixels, initialized to zero: no motion."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__(width, 2 * patch_size * patch_size, kernel_size=1)


def warp(frames: Tensor, flow_B2HW: Tensor) -> Tensor:
    """Sample each pixel at its position plus the flow: (B, C, H, W) -> (B, C, H, W).

    The flow is in half sides of the frame. Bilinear; positions outside the frame get the colour of its edge.

    >>> frames = torch.rand(1, 3, 8, 8)
    >>> torch.allclose(warp(frames, torch.zeros(1, 2, 8, 8)), frames, atol=1e-6)
    True
    """
    batch, _, height, width = frames.shape
    # In float32 also under autocast: bfloat16 has a step of half a pixel at the edge of a 64-pixel frame.
    with torch.autocast(frames.device.type, enabled=False):
        identity_23 = torch.eye(2, 3, device=frames.device).expand(batch, -1, -1)
        still_BHW2 = F.affine_grid(identity_23, [batch, 1, height, width], align_corners=False)
        points_BHW2 = still_BHW2 + flow_B2HW.float().permute(0, 2, 3, 1)
        return F.grid_sample(frames.float(), points_BHW2, padding_mode="border", align_corners=False)


class MotionOfLatents(nn.Linear):
    """Linear map from z (B, N * D) back to a motion map (B, M * P), the inverse of the matching model's `ToLatents`."""


class FrameDecoder(nn.Module):
    """ViT on the patches of frame t plus one fused latent vector; 1x1 convolution and pixel shuffle give pixels.

    With `decoder_warp` a second head predicts a flow field by which frame t is warped, and the pixel head adds a
    residual: moving objects keep their detail, and z has to encode the motion itself.
    With `decoder_motion_map` each patch is given what z says of its own cell, M numbers, instead of one vector for all:
    a fused vector leaves it to attention and MLPs to find out which part of z concerns which patch.
    There is no activation and no clamp: the reconstruction is in the pixel space of the input.
    """

    def __init__(self, config: LatentActionConfig) -> None:
        super().__init__()
        width, patch = config.decoder_hidden_size, config.patch_size
        self.image_size = config.image_size
        self.patch_size = patch
        self.residual = config.decoder_residual
        self.patches = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        self.motion_channels = config.motion_channels if config.decoder_motion_map else 0
        if self.motion_channels:
            latents, numbers = config.num_latents * config.codebook_dim, config.motion_channels * config.num_patches
            self.to_motion = MotionOfLatents(latents, numbers)
            self.fuse_latents = nn.Linear(config.motion_channels, width)
        else:
            self.fuse_latents = nn.Linear(config.num_latents * width, width)
        self.positions = nn.Parameter(torch.empty(1, config.num_patches, width))
        self.transformer = Transformer(
            width,
            config.decoder_num_attention_heads,
            config.decoder_intermediate_size,
            config.num_decoder_layers,
            config.layer_norm_eps,
        )
        self.to_pixels = PixelHead(width, patch, config.decoder_residual)
        self.to_flow = FlowHead(width, patch) if config.decoder_warp else None

    def forward(self, pixel_values: Tensor, latents_BNH: Tensor) -> Tensor:
        """Frame t (B, 3, size, size) and latents (B, N, H), or with a motion map (B, N, D) -> frame t+C, as frame t."""
        if pixel_values.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"pixel_values are {tuple(pixel_values.shape)}, expected (batch, 3, {self.image_size}, "
                f"{self.image_size}). Prepare frames with the model's own processor."
            )
        patches_BHS = self.patches(pixel_values).flatten(2)
        if self.motion_channels:
            motion_BMS = self.to_motion(latents_BNH.flatten(1)).unflatten(1, (self.motion_channels, -1))
            fused_BSH = self.fuse_latents(motion_BMS.transpose(1, 2))
        else:
            fused_BSH = self.fuse_latents(latents_BNH.flatten(1)).unsqueeze(1)
        hidden_BSH = patches_BHS.transpose(1, 2) + fused_BSH + self.positions
        hidden_BSH, _ = self.transformer(hidden_BSH)
        side = self.image_size // self.patch_size
        grid = hidden_BSH.transpose(1, 2).unflatten(2, (side, side))
        predicted = F.pixel_shuffle(self.to_pixels(grid), self.patch_size)
        if self.to_flow is not None:
            pixel_values = warp(pixel_values, F.pixel_shuffle(self.to_flow(grid), self.patch_size))
        return pixel_values + predicted if self.residual else predicted
