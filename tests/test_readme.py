"""The README's Python runs, and prints what its comments say."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_python_block_runs_and_prints_what_its_comment_says(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    block = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == block.rsplit("#", 1)[1].strip()


def test_the_blocks_of_the_python_page_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.S):
        exec(compile(block, "docs/python.md", "exec"), names)
    assert names["later"].shape == (15, 128, 128, 3)
    assert len(capsys.readouterr().out.splitlines()) == 15  # a row of codes for each frame from 0.5 s on
