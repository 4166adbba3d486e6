"""Help pages: readable at 80 columns, in panels, in the words of the tool and not of Python."""

from __future__ import annotations

import re

import pytest
from command_tree import COMMANDS
from lara_tok.__main__ import app
from typer.testing import CliRunner

PANELS = ["Arguments", "Source", "Pairs", "Model", "Training", "Output", "Speed"]


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    return lambda *command: CliRunner().invoke(app, [*command, "--help"]).stdout


@pytest.mark.parametrize("group", [[], ["export"], ["tokens"]])
def test_each_command_has_one_row(page, group):
    shown = page(*group)
    rows = re.findall(r"^│ ([a-z][\w-]+) +(\S.*?) *│$", shown, re.M)
    summaries = {name: command.help.split("\n")[0] for name, command in COMMANDS.items() if name.split()[:-1] == group}
    assert {name.split()[-1]: summary for name, summary in summaries.items()}.items() <= dict(rows).items()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_fits_80_columns_and_names_what_is_taken(page, name):
    shown = page(*name.split())
    panels = re.findall(r"^╭─ (\w+) ─", shown, re.M)
    assert panels == [panel for panel in PANELS if panel in panels]
    assert panels[-1] in ("Output", "Speed")
    assert not re.search(r"<(str|int|float|bool|path|list)\b", shown)
    examples = [line.strip() for line in COMMANDS[name].help.split("\n") if line.startswith("  lara-tok")]
    assert [example for example in examples if not re.search(rf"^ +{re.escape(example)} *$", shown, re.M)] == []
    for parameter in COMMANDS[name].params:
        words = re.sub(r"[│\s]+", "", parameter.help)
        assert words in re.sub(r"[│\s]+", "", _column_of_help(shown))


def _column_of_help(shown: str) -> str:
    """The last column of all panels, joined."""
    return "".join(re.split(r" {2,}", line.strip("│ "))[-1] for line in shown.split("\n") if line.startswith("│"))
