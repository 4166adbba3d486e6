"""`lara-tok recipes`: the recipes of `train` and `refine` that ship with the package."""

from __future__ import annotations

from typing import Annotated, Any

from rich.table import Table
from typer import Argument

from lara_tok._common import JsonOption, console, emit


def recipes(
    name: Annotated[
        str | None, Argument(metavar="NAME", help="Print this recipe, to be changed: lara-tok recipes lam > my.yaml")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List the recipes that --recipe takes by name, or print one.

    Examples:

      lara-tok recipes

      lara-tok recipes lam_sim > mine.yaml
    """
    from lara_tokenizer.train.recipe_files import ShippedRecipe, find_recipe, shipped_recipes

    if name is not None:
        text = find_recipe(name).read_text(encoding="utf-8")
        emit({"name": name, "yaml": text}, as_json, lambda result: print(result["yaml"], end=""))
        return
    found = [ShippedRecipe.read(path) for path in shipped_recipes().values()]
    listed = [{"name": each.name, "command": each.command, "summary": each.summary} for each in found]
    emit({"recipes": listed}, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for column in ("name", "command", "summary"):
        table.add_column(column, no_wrap=column != "summary")
    for each in result["recipes"]:
        table.add_row(each["name"], each["command"], each["summary"])
    console.print(table)
