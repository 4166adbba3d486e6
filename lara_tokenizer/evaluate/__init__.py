"""What a checkpoint is worth: is the codebook alive, does the decoder use z, does z hold the actions.

>>> from lara_tokenizer.evaluate import evaluate_lam
>>> evaluate_lam(model, processor, "mw-heldout")["z_gain"]  # doctest: +SKIP
0.56
"""

from __future__ import annotations

from lara_tokenizer.evaluate.lam import evaluate_lam
from lara_tokenizer.evaluate.probe import probe_actions

__all__ = ["evaluate_lam", "probe_actions"]
