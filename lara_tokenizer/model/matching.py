"""The matching inverse model: where each part of frame t went, found by comparing features of the two frames.

A transformer has to discover from reconstruction alone which patch of frame t+C a patch of frame t corresponds to. Here
the comparison is built in: each position of frame t is compared with all positions in a window around it in frame t+C,
at two scales, as in optical flow networks (FlowNet's and PWC-Net's correlation layer).

Shape suffixes: B pairs, P cells of a frame, V features of a cell, G cells along a side, C channels of a map,
Q positions along a cell's side, W positions along the window's side, H width, M channels of the motion map,
N latent tokens, D width of each.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_frame_encoder import COARSE, FINE
from .configuration_latent_action import LatentActionConfig
from .frame_encoder import ConvNormAct, InvertedResidual, MapConv, split_features

REACH = 3  # positions by which the window reaches beyond the cell on each side: 12 and 24 pixels
SHARPNESS = 12.0  # of the softmax over cosines, at the start of training


class ToLatents(nn.Linear):
    """Linear map from the motion map (B, M * P) to z, flattened."""


class MatchingInverseModel(nn.Module):
    """Features of two frames from a `FrameEncoder` -> z (B, N, D).

    `motion_map` gives M numbers for each cell; z is a linear function of all of them, so that what z should hold can be
    chosen by initial weights (see `lara_tokenizer/train/targets/start.py`).
    """

    def __init__(self, config: LatentActionConfig) -> None:
        super().__init__()
        frames, width = config.vision_config, config.hidden_size
        self.frames = frames
        self.latent_shape = (config.num_latents, config.codebook_dim)
        self.cells = frames.image_size // frames.patch_size
        self.sharpness = nn.Parameter(torch.empty(2))
        self.fine = ConvNormAct(FINE**2 * (FINE + 2 * REACH) ** 2, 128)
        self.coarse = ConvNormAct(COARSE**2 * (COARSE + 2 * REACH) ** 2, 64)
        self.trunk = nn.Sequential(
            ConvNormAct(128 + 64 + 2 * frames.channels[-1], width),
            *(InvertedResidual(width, 2) for _ in range(config.num_m_former_layers)),
        )
        self.to_motion = MapConv(width, config.motion_channels, 1)
        self.to_latents = ToLatents(config.motion_channels * self.cells**2, config.num_latents * config.codebook_dim)

    def motion_map(self, frame_BPV: Tensor, future_BPV: Tensor) -> Tensor:
        """M numbers for each cell, (B, M, G, G)."""
        now, future = (split_features(each, self.frames) for each in (frame_BPV, future_BPV))
        coarse = self.coarse(match(now[1], future[1], self.cells, self.sharpness[0]))
        fine = self.fine(match(now[2], future[2], self.cells, self.sharpness[1]))
        return self.to_motion(self.trunk(torch.cat([fine, coarse, now[0], future[0] - now[0]], 1)))

    def forward(
        self, frame_BPV: Tensor, future_BPV: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """z (B, N, D), and no attention maps. Raises ValueError if these are requested."""
        if output_attentions:
            raise ValueError(
                "this model gives no attention maps: its inverse model matches features, without attention."
            )
        return self.read_latents(self.motion_map(frame_BPV, future_BPV)), ()

    def read_latents(self, motion: Tensor) -> Tensor:
        """Motion map (B, M, G, G) -> z (B, N, D)."""
        # In float32: 16 bits would round small motions away.
        with torch.autocast(motion.device.type, enabled=False):
            latents = self.to_latents(motion.to(self.to_latents.weight.dtype).flatten(1))
        return latents.view(-1, *self.latent_shape)

    def fold_standardization(self) -> None:
        """Nothing to fold: z has no batch norm of its own."""


def match(now_BCHW: Tensor, future_BCHW: Tensor, cells: int, sharpness: Tensor) -> Tensor:
    """Softmax of the cosines between each position of a cell and the positions in a window around the cell.

    Returns (B, Q*Q * W*W, G, G): for every cell, each of its Q*Q positions with the W*W positions of the window,
    W = Q + 2 REACH. The edge of the later map is repeated outside of it.
    """
    batch, channels, height, _ = now_BCHW.shape
    side = height // cells
    window = side + 2 * REACH
    now, future = (_unit(each.float()) for each in (now_BCHW, future_BCHW))
    queries = now.reshape(batch, channels, cells, side, cells, side).permute(0, 2, 4, 3, 5, 1)
    padded = F.pad(future * sharpness, (REACH,) * 4, mode="replicate")
    keys = padded.unfold(2, window, side).unfold(3, window, side).permute(0, 2, 3, 1, 4, 5)
    scores = torch.bmm(queries.reshape(-1, side * side, channels), keys.reshape(-1, channels, window * window))
    matches = scores.softmax(-1).reshape(batch, cells, cells, side * side * window * window)
    return matches.permute(0, 3, 1, 2)


def _unit(map_BCHW: Tensor) -> Tensor:
    """Each position's features as a vector of length 1; features near 0 stay short."""
    return map_BCHW * map_BCHW.square().sum(1, keepdim=True).clamp(min=1e-4).rsqrt()
