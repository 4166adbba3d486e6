"""Watching a run: `monitor` measures held-out pairs, `outcome` judges them, `plot` draws the curves, `trackers` report.

Both training loops use it, stage 1 and joint training.
"""
