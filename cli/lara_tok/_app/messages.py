"""Messages on stderr, one line each: errors, warnings, the log; those of other libraries only with --debug."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from typing import Any

from lara_tok._common import say
from lara_tokenizer.errors import printable, printable_lines

_OURS = ("lara_tokenizer", "lara_policy", "lara_tok")  # loggers whose messages are for users, and are one line
_STYLES = {"error": "red", "warning": "yellow"}
# Read by other libraries when they are imported, here and in worker processes. tqdm's switch spares the bars of the
# Hub's downloads, which set their own.
_QUIET = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "DATASETS_VERBOSITY": "error"}


def silence_other_libraries() -> None:
    """Turn off progress bars, advice and warnings of other libraries, unless the environment asks for them."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")


def configure_log(*, debug: bool) -> None:
    """Print our warnings, each once; with `debug` the whole log of all libraries."""
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, handlers=[LogHandler(debug=debug)])


class LogHandler(logging.Handler):
    """A handler that prints a record as a message of the command: "warning: ...".

    Control characters are escaped; in messages of this package newlines too. Other libraries mean the newlines of
    theirs, which are shown with `debug` alone.
    """

    def __init__(self, *, debug: bool = False) -> None:
        super().__init__()
        self._debug = debug
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        name = record.name.partition(".")[0]
        level = record.levelname.lower()
        text = f"{level}: {record.getMessage() if name in _OURS else f'{record.name}: {record.getMessage()}'}"
        if not self._debug and (name not in _OURS or text in self._seen):
            return
        self._seen.add(text)
        lines = [text] if name in _OURS else text.split("\n")
        if record.exc_info:
            lines += logging.Formatter().formatException(record.exc_info).split("\n")
        say(*lines, err=True, style=_STYLES.get(level))


def say_error(message: str, code: int) -> None:
    """Print the error that ends the command: one line, after the traceback with --debug; under --json as JSON, too."""
    # Both are options that need not have been parsed when an error comes.
    if "--debug" in sys.argv:
        say(*traceback.format_exc().rstrip().split("\n"), err=True)
    say(f"error: {message}", err=True, style=_STYLES["error"])
    if "--json" in sys.argv:
        print(json.dumps({"error": printable(message), "exit_code": code}, indent=2))


def usage_message(error: Any) -> str:
    """An error of the command line in one line: what came, what is taken, where to read on.

    `error` is of click's class, which Typer has under a private name.
    """
    # Its message quotes arguments, which may be names of files that a shell has inserted.
    message = " ".join(printable_lines(error.format_message()).split("\n")).rstrip(".")
    message = message[:1].lower() + message[1:]
    parameter = getattr(error, "param", None)
    if parameter is not None:
        came = _given(error.__cause__ or error.__context__)
        takes = f"{parameter.metavar or ''}: {parameter.help}" if parameter.help else ""
        message += f"{came}. Takes {takes.lstrip(': ')}"
    context = error.ctx
    if context is None:
        return message
    return f"{message.rstrip('.')}{'' if message.endswith('?') else '.'} See {context.command_path} --help"


def _given(cause: Any) -> str:
    """The value that was refused; "" where none was given."""
    refused = cause.errors() if hasattr(cause, "errors") else []
    return f", got {printable(repr(refused[0]['input']))}" if refused else ""
