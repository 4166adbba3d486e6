"""Parsing of YAML recipes into dataclasses: every key and type is checked, and errors name both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from lara_tokenizer._parse import read_yaml, shown
from lara_tokenizer.train.recipe_files import find_recipe

Section = TypeVar("Section")
LARGEST = 2**32 - 1  # of any integer in a recipe: the largest seed


@dataclass(frozen=True, slots=True)
class YamlRecipe:
    """Base of the recipes of a run: nested options, parsed from YAML."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a recipe: a YAML file, or the name of one that ships with the package, such as "lam".

        Raises FileNotFoundError if there is neither, and ValueError, naming file and key, for an invalid one.
        """
        path = find_recipe(path)
        values = read_yaml(path)
        try:
            return cls.parse({} if values is None else values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build a recipe from nested mappings. Raises ValueError for an unknown key or a wrong type."""
        refuse_unknown("recipe", values, field_names(cls))
        return cls(**cls._parse_fields(dict(values)))

    @classmethod
    def _parse_fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Convert the values of known keys to the types of the fields."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Nested mappings that `parse` accepts."""
        return asdict(self)


def override(options: Section, **values: Any) -> Section:
    """A copy of a dataclass with some fields replaced; None leaves a field unchanged."""
    changed = {name: value for name, value in values.items() if value is not None}
    return replace(options, **changed)  # type: ignore[type-var]


def field_names(cls: type) -> list[str]:
    """Names of the fields of a dataclass."""
    return [entry.name for entry in fields(cls)]


def refuse_unknown(where: str, values: Any, allowed: list[str]) -> None:
    """Raise ValueError if `values` is not a mapping or has a key that is not `allowed`."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is a mapping of {', '.join(allowed)}; got {type(values).__name__}.")
    for name in values:
        if name not in allowed:
            raise ValueError(f"unknown {where} key {shown(name)}. There are: {', '.join(allowed)}.")


def parse_section(cls: type[Section], where: str, values: Mapping[str, Any] | None) -> Section:
    """Build a dataclass from a mapping, each value in the type of its field's default; every field has one.

    Raises ValueError, naming the key, for an unknown key or a wrong type.
    """
    values = {} if values is None else values
    defaults = {entry.name: entry.default for entry in fields(cls)}  # type: ignore[arg-type]
    refuse_unknown(where, values, list(defaults))
    return cls(**{name: parse_value(where, name, value, defaults[name]) for name, value in values.items()})


def parse_strings(where: str, value: Any) -> tuple[str, ...]:
    """Parse a list of strings, () for None. Raises ValueError for anything else."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f"{where}: takes a list of strings, got {shown(value)}.")
    return tuple(value)


def parse_mapping(where: str, value: Any) -> dict[str, Any]:
    """Parse a mapping with names, {} for None. Raises ValueError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{where}: takes names and values, got {shown(value)}.")
    return dict(value)


def parse_value(where: str, name: str, value: Any, default: Any) -> Any:
    """Convert `value` to the type of `default`; a default of None takes an integer or None."""
    if default is None:
        return None if value is None else parse_value(where, name, value, 0)
    if isinstance(default, bool) or isinstance(value, bool):
        if isinstance(default, bool) and isinstance(value, bool):
            return value
    elif isinstance(default, str) and isinstance(value, str):
        return value
    elif isinstance(default, int | float) and isinstance(value, int | float | str):
        try:
            # YAML 1.1 reads `1e-4`, without a dot, as a string.
            parsed = float(value)
        except (ValueError, OverflowError):
            parsed = math.nan
        if isinstance(default, float) and math.isfinite(parsed):
            return parsed
        if math.isfinite(parsed) and parsed.is_integer() and abs(parsed) <= LARGEST:
            return int(parsed)
    raise ValueError(f"{where} {name}: takes a {type(default).__name__}, got {shown(value)}.")
