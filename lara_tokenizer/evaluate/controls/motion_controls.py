"""Controls from pixels and flow: `normal_flow`, `optical_flow`, `pixel_difference_stabilized`, and `closed_form`.

All read grey frames of one size (`PairSet.grey`), so that their figures do not depend on the tokenizer's.
`pixel_difference`, the PCA of the model's own frames, is in `probes.py`.

Shape suffixes: P pairs, S side of a grey frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from einops import repeat
from torch.nn import functional as F

from lara_tokenizer.evaluate.controls.closed_form import ClosedFormTokenizer
from lara_tokenizer.evaluate.dataset import PairSet
from lara_tokenizer.evaluate.probes import Features
from lara_tokenizer.evaluate.ridge import Wide
from lara_tokenizer.model.steady_pairs import steady_future
from lara_tokenizer.motion import compressed, normal_flow, optical_flow

BATCH = 64  # pairs stabilized at once
STEADY_SIDE = 64  # of the frames that are stabilized: 128 px would cost four times as much
COMPONENTS = 256  # of the PCA of stabilized pixels, as many as of the others


@dataclass(frozen=True, slots=True)
class Controls:
    """Rows of controls, and the reasons for those that are left out."""

    rows: Features = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    closed_form_bits: float | None = None  # of `closed_form_codes`


def motion_controls(pairs: PairSet, bits: float | None) -> Controls:
    """The controls of pairs with grey frames.

    Args:
        pairs: of the probed camera.
        bits: of the tokenizer's codes, None without; those of the closed-form tokenizer have as many, or fewer.
    """
    assert pairs.grey is not None
    steady_now, steady = stabilized(pairs)
    rows: Features = {
        "pixel_difference_stabilized": Wide.of((steady - steady_now).numpy(), COMPONENTS),
        "normal_flow": _normal_flow(steady_now, steady),
    }
    try:
        flow = optical_flow(pairs.grey[pairs.now], pairs.grey[pairs.future])
    except ImportError as error:
        names = ("optical_flow", "closed_form", *(() if bits is None else ("closed_form_codes",)))
        return Controls(rows, dict.fromkeys(names, str(error)))
    tokenizer = ClosedFormTokenizer.load()
    latents = tokenizer.latents(flow)
    rows |= {"optical_flow": flow, "closed_form": latents}
    if bits is None:
        return Controls(rows)
    if not (stages := tokenizer.stages_within(bits)):
        reason = f"the codes have {bits:.1f} bits, fewer than one of the closed-form tokenizer's"
        return Controls(rows, {"closed_form_codes": reason})
    rows["closed_form_codes"] = tokenizer.quantized(tokenizer.codes(latents, stages))
    return Controls(rows, closed_form_bits=stages * tokenizer.bits_per_stage)


def stabilized(pairs: PairSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames t and stabilized frames t+C: grey float32 (P, 1, 64, 64) in 0..1."""
    assert pairs.grey is not None
    grey = torch.from_numpy(pairs.grey)[:, None]
    small = F.interpolate(grey, size=(STEADY_SIDE,) * 2, mode="bilinear", antialias=True, align_corners=False)
    steady = []
    for first in range(0, len(pairs), BATCH):
        rows = slice(first, first + BATCH)
        # The stabilizer takes colours.
        now, future = (repeat(small[side[rows]], "b 1 h w -> b 3 h w") for side in (pairs.now, pairs.future))
        steady.append(steady_future(now.contiguous(), future.contiguous())[:, :1])
    return small[pairs.now].float() / 255, torch.cat(steady).float() / 255


def _normal_flow(now: torch.Tensor, steady: torch.Tensor) -> np.ndarray:
    flow = normal_flow(now, steady)
    # Pairs without any motion have a flow of 0 under any softness.
    return compressed(flow, float(flow.square().mean().sqrt()) or 1.0).flatten(1).numpy()
