"""Job files: the options of a command in a YAML file, which one commits and runs again."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from lara_tok._app import panels
from lara_tokenizer.errors import first_line, printable

_NOT_IN_FILES = ("config", "print_config", "help")
_FLAG = {"true": True, "false": False}


def _read(context: typer.Context, path: Path | None) -> Path | None:
    """Make the options of a job file the defaults of this run, so that those on the command line win.

    Raises ValueError for an unknown key, naming the nearest, or a value that is neither a text nor a list of texts.
    """
    if path is None or context.resilient_parsing:
        return path
    parameters = _by_key(context)
    values = {}
    for key, value in _load(path).items():
        if key not in parameters:
            near = get_close_matches(key, parameters, n=1)
            advice = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(parameters)}."
            raise ValueError(f"{path}: unknown key '{printable(key)}'. {advice}")
        if value not in ("", "null", "~"):
            values[parameters[key].name] = _value(parameters[key], value, f"{path}: {key}")
    context.default_map = {**(context.default_map or {}), **values}
    return path


def _load(path: Path) -> dict[str, Any]:
    """The keys of a file, with values as they are written: YAML itself takes 0:50 for a number of base 60."""
    import yaml

    try:
        found = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}. --print-config writes such a file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file ({' '.join(first_line(error).split())})") from error
    if found not in (None, "") and not isinstance(found, dict):
        raise ValueError(f"{path}: takes one option a line, such as 'stride: 0.6s'")
    return {str(key): value for key, value in (found or {}).items()}


def _value(parameter: Any, value: Any, where: str) -> Any:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}: takes a text or a list of texts")
    if parameter.multiple if parameter.opts[0].startswith("-") else parameter.nargs != 1:
        return texts
    if isinstance(value, list):
        raise ValueError(f"{where}: takes one value, got a list of {len(value)}")
    if getattr(parameter, "is_flag", False):
        if value not in _FLAG:
            raise ValueError(f"{where}: takes true or false, got {value!r}")
        return _FLAG[value]
    return value


def print_job(context: typer.Context) -> None:
    """Print every option of this run as a job file."""
    import yaml

    job = {key: _plain(context.params[parameter.name]) for key, parameter in _by_key(context).items()}
    print(f"# {context.command_path} --config THIS_FILE")
    print(yaml.safe_dump(job, sort_keys=False, allow_unicode=True), end="")


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return list(map(_plain, value))
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _by_key(context: typer.Context) -> dict[str, Any]:
    """The parameters by their keys in a file: the option without its dashes, "min_motion"."""
    keys = {each.opts[0].lstrip("-").replace("-", "_"): each for each in context.command.params}
    return {key: parameter for key, parameter in keys.items() if key not in _NOT_IN_FILES}


ConfigOption = Annotated[
    Path | None,
    panels.output(
        metavar="JOB.yaml",
        is_eager=True,
        callback=_read,
        help="Take options from a file, as --print-config writes it. Those on the command line win.",
    ),
]
PrintConfigOption = Annotated[
    bool, panels.output("--print-config", help="Print all options as a file for --config; encode nothing.")
]
