"""One verdict on latent actions, the same wherever it is said: `encode`, `info`, `eval`, the cards.

`findings.py` judges figures by the limits of `lara_tokenizer/thresholds.py`, `probe.py` those of a probe beside its
controls; `grades.py` draws the verdict from all findings; `card.py` has what a checkpoint says of itself. No torch.
"""
