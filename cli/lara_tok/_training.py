"""Options and output that `lara-tok train` and `lara-tok refine` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from lara_tok._app import panels
from lara_tok._common import console, console_err, declared_options, insert_options
from lara_tok._source import LIMIT_HELP

FramesOption = Annotated[
    Path | None,
    panels.speed(metavar="FOLDER", help="Folder for the cache of decoded frames; several runs can share it."),
]
LimitOption = Annotated[int | None, panels.source(metavar="N", help=LIMIT_HELP)]
ResumeOption = Annotated[bool, panels.output("--resume", help="Continue from the last checkpoint in OUT.")]
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


def progress_printer(measures: Mapping[str, str]) -> Callable[[str, int, int, dict[str, float]], None]:
    """A `progress` function that prints to stderr; `measures` maps labels to keys of the log."""

    def print_progress(phase: str, done: int, total: int, logs: dict[str, float]) -> None:
        if phase == "frames":
            if done % 100 == 0 or done == total:
                console_err.print(f"decoded {done} of {total} camera sequences", highlight=False)
        elif phase == "features":
            if done % 6400 < 64 or done == total:
                console_err.print(f"features of {done} of {total} frames", highlight=False)
        elif "loss" in logs:
            shown = [f"{label} {logs[key]:.3g}" for label, key in measures.items() if key in logs]
            console_err.print(f"step {done} of {total}  {'  '.join(shown)}", highlight=False)

    return print_progress


def print_figure(name: str, value: Any) -> None:
    """Print one line of a summary on stdout."""
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else value
    console.print(f"{name.replace('_', ' '):38} {shown}", highlight=False)
