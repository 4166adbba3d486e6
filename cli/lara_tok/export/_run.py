"""`run_export`: the body of every export command. Imports no torch."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from typer import Exit

from lara_tok._common import emit, progress_bar, say


def run_export(name: str, unit: str, *arguments: Any, json_: bool, **keywords: Any) -> None:
    """Export by a function of `lara_tokenizer.export`, with progress on stderr, and print its summary.

    Args:
        name: of the function.
        unit: of the progress, in the plural.
        arguments: of the function.
        json_: print the summary as JSON.
        keywords: of the function; None is left to its default.
    """
    import lara_tokenizer.export

    function = getattr(lara_tokenizer.export, name)
    given = {keyword: value for keyword, value in keywords.items() if value is not None}
    try:
        with progress_bar(unit) as progress:
            summary = function(*arguments, **given, progress=progress)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from there", err=True)
        raise Exit(130) from None
    emit(summary.to_dict(), json_, _render)


def _render(summary: dict[str, Any]) -> None:
    """Print an `ExportSummary` for people."""
    say(f"{summary['out']}: {summary['pairs']:,} pairs of {summary['episodes']:,} episodes ({summary['format']})")
    for reason, count in summary["left_out"].items():
        say(f"  left out {count:,}: {reason}")
    for name, value in summary["settings"].items():
        say(f"  {_setting(name, value, Path(summary['out']).resolve())}")
    for note in summary["notes"]:
        say(f"  note: {note}")


def _setting(name: str, value: Any, folder: Path) -> str:
    """A setting in the notation of its reader; a flag quoted for the shell."""
    text = value if isinstance(value, str) else str(value) if isinstance(value, bool) else json.dumps(value)
    text = text.replace("<this folder>", str(folder))
    return f"{name}={shlex.quote(text)}" if name.startswith("--") else f"{name} {text}"
