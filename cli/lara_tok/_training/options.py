"""Options that `lara-tok train` and `lara-tok refine` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from lara_tok._app import panels
from lara_tok._common import declared_options, insert_options
from lara_tok._source import LIMIT_HELP

RecipeOption = Annotated[
    str | None,
    panels.training(
        metavar="RECIPE",
        help="A name of `lara-tok recipes`, or a YAML file. Default: built-in defaults (not those of lara-lam).",
    ),
]
OutOption = Annotated[
    Path | None, panels.output(metavar="FOLDER", help="Folder for the checkpoint, the log and its curves.")
]
FramesOption = Annotated[
    Path | None,
    panels.speed(metavar="FOLDER", help="Folder for the cache of decoded frames; several runs can share it."),
]
LimitOption = Annotated[int | None, panels.source(metavar="N", help=LIMIT_HELP)]
ResumeOption = Annotated[bool, panels.output("--resume", help="Continue from the last checkpoint in OUT.")]
ReportOption = Annotated[
    str | None,
    panels.output(
        "--report-to",
        metavar="TRACKER",
        help="Also report the curves to tensorboard (in OUT/tensorboard), trackio or wandb. Each is an extra.",
    ),
]
DryRunOption = Annotated[
    bool,
    panels.output(
        "--dry-run",
        metavar="",
        help="Print sizes and cost of the run without training; needs neither SOURCE nor --out.",
    ),
]


class RecipeOptions:
    """Options of a recipe's training that a command can replace."""

    steps: Annotated[int | None, panels.training(metavar="N", help="Optimizer steps, instead of the recipe's.")] = None
    batch_size: Annotated[
        int | None, panels.training(metavar="N", help="Samples per step and device, instead of the recipe's.")
    ] = None
    learning_rate: Annotated[
        float | None, panels.training(metavar="RATE", help="Peak learning rate, instead of the recipe's.")
    ] = None
    precision: Annotated[
        str | None, panels.training(metavar="fp32|bf16", help="fp32 or bf16, instead of the recipe's.")
    ] = None
    workers: Annotated[
        int | None, panels.speed(metavar="N", help="Data loader processes, instead of the recipe's.")
    ] = None
    seed: Annotated[int | None, panels.training(metavar="N", help="Random seed, instead of the recipe's.")] = None


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator: add `RecipeOptions` to a command, which gets them as its argument `overrides`."""
    return insert_options(command, "overrides", declared_options(RecipeOptions))


def require_source_and_out(source: object, out: Path | None) -> Path:
    """Return `out`. Raises ValueError, naming what is missing, if it is None or there is no source."""
    missing = [] if source else ["No source: name SOURCE, or `sources` in the recipe."]
    if out is None:
        missing.append("Missing --out.")
    if missing or out is None:
        raise ValueError(" ".join(missing))
    return out
