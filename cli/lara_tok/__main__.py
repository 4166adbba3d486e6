"""The Typer app `lara-tok`: registers the commands and turns errors into one line."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer

from lara_tok._common import say
from lara_tokenizer.errors import LaraTokenizerError, printable, printable_lines
from lara_tokenizer.version import __version__

app = typer.Typer(
    name="lara-tok",
    help="Latent actions from video: encode, inspect, verify, train, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

COMMANDS = (
    "encode",
    "info",
    "decode",
    "verify",
    "convert",
    "simulate",
    "train",
    "eval",
    "refine",
    "rollout",
    "recipes",
)
for _name in COMMANDS:
    app.command(_name)(getattr(import_module(f"lara_tok.{_name}"), _name))
for _name in ("export", "tokens"):
    app.add_typer(import_module(f"lara_tok.{_name}").app, name=_name)

_warning_text = warnings.formatwarning
EXIT_REFUSED, EXIT_FAULT, EXIT_INTERRUPTED = 2, 70, 130  # 70 is EX_SOFTWARE of sysexits.h
_OURS = ("lara_tokenizer", "lara_policy", "lara_tok")  # loggers whose messages are one line


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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, handlers=[handler])


class PrintableFormatter(logging.Formatter):
    """A log format that escapes control characters; in messages of this package newlines too.

    Other libraries mean the newlines of their messages.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.name.partition(".")[0] in _OURS:
            record.message = printable(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def main() -> None:
    """Entry point.

    Exit codes: 0 all done, 1 some episodes failed, 2 usage or refusal, 70 a fault of this program, 130 interrupted
    (Ctrl-C), 143 terminated (SIGTERM), 129 (SIGHUP).
    """
    _escape_what_cannot_be_encoded()
    warnings.formatwarning = lambda *of_warning, **more: printable_lines(_warning_text(*of_warning, **more))
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
        _say_error(str(error))
        sys.exit(EXIT_REFUSED)
    except Exception as error:
        if hasattr(error, "format_message"):  # usage; Typer has click's class of such errors under a private name
            _say_usage(error)
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        _say_error(
            f"unexpected {what}. This is a fault of lara-tok: run it again as lara-tok --debug ... and report it"
        )
        sys.exit(EXIT_FAULT)


def _say_error(message: str) -> None:
    """Print the error that is being handled: one line, before it the traceback with `--debug`."""
    # A global option of the app, which need not have been parsed when an error comes.
    if "--debug" in sys.argv:
        say(*traceback.format_exc().rstrip().split("\n"), err=True)
    say(f"error: {message}", err=True, style="red")


def _say_usage(error: Any) -> None:
    """Print an error of the command line as click does, its names escaped, and exit."""
    shown = io.StringIO()
    # Its message quotes arguments, which may be names of files that a shell has inserted.
    if error.ctx is None or error.message != error.ctx.get_help():  # a command without arguments shows its help
        error.message = printable(error.message)
    error.show(file=shown)
    say(*shown.getvalue().rstrip().split("\n"), err=True)
    sys.exit(error.exit_code)


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
