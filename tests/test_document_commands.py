"""Every command of README, docs and help pages parses, and names only recipes that the wheel holds.

`make test-wheel` also runs those of the README, from the wheel alone.
"""

from __future__ import annotations

import re

import pytest
import typer
from document_commands import PAGES, Typed, commands_of, commands_of_help
from lara_tok.__main__ import app

from lara_tokenizer.train.recipe_files import shipped_recipes

PLACEHOLDERS = {"FORMAT": "lapa"}  # of a command's name
COMMAND = typer.main.get_command(app)


def _leaves(command, name=""):
    if not hasattr(command, "commands"):
        return [(name, command)]
    return [leaf for key, each in command.commands.items() for leaf in _leaves(each, f"{name} {key}".strip())]


FROM_PAGES = [each for page in PAGES for each in commands_of(page)]
FROM_HELP = [each for name, leaf in _leaves(COMMAND) for each in commands_of_help(name, leaf.help or "")]


def _parse(command, arguments: list[str]) -> None:
    """Parse without running; raises the error of the command line for what it does not take."""
    context = command.make_context(command.name, arguments)
    if hasattr(command, "commands"):
        _, leaf, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        _parse(leaf, rest)


@pytest.mark.parametrize("each", FROM_PAGES + FROM_HELP, ids=lambda each: f"{each.page}: {' '.join(each.arguments)}")
def test_a_command_that_a_page_tells_to_type_parses(each: Typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text("out: tokens.parquet", encoding="utf-8")  # --config is read while parsing
    _parse(COMMAND, [PLACEHOLDERS.get(word, word) for word in each.arguments])


def test_every_command_but_the_listing_ones_has_an_example_and_each_page_its_commands():
    shown = {each.page.split()[1] for each in FROM_HELP}
    assert {"encode", "train", "refine", "eval"} <= shown
    assert {"README.md", "training.md", "policy.md", "export.md"} <= {each.page for each in FROM_PAGES}


def test_recipes_in_commands_ship_or_were_written_by_the_page():
    made = {(each.page, each.writes) for each in FROM_PAGES if each.writes}
    recipes = [
        (each.page, value)
        for each in FROM_PAGES + FROM_HELP
        for option, value in zip(each.arguments, each.arguments[1:], strict=False)
        if option == "--recipe" or (each.arguments[0] == "recipes" and not value.startswith("-"))
    ]
    assert len(recipes) > 8
    assert {value for page, value in recipes if (page, value) not in made} <= shipped_recipes().keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_only_a_checkout_has_is_said_to_need_one(page):
    """A pip user has neither hub_configs/ nor benchmarks/: a page that tells to run or read them says "checkout"."""
    text = page.read_text(encoding="utf-8")
    told = re.findall(r"(?:python |^)benchmarks/\S+|--recipe hub_configs\S*", text, re.M)
    assert not told or "checkout" in text, told[0]


def test_local_links_of_the_docs_lead_somewhere():
    broken = [
        f"{page.name}: {link}"
        for page in PAGES
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert broken == []
