"""Health of a table's labels, as `lara-tok encode` and `lara-tok info` print it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lara_tok._common import say


def render_health(result: dict[str, Any], line: Callable[[str, str], None]) -> None:
    """Print figures, warnings and verdict; `line` prints a name and a text."""
    figures = result["figures"]
    if figures["codes"] is not None:
        line("per position", _positions(figures["codes"]))
    if figures["spread"] is not None:
        line("spread of z", f"{figures['spread']:.2f} (healthy is about 1)")
    line("idle pairs", _idle(result))
    if figures["whole_picture_share"] is not None:
        line("camera motion", f"{figures['whole_picture_share']:.1%} of the moving pairs")
    for warning in result["health"]:
        say(f"warning: {warning['sentence']}", style="bold yellow")
    line("verdict", result["verdict"])


def _positions(codes: dict[str, Any]) -> str:
    values, most_common = codes["perplexity_per_position"], " ".join(map(str, codes["commonest"]))
    text = f"perplexity {min(values):.1f} to {max(values):.1f}"
    if codes["dead_positions"]:
        text += f", {len(codes['dead_positions'])} of {len(values)} dead"
    return f"{text}; most frequent codes [{most_common}] in {codes['commonest_share']:.1%} of the moving pairs"


def _idle(result: dict[str, Any]) -> str:
    left_out = result.get("idle_left_out")
    return f"{result['idle_share']:.1%}" + (f", {left_out:,} more left out" if left_out else "")
