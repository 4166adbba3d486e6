"""`run_export`: the body of every export command. Imports no torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lara_tok._common import console_err, emit, say

# Parameters of commands whose name is another one in Python: options are singular, "from" is a keyword.
_KEYWORDS = {"camera": "cameras", "from_": "from_list"}


def run_export(format_name: str, parameters: dict[str, Any], counted: str) -> None:
    """Call `lara_tokenizer.export.export_<format_name>`, with progress on stderr, and print its summary.

    Args:
        parameters: of the command, by name (its `locals()`); those that are None were not given.
        counted: unit of the progress, in the plural.
    """
    import lara_tokenizer.export

    export = getattr(lara_tokenizer.export, f"export_{format_name}")
    as_json = parameters.pop("json_")
    given = {_KEYWORDS.get(name, name): value for name, value in parameters.items() if value is not None}
    with _counting(counted) as progress:
        summary = export(**given, progress=progress)
    emit(summary.to_dict(), as_json, _render)


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, on a terminal only, as a function of (done, total).

    An interrupt ends the command with a hint on how to continue.
    """
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeRemainingColumn())
    with Progress(*columns, console=console_err, transient=True, disable=not console_err.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        try:
            yield lambda done, total: bar.update(task, completed=done, total=total)
        except KeyboardInterrupt:
            bar.stop()
            console_err.print("interrupted; the same command goes on from there", markup=False, highlight=False)
            raise typer.Exit(130) from None


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
