"""Has z collapsed: to one direction, to few dimensions, or to a point?"""

from __future__ import annotations

from typing import Any

import torch

from lara_tokenizer import metrics
from lara_tokenizer.evaluate.bootstrap import rounded


def latents_report(latents_PND: torch.Tensor) -> dict[str, Any]:
    """`spread`, `effective_rank`, `mean_cosine` and `norm` of z, flattened to one vector a pair; see `metrics`."""
    return {
        "spread": rounded(float(metrics.spread(latents_PND))),
        "effective_rank": rounded(float(metrics.effective_rank(latents_PND))),
        "mean_cosine": rounded(float(metrics.mean_cosine(latents_PND))),
        "norm": rounded(float(latents_PND.flatten(1).norm(dim=1).mean())),
    }
