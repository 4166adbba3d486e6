"""Attributes of a package that load on first use (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def lazy(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of `package`, whose public names live in submodules.

    Importing the package then costs none of the submodules' imports (torch, pyarrow, av).

    Args:
        package: its `__name__`.
        homes: the submodule, relative to the package, of each public name.

    >>> __getattr__, __dir__ = lazy("lara_tokenizer", {"EpisodeReadError": "errors"})
    >>> __getattr__("EpisodeReadError").__name__
    'EpisodeReadError'
    """

    def __getattr__(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"{package} has no attribute {name!r}; it offers {', '.join(sorted(homes))}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    def __dir__() -> list[str]:
        return sorted(homes)

    return __getattr__, __dir__
