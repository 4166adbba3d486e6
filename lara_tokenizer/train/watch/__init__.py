"""Watching a run: `monitor` measures held-out pairs, `plot` draws the curves, `trackers` report.

Both training loops use it, stage 1 and joint training.
"""

from collections.abc import Callable

CHECKPOINTS = "checkpoints"  # folder in that of a run
LOG_LINES = "training_log.jsonl"  # a line for each log

# progress(phase, done, total, logs): "frames" and "features" while they are made, "start" before initial values are
# found, "step" a few times a second with the last loss, "steps" at each log with all of it.
Progress = Callable[[str, int, int, dict[str, float]], None]


def ignore_progress(phase: str, done: int, total: int, logs: dict[str, float]) -> None:
    """The `Progress` of a run that nobody watches."""
