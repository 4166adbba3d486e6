"""The short form of the health card, as `lara-tok encode` and `lara-tok info` print it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lara_tok._common import console


def render_health(result: dict[str, Any], line: Callable[[str, str], None]) -> None:
    """Print what each check looked at, then the warnings and the verdict; `line` prints a name and a text."""
    figures = result["figures"]
    if figures["codes"] is not None:
        line("per position", _positions(figures["codes"]))
    if figures["spread"] is not None:
        line("spread of z", f"{figures['spread']:.2f} (healthy is about 1)")
    line("idle pairs", _idle(result))
    if figures["whole_picture_share"] is not None:
        line("camera", f"{figures['whole_picture_share']:.1%} of the moving pairs move as a whole picture")
    for warning in result["health"]:
        console.print(
            f"warning: {warning['sentence']}", style="bold yellow", markup=False, highlight=False, soft_wrap=True
        )
    line("verdict", result["verdict"])


def _positions(codes: dict[str, Any]) -> str:
    values, commonest = codes["perplexity_per_position"], " ".join(map(str, codes["commonest"]))
    text = f"perplexity {min(values):.1f} to {max(values):.1f}"
    if codes["dead_positions"]:
        text += f", {len(codes['dead_positions'])} of {len(values)} dead"
    return f"{text}; commonest codes [{commonest}] in {codes['commonest_share']:.1%} of the moving pairs"


def _idle(result: dict[str, Any]) -> str:
    left_out = result.get("idle_left_out")
    return f"{result['idle_share']:.1%}" + (f", {left_out:,} more left out" if left_out else "")
