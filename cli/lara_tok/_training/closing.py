"""The closing lines of a run: figures, verdict, curves, and the command that comes next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lara_tok._common import console, say

HELD_OUT = "heldout_"


def with_next(
    summary: Mapping[str, Any], out: Path, checkpoint: Path, sources: Sequence[str], load_options: Mapping[str, Any]
) -> dict[str, Any]:
    """A summary with the run's folder, its curves, and the command that evaluates the checkpoint."""
    command = ["lara-tok", "eval", str(checkpoint), *sources]
    cameras = load_options.get("cameras", ())
    for camera in [cameras] if isinstance(cameras, str) else cameras:
        command += ["--camera", camera]
    for rate in load_options.get("fps", ()):
        command += ["--fps", rate]
    if (from_list := load_options.get("from_list")) is not None:
        command += ["--from", from_list]
    command += ["--out", str(out / "report")]
    return {**summary, "out": str(out), "curves": str(out / "curves.png"), "next": shlex.join(command)}


def render(result: Mapping[str, Any]) -> None:
    """Print a summary on stdout: a figure a line, those of held-out samples together, and last what to do."""
    last = ("verdict", "reason", "out", "curves", "next")
    for name, value in result.items():
        if name == "datasets":
            for dataset, counts in value.items():
                shown = f"{counts['episodes']:,} episodes, {counts['pairs']:,} pairs at {', '.join(counts['strides'])}"
                print_figure(dataset or "source", shown)
        elif name not in last and not isinstance(value, dict):
            print_figure(name.replace(HELD_OUT, "held-out "), value)
    if "verdict" in result:
        say(f"{'verdict':38} {result['verdict']}: {result['reason']}", style="bold")
    for name in ("curves", "next"):
        if name in result:
            say(f"{name:38} {result[name]}")


def print_figure(name: str, value: Any) -> None:
    """Print one line of a summary on stdout."""
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else value
    console.print(f"{name.replace('_', ' '):38} {shown}", highlight=False)
