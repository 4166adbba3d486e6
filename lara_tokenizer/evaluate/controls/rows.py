"""The controls of a view of the pairs, plain or under nuisances, as rows of a probe table."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from lara_tokenizer.evaluate.controls.encoder import ControlEncoder, encoder_change
from lara_tokenizer.evaluate.controls.motion_controls import Controls, motion_controls
from lara_tokenizer.evaluate.dataset import PairSet
from lara_tokenizer.evaluate.encoding import EncodedSet
from lara_tokenizer.evaluate.probes import reason_against_probes

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor


def control_rows(
    pairs: PairSet,
    encoded: EncodedSet,
    processor: LatentActionProcessor,
    codebook_size: int,
    encoder: ControlEncoder | None = None,
) -> Controls:
    """All controls but those that `probes.cross_fit` has by itself; none where there are too few episodes to probe.

    Args:
        pairs, encoded: the probed camera, encoded with `feature_change`.
        processor: of the tokenizer, which stabilizes.
        codebook_size: of the tokenizer.
        encoder: a further vision encoder.
    """
    if reason_against_probes(pairs.episodes):
        return Controls()
    bits = None if encoded.codes is None else encoded.codes.shape[1] * math.log2(codebook_size)
    controls = motion_controls(pairs, bits)
    rows = {"encoder_change": encoder_change(encoded), **controls.rows}
    if encoder is not None:
        rows["control_encoder"] = encoder.change(processor, pairs)
    return replace(controls, rows=rows)
