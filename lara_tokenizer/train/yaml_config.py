"""Recipes as plain data: YAML files to dataclasses, each key and type checked, errors that name both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

Section = TypeVar("Section")
Parsed = TypeVar("Parsed")


def load_yaml(path: str | Path, parse: Callable[[Mapping[str, Any]], Parsed]) -> Parsed:
    """Read a YAML file as plain data and `parse` it. Raises ValueError, naming the file, for what is none."""
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    try:
        return parse(values or {})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def field_names(cls: type) -> list[str]:
    """The fields of a dataclass."""
    return [entry.name for entry in fields(cls)]


def refuse_unknown(where: str, values: Any, allowed: list[str]) -> None:
    """Raises ValueError where `values` is no mapping, or has a key that is not `allowed`."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is a mapping of {', '.join(allowed)}; got {type(values).__name__}.")
    for name in values:
        if name not in allowed:
            raise ValueError(f"unknown {where} key '{name}'. There are: {', '.join(allowed)}.")


def section(cls: type[Section], where: str, values: Mapping[str, Any] | None) -> Section:
    """A dataclass from a mapping, each value in the type of the field's default. Raises ValueError, naming the key."""
    values = {} if values is None else values
    refuse_unknown(where, values, field_names(cls))
    return cls(**{name: typed(where, name, value, _default(cls, name)) for name, value in values.items()})


def texts(where: str, value: Any) -> tuple[str, ...]:
    """A list of texts, () for none. Raises ValueError for anything else."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{where}: takes a list of texts, got {value!r}.")
    return tuple(value)


def typed(where: str, name: str, value: Any, default: Any) -> Any:
    """`value` in the type of the default. YAML reads `1e-4` as text: a number written so is taken as one.

    Where the default is None a whole number or None is taken.
    """
    if default is None:
        return None if value is None else typed(where, name, value, 0)
    if isinstance(default, bool) or isinstance(value, bool):
        if isinstance(default, bool) and isinstance(value, bool):
            return value
    elif isinstance(default, str) and isinstance(value, str):
        return value
    elif isinstance(default, int | float):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if isinstance(default, float) and number == number:
            return number
        if number == number and number.is_integer():
            return int(number)
    raise ValueError(f"{where} {name}: takes a {type(default).__name__}, got {value!r}.")


def _default(cls: type, name: str) -> Any:
    default = next(entry for entry in fields(cls) if entry.name == name).default
    assert default is not MISSING
    return default
