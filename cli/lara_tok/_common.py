"""Shared by all commands: consoles, options, progress, output as text or JSON. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_type_hints

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from lara_tok._app import panels
from lara_tokenizer.errors import printable, printable_lines


class PlainConsole(Console):
    """A console that prints every text as it is, markup included, with control characters escaped.

    All output of the commands passes it as text: lines, cells and titles of tables, the status of a long step. Colours
    come from styles alone.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text with control characters escaped, except newlines: a cell may have several lines."""
        return super().render_str(printable_lines(text), **options)


console = PlainConsole()
console_err = PlainConsole(stderr=True)

JsonOption = Annotated[bool, panels.output("--json", help="Print the result as JSON on stdout.")]
ModelOption = Annotated[
    str,
    panels.model(
        "--model", metavar="CHECKPOINT", help="A checkpoint: 'lara-lam' (bundled), a local folder or a Hub id."
    ),
]
MIN_MOTION_HELP = "Leave out pairs whose mean absolute pixel change is below this (0 to 1; noise is about 0.004): 0.01."
# Repeatable options have singular names, and `from` is reserved in Python: option -> keyword of the library.
KEYWORDS = {"camera": "cameras", "task": "tasks", "from_": "from_list"}


def declared_options(group: type) -> dict[str, Parameter]:
    """The annotated attributes of a class as parameters of a command, by name; those of its base class come first."""
    hints = get_type_hints(group, include_extras=True)
    return {
        name: Parameter(name, Parameter.KEYWORD_ONLY, default=getattr(group, name), annotation=hint)
        for name, hint in hints.items()
    }


def insert_options(
    command: Callable[..., None],
    name: str,
    options: Mapping[str, Parameter],
    collect: Callable[[dict[str, Any]], Any] = dict,
) -> Callable[..., None]:
    """Add options to a command, which gets them as its one argument `name`.

    Args:
        command: its parameter `name` is replaced by the options.
        options: parameters by name.
        collect: makes the argument from the keywords of the library that were given; None counts as not given.
    """

    @wraps(command)
    def run(**arguments: Any) -> None:
        values = {option: arguments.pop(option) for option in options}
        given = {KEYWORDS.get(option, option): value for option, value in values.items() if value is not None}
        command(**arguments, **{name: collect(given)})

    parameters: list[Parameter] = []
    for parameter in signature(command, eval_str=True).parameters.values():
        parameters += options.values() if parameter.name == name else [parameter]
    parameters.sort(key=lambda parameter: parameter.name == "json_")  # the last one in every --help
    # Typer reads a command's options from its signature, and their types from its annotations.
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def say(*lines: str, err: bool = False, style: str | None = None) -> None:
    """Print lines on stdout (or stderr) verbatim: no markup, no highlighting, not wrapped.

    Control characters are escaped, newlines too: a name of a file within a line cannot begin another one.
    """
    for line in lines:
        (console_err if err else console).print(printable(line), style=style, highlight=False, soft_wrap=True)


def quantity(count: int, noun: str) -> str:
    """A count with its noun: "1 episode", "1,204 pairs"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def emit(result: dict[str, Any], as_json: bool, render: Callable[[dict[str, Any]], None]) -> None:
    """Print `result` on stdout, as one JSON document or as text by `render`."""
    if as_json:
        # JSON escapes all control characters but this one.
        print(json.dumps(result, indent=2).replace("\x7f", "\\u007f"))
    else:
        render(result)


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, on a terminal only, as a function of (done, total)."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=console_err, transient=True, disable=not console_err.is_terminal) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def render_health(result: dict[str, Any], line: Callable[[str, str], None], *, said: Collection[str] = ()) -> None:
    """Print the health of a table's labels: figures, findings and verdict.

    Args:
        result: of `describe`, or of an encode job.
        line: prints a name and a text.
        said: names of findings that were printed before.
    """
    figures = result["figures"]
    if figures["spread"] is not None:
        line("spread of z", f"{figures['spread']:.3f} (healthy is about 1)")
    left_out = f", {result['idle_left_out']:,} more left out" if result.get("idle_left_out") else ""
    line("idle pairs", f"{result['idle_share']:.1%}{left_out}")
    if figures["whole_picture_share"] is not None:
        line("camera motion", f"{figures['whole_picture_share']:.1%} of the moving pairs")
    render_verdict(result["verdict"], [each for each in result["health"] if each["name"] not in said], line)


def render_verdict(verdict: dict[str, str], findings: list[dict[str, Any]], line: Callable[[str, str], None]) -> None:
    """Print the findings that the verdict does not quote, the verdict, and the next step; JSON-native values."""
    for each in findings:
        if each["sentence"] != verdict["reason"]:
            say(f"{each['severity']}: {each['sentence']}.", style="bold yellow")
    line("verdict", f"{verdict['grade']}: {verdict['reason']}")
    line("next", verdict["next_step"])


def codes_line(result: dict[str, Any], codebook_size: int) -> str:
    """Use of the codes by all pairs of a table, in words."""
    per_position = result["perplexity_per_position"]
    low, high = min(per_position), max(per_position)
    pooled = f"{result['codes_used']} of {codebook_size} used, perplexity {result['perplexity']:.1f} pooled"
    return f"{pooled}, {low:.1f} to {high:.1f} per position"
