"""What z is asked to tell: where in the picture something moves, and which way, whatever it looks like.

A z that only the decoder shapes names the new appearance as gladly as the motion, and no line can be drawn from it to
an action. The product of a pixel's change in time and its slope in space has the sign of the motion alone: of dark on
light and of light on dark alike. It is the right-hand side of Lucas and Kanade's (1981) least squares for the flow.

Shape suffixes: B pairs, C channels, S side, G cells of a side, N latent tokens, D codebook dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lara_tokenizer.model import LatentActionConfig
from lara_tokenizer.model.steady_pairs import slopes

SCALES = (3, 7)  # pixels of 64 over which a picture is averaged first: small and large motions
DIRECTIONS = 2  # x and y


class NormalFlow:
    """Targets for z (B, N, D) from steady pairs: normal flow of G x G cells, x and y, at two scales.

    G is as large as N D allows; numbers of z that nothing is asked of are left out of the loss. The cells of a token
    lie apart, one in each row of the picture where N = G, so that every code has a part in every motion. One scale for
    all of them makes their mean square 1.
    """

    def __init__(self, config: LatentActionConfig, now: Tensor, future: Tensor) -> None:
        """`now`, `future` (B, 3, S, S): pairs in 0..1 that the scale is taken from."""
        self.tokens, self.dim = config.num_latents, config.codebook_dim
        self.cells = int((self.tokens * self.dim / (DIRECTIONS * len(SCALES))) ** 0.5)
        if self.cells < 1 or config.image_size % self.cells:
            raise ValueError(
                f"flow_weight: {self.tokens} x {self.dim} numbers of z hold the flow of {self.cells} x {self.cells} "
                f"cells, which must divide image_size ({config.image_size}). Change num_latents or codebook_dim."
            )
        if self.cells**2 * DIRECTIONS * len(SCALES) % self.tokens:
            raise ValueError(
                f"flow_weight: the {self.cells**2} cells of the flow cannot be shared out evenly among {self.tokens} "
                "latent tokens. Change num_latents or codebook_dim."
            )
        self.soft, self.scale = 1.0, 1.0
        self.soft = float(self._numbers(now, future).square().mean().sqrt())
        if not self.soft > 0:
            raise ValueError("flow_weight: nothing moves in the first pairs of the source. Lengthen the strides.")
        self.scale = float(self(now, future)[0].square().mean().rsqrt())

    def __call__(self, now: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, W) and the places among D of those W numbers; the flow back is minus the flow there.

        >>> flow = NormalFlow(LatentActionConfig(), *torch.rand(2, 4, 3, 64, 64))
        >>> flow(*torch.rand(2, 4, 3, 64, 64))[0].shape
        torch.Size([4, 8, 32])
        """
        numbers_BFGG = self._numbers(now, future)
        # As the root far from zero, where a few strong edges would else be all that counts; as it is near zero.
        numbers_BFGG = self.scale * numbers_BFGG / (numbers_BFGG.abs() + self.soft).sqrt()
        row, column = torch.meshgrid(torch.arange(self.cells), torch.arange(self.cells), indexing="ij")
        # Cells with one (3 row + column) mod N lie in different columns of neighbouring rows.
        order = ((3 * row + column) % self.tokens * self.cells**2 + row * self.cells + column).flatten().argsort()
        ordered_BFC = numbers_BFGG.flatten(2)[..., order.to(now.device)]
        width = ordered_BFC.shape[1] * ordered_BFC.shape[2] // self.tokens
        targets_BNW = ordered_BFC.transpose(1, 2).reshape(len(now), self.tokens, width)
        return targets_BNW, torch.arange(width, device=now.device)

    def loss(self, latents_BND: Tensor, now: Tensor, future: Tensor) -> Tensor:
        """Mean squared distance of z from the flow of the steady pair."""
        with torch.autocast(latents_BND.device.type, enabled=False):
            targets_BNW, places = self(now.float(), future.float())
            return (latents_BND.float()[..., places] - targets_BNW).square().mean()

    def _numbers(self, now: Tensor, future: Tensor) -> Tensor:
        """(B, 4, G, G): x and y of each scale."""
        return torch.cat([self._flow(now, future, scale) for scale in SCALES], 1)

    def _flow(self, now: Tensor, future: Tensor, scale: int) -> Tensor:
        """(B, 2, G, G): means over cells of change times slope, summed over colours."""
        size = now.shape[-1]
        over = max(1, round(scale * size / 64) // 2 * 2 + 1)
        before, after = (F.avg_pool2d(_padded(each, over // 2), over, 1) for each in (now, future))
        change = after - before
        slope_x, slope_y = slopes((before + after) / 2)
        flow = torch.stack([(change * slope_x).sum(1), (change * slope_y).sum(1)], 1)
        return F.avg_pool2d(-flow, size // self.cells)


def _padded(frames: Tensor, by: int) -> Tensor:
    return F.pad(frames, (by, by, by, by), mode="replicate")
