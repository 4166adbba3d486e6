"""What a checkpoint is worth: is the codebook alive, does the decoder use z, does z hold the actions.

>>> from lara_tokenizer.evaluate import evaluate_checkpoint
>>> evaluate_checkpoint(model, processor, "mw-heldout").report["verdict"]  # doctest: +SKIP
'The codes are usable: ...'
"""

from __future__ import annotations

from lara_tokenizer.evaluate.evaluate import Evaluation, evaluate_checkpoint
from lara_tokenizer.evaluate.pairs import EncodedSet, PairSet
from lara_tokenizer.evaluate.probes import probe_actions

__all__ = ["EncodedSet", "Evaluation", "PairSet", "evaluate_checkpoint", "probe_actions"]
