"""Pages as templates: files of a package, and the jinja2 environment that renders its templates."""

from __future__ import annotations

from functools import partial
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined


def resource(package: str, name: str) -> str:
    """The text of a file in a package, also from a wheel or a zip archive."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def template_environment(package: str) -> Environment:
    """An environment for the templates in a package: all text is escaped, a name that is not defined is an error."""
    loader = FunctionLoader(partial(resource, package))
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = environment.keep_trailing_newline = True
    return environment
