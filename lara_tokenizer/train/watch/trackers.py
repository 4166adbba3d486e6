"""Reports of a run to TensorBoard, Trackio or Weights & Biases, by the callbacks of transformers.Trainer."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lara_tokenizer.errors import missing_extra, printable

if TYPE_CHECKING:
    from transformers import TrainerCallback

TRACKERS = ("tensorboard", "trackio", "wandb")  # each is the name of its package, and of an extra
PROJECT = "lara-tokenizer"
EVENTS = "tensorboard"  # folder in that of a run


def check_tracker(name: str | None) -> None:
    """Raise ValueError for an unknown tracker, and ImportError for one that is not installed. Imports none."""
    if name is None:
        return
    if name not in TRACKERS:
        raise ValueError(f"--report-to {printable(name)}: takes one of {', '.join(TRACKERS)}.")
    if find_spec(name) is None:
        raise missing_extra(f"--report-to {name}", name)


def tracker_arguments(name: str | None, out: Path) -> dict[str, Any]:
    """Keywords of `TrainingArguments` for a tracker that Trainer calls itself."""
    if name in (None, EVENTS):
        return {"report_to": []}
    # Without a space of its own Trackio keeps a run on this machine.
    local = {"trackio_space_id": None} if name == "trackio" else {}
    return {"report_to": [name], "run_name": out.name, "project": PROJECT, **local}


def tracker_callbacks(name: str | None, out: Path, first_step: int) -> list[TrainerCallback]:
    """The callback of TensorBoard, which writes to a folder of the run; those of other trackers are Trainer's own.

    Args:
        name: of the tracker.
        out: the run's folder.
        first_step: events from here on, of a run that was interrupted after its last checkpoint, are hidden.
    """
    if name != EVENTS:
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(str(out / EVENTS), purge_step=first_step or None))]
