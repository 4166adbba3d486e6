"""The README's Python runs, and prints what its comments say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from lara_tok.__main__ import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_python_block_runs_and_prints_what_its_comment_says(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    block = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == block.rsplit("#", 1)[1].strip()


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_every_local_link_leads_somewhere(link):
    assert (ROOT / link).exists()


def test_every_command_of_the_readme_exists():
    command = typer.main.get_command(app)
    for name, second in re.findall(r"lara-tok ([a-z]+)(?: ([a-z]+))?", README):
        assert name in command.commands
        group = command.commands[name]
        if second and hasattr(group, "commands"):
            assert second in group.commands
