"""What every training run does before its first step: find its episodes, and its place in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lara_tokenizer.data import Episode, LoadOptions

CHECKPOINTS = "checkpoints"


def as_episodes(source: Any, load: LoadOptions) -> Sequence[Episode]:
    """Episodes as they are, or what `load_episodes` makes of a source.

    Raises ValueError for no source, and for options of loading beside loaded episodes.
    """
    if isinstance(source, Sequence) and not isinstance(source, str) and source and isinstance(source[0], Episode):
        if load:
            raise ValueError(f"{min(load)}: these episodes are loaded already. Give it to load_episodes")
        return source
    if not source and not load.get("from_list"):
        raise ValueError("training needs a source: give one, or name `sources` in the recipe.")
    from lara_tokenizer.data import load_episodes  # late: episodes of one's own need no decoder

    return load_episodes(source or (), **load)


def find_checkpoint(out: Path, resume: bool, result: str) -> str | None:
    """Where to go on from. Raises ValueError for nothing to resume, or something that would be overwritten.

    `result` is what a finished run leaves in `out`.
    """
    folder = out / CHECKPOINTS
    # Trainer writes its state last: a folder without it is what a kill in the middle of a save has left.
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    last = str(max(whole, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if whole else None
    if resume and last is None:
        raise ValueError(f"{folder} holds no checkpoint to resume. Start without --resume.")
    if not resume and (last is not None or (out / result).exists()):
        raise ValueError(f"{out} holds a training run already. Go on with --resume, or give another folder.")
    return last


def keep_log_until(path: Path, checkpoint: str | None) -> None:
    """Drop the lines that the resumed run will write again; all of them where it starts anew."""
    if not path.exists():
        return
    last = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] <= last]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
