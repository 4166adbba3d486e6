"""Groups of options that several commands share, each stated once as a class. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

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
