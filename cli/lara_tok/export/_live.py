"""Progress of an export on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lara_tok._common import console_err


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to be told how much is done and how much there is to do; a moving line on a terminal, else nothing.

    An interrupt ends the command with a word on how to go on.

    Args:
        what: is counted, in the plural.
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
