"""The Typer app `lara-tok`: registers the commands and turns errors into one line."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import Annotated

import typer

from lara_tok._common import say
from lara_tokenizer.errors import LaraTokenizerError
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

COMMANDS = ("encode", "info", "decode", "verify", "convert", "simulate", "train", "eval", "refine", "rollout")
for _name in COMMANDS:
    app.command(_name)(getattr(import_module(f"lara_tok.{_name}"), _name))
for _name in ("export", "tokens"):
    app.add_typer(import_module(f"lara_tok.{_name}").app, name=_name)


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
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        stream=sys.stderr,
        format="%(levelname)s: %(message)s",
    )


def main() -> None:
    """Entry point. Exit codes: 0 all done, 1 some episodes failed, 2 usage or refusal, 130 interrupted."""
    try:
        app()
    except (LaraTokenizerError, ValueError, OSError, ImportError) as error:
        # `--debug` is a global option of the app; here only its effect on error output matters.
        if "--debug" in sys.argv:
            raise
        say(f"error: {error}", err=True, style="red")
        sys.exit(2)


if __name__ == "__main__":
    main()
