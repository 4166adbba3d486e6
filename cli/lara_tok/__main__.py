"""The Typer app `lara-tok`: registers the commands and turns errors into one line."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from lara_tok._app import messages, panels
from lara_tokenizer.errors import LaraTokenizerError
from lara_tokenizer.version import __version__

app = typer.Typer(
    name="lara-tok",
    cls=panels.Group,
    help="Latent actions from video: label, judge and train; export to policies.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

COMMANDS = {  # by panel of `lara-tok --help`
    "Label video": ("encode", "info", "view", "decode", "verify"),
    "Models": ("eval", "train", "refine", "recipes", "convert"),
    "Simulators": ("simulate", "rollout"),
}
HOME = {"decode": "pictures.decode", "view": "pictures.view"}  # of commands whose module has another name
GROUPS = ("export", "tokens")
for _panel, _names in COMMANDS.items():
    for _name in _names:
        panels.add_command(app, _name, getattr(import_module(f"lara_tok.{HOME.get(_name, _name)}"), _name), _panel)
panels.add_command(app, "export-onnx", import_module("lara_tok.export.onnx").export_onnx, "Models")
for _name in GROUPS:
    app.add_typer(import_module(f"lara_tok.{_name}").app, name=_name, rich_help_panel="Tables")

EXIT_REFUSED, EXIT_FAULT, EXIT_INTERRUPTED = 2, 70, 130  # 70 is EX_SOFTWARE of sysexits.h


def _version(value: bool) -> None:
    if value:
        print(f"lara-tok {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Detailed log; show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    messages.configure_log(debug=debug)


def main() -> None:
    """Entry point.

    Exit codes: 0 all done, 1 some episodes failed, 2 usage or refusal, 70 a fault of this program, 130 interrupted
    (Ctrl-C), 143 terminated (SIGTERM), 129 (SIGHUP).
    """
    _escape_what_cannot_be_encoded()
    if "--debug" not in sys.argv:
        messages.silence_other_libraries()
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _discard_stdout()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except (LaraTokenizerError, ValueError, OSError, ImportError) as error:
        messages.say_error(str(error), EXIT_REFUSED)
        sys.exit(EXIT_REFUSED)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command, whose help is printed
            sys.exit(EXIT_REFUSED)
        if hasattr(error, "format_message"):  # usage; Typer has click's class of such errors under a private name
            messages.say_error(messages.usage_message(error), EXIT_REFUSED)
            sys.exit(EXIT_REFUSED)
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        advice = "This is a fault of lara-tok: run it again as lara-tok --debug ... and report it"
        messages.say_error(f"unexpected {what}. {advice}", EXIT_FAULT)
        sys.exit(EXIT_FAULT)


def _escape_what_cannot_be_encoded() -> None:
    """Let the standard streams escape characters that their encoding lacks, such as bytes of a name that are no text.

    Otherwise the name of one file ends a run, at the latest where LANG is C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_stdout() -> None:
    """Write what is left in the buffer of stdout nowhere: flushing it at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
