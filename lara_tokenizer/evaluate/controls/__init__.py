"""Controls: features of a pair that need no latent action model, in the probe tables beside z.

A tokenizer that tells no more than these has no reason to be. `motion_controls.py` has flow and pixels,
`closed_form.py` the closed-form tokenizer at equal bits, and `encoder.py` the change of a vision encoder's features.
"""
