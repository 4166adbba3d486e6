"""Options of the export commands, and `run_export`, the body of each. Imports no torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit

from lara_tok._app import panels
from lara_tok._common import MIN_MOTION_HELP, JsonOption, declared_options, emit, insert_options, progress_bar, say
from lara_tok._source import FromOption
from lara_tok.encode import exit_code, stoppable

TokensArgument = Annotated[str, Argument(metavar="TABLE", help="tokens.parquet, or a folder of shards.")]
SourceArgument = Annotated[list[str], Argument(metavar="SOURCE", help="The SOURCE that was given to encode.")]
OutOption = Annotated[Path, panels.output(metavar="FOLDER", help="A new folder.")]
InstructionOption = Annotated[
    str | None,
    panels.output(metavar="TEXT", help="Instruction for episodes without one; else such episodes are refused."),
]
ImagesOption = Annotated[
    bool,
    panels.output(help="Write the images. With --no-images, provide them under the names in train.jsonl."),
]
Export = partial[None]
"""`run_export` of the command's format, with the shared options filled in."""


class ExportOptions:
    """The options of all export commands."""

    stride: Annotated[
        str | None, panels.pairs(metavar="0.6s|5f", help="One of the table's strides. Default: its only one.")
    ] = None
    camera: Annotated[
        list[str] | None,
        panels.pairs(metavar="NAME|all", help="One of the table's cameras, or all. Repeatable. Default: its only one."),
    ] = None
    min_margin: Annotated[
        float, panels.pairs(metavar="MARGIN", help="Leave out pairs whose code_margin is below this.")
    ] = 0.0
    min_motion: Annotated[float, panels.pairs(metavar="0..1", help=MIN_MOTION_HELP)] = 0.0
    json_: JsonOption = False


class VideoOptions(ExportOptions):
    """The options of the export commands that decode video."""

    workers: Annotated[
        int | None, panels.speed(metavar="N", min=0, help="Worker processes that decode video. Default: one per core.")
    ] = None
    from_: FromOption = None


def export_options(group: type[ExportOptions]) -> Callable[[Callable[..., None]], Any]:
    """Decorator: add a group of options to a command `export_<format>`, which gets an `Export` as its `export`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        run = partial(run_export, command.__name__)
        return insert_options(command, "export", declared_options(group), lambda given: partial(run, **given))

    return decorate


def run_export(function_name: str, unit: str, *arguments: Any, json_: bool, **keywords: Any) -> None:
    """Call a function of `lara_tokenizer.export`, with progress on stderr, and print its summary.

    Args:
        unit: of the progress, in the plural.
        arguments: of the function.
        json_: print the summary as JSON.
        keywords: of the function; one that is None was not given.
    """
    import lara_tokenizer.export

    function = getattr(lara_tokenizer.export, function_name)
    given = {keyword: value for keyword, value in keywords.items() if value is not None}
    try:
        with stoppable(), progress_bar(unit) as progress:
            summary = function(*arguments, **given, progress=progress)
    except KeyboardInterrupt as stop:
        say("interrupted; the same command continues from there", err=True)
        raise Exit(exit_code(stop)) from None
    emit(summary.to_dict(), json_, _render)


def _render(summary: dict[str, Any]) -> None:
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
