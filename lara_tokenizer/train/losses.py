"""`NormalFlow`, the loss of `flow_weight`; the terms of Eq. 3 are in `model/modeling_latent_action.py`.

Normal flow is a regression target for z: where something moves, and in which direction, whatever its appearance.

The reconstruction loss alone is satisfied by a z that encodes the new appearance, which does not predict the action.
Normal flow (`motion.py`) depends on the motion alone.

Shape suffixes: B pairs, C channels, S side, F flow channels, G cells per side, N latent tokens, D codebook width,
W targets per token.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from lara_tokenizer.model import LatentActionConfig
from lara_tokenizer.motion import DIRECTIONS, SCALES, compressed, normal_flow


class NormalFlow:
    """Targets for z (B, N, D) from stabilized pairs: normal flow in G x G cells, along x and y, at two scales.

    G is the largest for which the targets fit into N D numbers; the remaining dimensions of z have no target. The
    cells of one token are spread over the frame, one in each row if N = G, so that every code takes part in every
    motion. One common scale makes the mean square of the targets 1.
    """

    def __init__(self, config: LatentActionConfig, now: Tensor, future: Tensor) -> None:
        """Fit the scale to pairs `now`, `future` (B, 3, S, S) in 0..1.

        Raises ValueError if the cells do not divide the frame or the tokens, or nothing moves in the pairs.
        """
        self.tokens = config.num_latents
        self.dim = config.codebook_dim
        self.cells = int((self.tokens * self.dim / (DIRECTIONS * len(SCALES))) ** 0.5)
        if self.cells < 1 or config.image_size % self.cells:
            raise ValueError(
                f"flow_weight: {self.tokens} x {self.dim} numbers of z hold the flow of {self.cells} x {self.cells} "
                f"cells, which must divide image_size ({config.image_size}). Change num_latents or codebook_dim."
            )
        if self.cells**2 * DIRECTIONS * len(SCALES) % self.tokens:
            raise ValueError(
                f"flow_weight: the {self.cells**2} cells of the flow cannot be divided evenly among {self.tokens} "
                "latent tokens. Change num_latents or codebook_dim."
            )
        self.softness = 1.0
        self.scale = 1.0
        self.softness = float(normal_flow(now, future, self.cells).square().mean().sqrt())
        if not self.softness > 0:
            raise ValueError("flow_weight: nothing moves in the first pairs of the source. Lengthen the strides.")
        self.scale = float(self(now, future)[0].square().mean().rsqrt())

    def __call__(self, now: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        """Targets (B, N, W) and the indices (W,) of their dimensions among D; time reversal negates the targets.

        >>> flow = NormalFlow(LatentActionConfig(), *torch.rand(2, 4, 3, 64, 64))
        >>> flow(*torch.rand(2, 4, 3, 64, 64))[0].shape
        torch.Size([4, 8, 32])
        """
        flow_BFGG = compressed(normal_flow(now, future, self.cells), self.softness, self.scale)
        row, column = torch.meshgrid(torch.arange(self.cells), torch.arange(self.cells), indexing="ij")
        # Token (3 row + column) mod N: its cells are in different columns of neighbouring rows.
        order = ((3 * row + column) % self.tokens * self.cells**2 + row * self.cells + column).flatten().argsort()
        ordered_BFC = flow_BFGG.flatten(2)[..., order.to(now.device)]
        # In two steps, since a token's share need not be a whole number of cells.
        width = ordered_BFC.shape[1] * ordered_BFC.shape[2] // self.tokens
        targets_BNW = rearrange(ordered_BFC, "b f cells -> b cells f").reshape(len(now), self.tokens, width)
        return targets_BNW, torch.arange(width, device=now.device)

    def loss(self, latents_BND: Tensor, now: Tensor, future: Tensor) -> Tensor:
        """Mean squared error of z as a prediction of the stabilized pair's normal flow."""
        with torch.autocast(latents_BND.device.type, enabled=False):
            targets_BNW, dims = self(now.float(), future.float())
            return (latents_BND.float()[..., dims] - targets_BNW).square().mean()
