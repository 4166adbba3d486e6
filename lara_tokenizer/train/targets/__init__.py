"""Teachers of the motion map of the matching inverse model, used at training time only: no weights of theirs ship.

`motion_targets` computes them for a batch of pairs, `features` those of a frozen vision encoder for all frames ahead of
the run, and `start` sets the initial weights from the motion map to z by the principal directions of both.
"""
