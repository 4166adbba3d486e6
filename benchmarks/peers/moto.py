"""Moto's latent motion tokenizer (arXiv 2412.04445; github TencentARC/Moto, latent_motion_tokenizer/, commit 4471f76).

As published, through the preset `LatentActionConfig.moto`:
  encoder     image features, then an M-Former whose 8 queries read [frame t | separator | frame t+C], both frames with
              the same segment row (by a mistake in theirs, which the published weights contain)
  quantizer   nearest of 128 codes of 32 numbers from the first step on, straight-through; codebook started uniform in
              +-1/128; codebook loss 0.25 and commitment loss 1 (their `legacy` form); unused codes are not reset
  decoder     a ViT on frame t's patches with the latents fused and added; it predicts the frame, not its change
  loss        mean squared error of ImageNet-normalised pixels, every pixel alike
  training    AdamW (0.9, 0.99), weight decay 1e-4 on matrices, 1e-4 with 5 % linear warm-up from a half and a cosine
              to a half, no clipping, batch 256; both frames get the same random shift of up to 10 of 224 pixels

Different, and why:
  encoder     theirs is a frozen ViT-MAE-large (303 M parameters, 224 px), which has no counterpart at 64 px. Here it is
              the 2-layer ViT of all recipes (image_encoder.py), trained jointly: a frozen random one would only
              handicap Moto. What frozen features do for the stability of Moto's codebook is not tested here
  LPIPS       theirs logs and adds an LPIPS term, but computes it without gradient; it is left out
  size        width 128, 4 heads, 3 + 3 layers (theirs: 768, 12, 4 + 12), 64 px in patches of 8 (224, of 16)
  start       weights from 0.049 instead of 0.02: 0.02 * sqrt(768 / width), so that layers preserve as much variance as
              theirs. A fresh z then varies by 2 % of its norm across pairs, as in theirs (2 to 3 %), not by 1 %
  shift       up to 3 of 64 pixels, whole ones as theirs

Without code resets or a continuous start z is learned late, if at all: on moving squares (32 px, width 64, batch 32)
one to four codes are in use and the decoder ignores z for the first 1,500 steps, at 1e-3 and at 3e-4; with a frozen
random encoder perplexity (9) and z_gain (0.4) had risen at step 2,000. A shorter run measures this plateau, not the
recipe.

Shape suffixes: B batch, F the two frames, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lara_tokenizer.model import LatentActionConfig, LatentActionModel

from .recipe import Recipe

SHIFT = 10 / 224  # of the frame's side
PUBLISHED_WIDTH, PUBLISHED_INITIALIZER_RANGE = 768, 0.02
SIZES = {
    "vision_config": None,  # the image encoder of all recipes
    "freeze_vision_encoder": False,
    "image_size": 64,
    "patch_size": 8,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "num_m_former_layers": 3,
    "num_decoder_layers": 3,
    "strides": ["0.5s"],
}


class MotoModel(LatentActionModel):
    """The library's model with the methods of the training loop."""

    def training_loss(self, now: Tensor, future: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pairs (B, 3, S, S) from the processor -> the loss and its named terms, before their weights."""
        out = self(now, future)
        return out.loss, {name: value.detach() for name, value in out.losses.items()}

    def after_step(self, step: int, total_steps: int) -> None:
        """No-op: Moto's codebook is trained by the gradient alone."""


def shift_pairs(frames_BFCHW: Tensor) -> Tensor:
    """Shift both frames of a pair alike by up to 10/224 of their side; the edge is repeated."""
    batch, _, _, height, width = frames_BFCHW.shape
    device, most = frames_BFCHW.device, round(SHIFT * height)
    down_B, right_B = torch.randint(-most, most + 1, (2, batch, 1), device=device)
    rows_BH = (torch.arange(height, device=device) + down_B).clamp(0, height - 1)
    columns_BW = (torch.arange(width, device=device) + right_B).clamp(0, width - 1)
    pairs_B = torch.arange(batch, device=device).view(-1, 1, 1)
    moved_BHWFC = frames_BFCHW.permute(0, 3, 4, 1, 2)[pairs_B, rows_BH.unsqueeze(2), columns_BW.unsqueeze(1)]
    return moved_BHWFC.permute(0, 3, 4, 1, 2)


def build(**overrides: Any) -> MotoModel:
    """Moto's model at the size of `lara-lam`; keywords are fields of `LatentActionConfig`."""
    sizes: dict[str, Any] = {**SIZES, **overrides}
    start = PUBLISHED_INITIALIZER_RANGE * (PUBLISHED_WIDTH / sizes["hidden_size"]) ** 0.5
    return MotoModel(LatentActionConfig.moto(**{"initializer_range": start, **sizes}))


MOTO = Recipe(
    name="moto",
    build=build,
    betas=(0.9, 0.99),
    weight_decay=1e-4,
    augment=shift_pairs,
)
