"""`EncoderGraph`: resized frames to latent actions, as one graph without branches.

Shape suffixes: B pairs, H height, W width of the model's frames, N latent tokens, D codebook dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lara_tokenizer.model.steady_pairs import steady_future_as_graph

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionPreTrainedModel, LatentActionProcessor


class EncoderGraph(nn.Module):
    """Two batches of uint8 frames (B, H, W, 3) -> z (B, N, D), and codes (B, N) and margins (B,) where there are any.

    Compensation of camera motion and light, normalization and encoder are inside; only the resize is left outside.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, model: LatentActionPreTrainedModel, processor: LatentActionProcessor) -> None:
        super().__init__()
        self.model = model
        self.steady = processor.steady_pairs
        mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        # The arithmetic of `LatentActionProcessor.normalize_frames`.
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1))
        self.register_buffer("offset", (mean / std).view(3, 1, 1))

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return ["latents"] if self.model.config.codebook_size is None else ["latents", "codes", "code_margin"]

    def forward(self, frames: Tensor, future_frames: Tensor) -> tuple[Tensor, ...]:
        now, future = frames.permute(0, 3, 1, 2), future_frames.permute(0, 3, 1, 2)
        future = steady_future_as_graph(now, future) if self.steady else future.float()
        # One after the other: as one batch of twice the size they would fix the number of pairs.
        now_BPV, future_BPV = (
            self.model.get_frame_features(each * self.scale - self.offset) for each in (now.float(), future)
        )
        latents_BND, _ = self.model.infer_latents(now_BPV, future_BPV)
        if self.model.config.codebook_size is None:
            return (latents_BND,)
        out = self.model.bottleneck(latents_BND)
        return latents_BND, out.codes, out.code_margin.mean(1)
