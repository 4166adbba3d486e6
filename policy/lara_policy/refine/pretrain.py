"""A policy from pseudo-labels, as LAPA and Moto-GPT train theirs (Table 3): codes first, actions after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

from lara_policy.refine.recipe import RefineRecipe
from lara_policy.refine.refine import RESULT, refine
from lara_tokenizer.data import Episode, LoadOptions
from lara_tokenizer.train.train import CHECKPOINTS, as_episodes

CODES_FOLDER, POLICY = "pretrained", "policy"


def pretrain(
    tokens: str | Path,
    source: str | Path | Sequence[str | Path] | Sequence[Episode] | None,
    recipe: RefineRecipe,
    *,
    out: str | Path,
    policy: str | Path | None = None,
    frames: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[str, int, int, dict[str, float]], None] | None = None,
    **load: Unpack[LoadOptions],
) -> dict[str, Any]:
    """Phase 1: cross-entropy over the codes of every episode in the table, from frame t and the task alone, for
    `pretrain_steps`. Phase 2: that loss and the action loss, on the episodes that have actions; where none has, phase 1
    is all.

    `tokens` was written by `lara-tok encode` from `source`. The tokenizers to compare (LAM; LAM trained on with w1 = 0;
    LARA-LAM) are three tables. Phase 1 leaves out/pretrained/policy, phase 2 what `refine` leaves in "dit-only".
    Arguments, results and errors are those of `refine`; a finished phase 1 is not done again.
    """
    out = Path(out)
    episodes = as_episodes(recipe.sources if source is None else source, load)
    shared: dict[str, Any] = {"tokens": tokens, "frames": frames or out / "frames", "progress": progress}
    first = out / CODES_FOLDER
    summary: dict[str, Any] = {}
    if not (first / RESULT).exists():
        codes = recipe.override(mode="codes", steps=recipe.training.pretrain_steps or None)
        begun = resume and (first / CHECKPOINTS).is_dir()
        summary = refine(episodes, codes, out=first, policy=policy, resume=begun, **shared)
    if not any("actions" in episode.available_signals for episode in episodes):
        return summary
    begun = resume and (out / CHECKPOINTS).is_dir()
    return refine(episodes, recipe.override(mode="dit-only"), out=out, policy=first / POLICY, resume=begun, **shared)
