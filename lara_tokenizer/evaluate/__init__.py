"""Measure a checkpoint: use of the codebook, use of z by the decoder, actions and nuisances encoded in z.

>>> from lara_tokenizer.evaluate import evaluate_checkpoint
>>> evaluate_checkpoint(model, processor, "mw-heldout").figures.verdict.grade  # doctest: +SKIP
'no evidence yet'

The way of a pair: `dataset.py` reads it, plain and under a nuisance of `nuisance.py`; `encoding.py` runs the model;
`controls/` makes the features that z is held against; `codebook.py`, `decoder.py` and `probes.py`, with `ridge.py`,
measure (`extra.py` the slower figures, with `learned_probes.py` and `equivariance.py`), with the intervals of
`figures.py`; `evaluate.py` collects the figures; `diagnostics.py` judges them, and `report/` draws the page.
"""

from __future__ import annotations

from lara_tokenizer.evaluate.dataset import PairSet
from lara_tokenizer.evaluate.encoding import EncodedSet
from lara_tokenizer.evaluate.evaluate import Evaluation, evaluate_checkpoint
from lara_tokenizer.evaluate.probes import probe_actions

__all__ = ["EncodedSet", "Evaluation", "PairSet", "evaluate_checkpoint", "probe_actions"]
