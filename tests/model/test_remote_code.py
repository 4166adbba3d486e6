"""The weights travel with their code: a folder loads where this package is not installed."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import torch
from remote_code import encode_with_remote_code

import lara_tokenizer.model
from lara_tokenizer.model import FAMILIES, LatentActionConfig, LatentActionModel, LatentActionProcessor

SHIPPED = Path(lara_tokenizer.model.__file__).parent


def test_a_saved_folder_loads_in_a_process_that_cannot_import_us(
    tiny_checkpoint, tiny_model, tiny_processor, moving_square, tmp_path, monkeypatch
):
    clip = moving_square(5, size=40)
    remote = encode_with_remote_code(tiny_checkpoint, np.stack([clip[:-1], clip[1:]]), tmp_path, monkeypatch)
    with torch.no_grad():
        local = tiny_model.encode(**tiny_processor(clip[:-1], clip[1:]))
    assert remote["codes"] == local.codes.tolist()
    torch.testing.assert_close(torch.tensor(remote["latents"]), local.latents, rtol=0, atol=1e-6)
    assert remote["dim"] == 8
    assert remote["module"].startswith("transformers_modules")


def _entry(shipped: type) -> str:
    """The file that `auto_map` names for a config, a model or the processor."""
    return f"{shipped.__module__.rsplit('.', 1)[1]}.py"


def _siblings(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {
        f"{node.module}.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level and node.module
    }


def _reached(entry: str) -> set[str]:
    """All that an entry file imports, itself or through others."""
    reached, queue = set(), list(_siblings(SHIPPED / entry))
    while queue:
        name = queue.pop()
        if name not in reached:
            reached.add(name)
            queue.extend(_siblings(SHIPPED / name))
    return reached


ENTRIES = {_entry(shipped) for family in FAMILIES.items() for shipped in family} | {_entry(LatentActionProcessor)}


def test_a_saved_folder_holds_every_file_of_its_model(tiny_checkpoint):
    entries = {_entry(shipped) for shipped in (LatentActionConfig, LatentActionModel, LatentActionProcessor)}
    needed = entries.union(*map(_reached, entries))
    assert needed <= {file.name for file in tiny_checkpoint.iterdir()}


def test_every_file_of_the_folder_ships_with_some_model():
    # The two that register the families are of the installed package alone.
    shipped = {file.name for file in SHIPPED.glob("*.py")} - {"__init__.py", "families.py"}
    assert ENTRIES.union(*map(_reached, ENTRIES)) == shipped


def test_each_entry_file_imports_all_it_needs_directly():
    """transformers 4 copies what the entry file imports itself, not what those files import in turn."""
    for entry in sorted(ENTRIES):
        direct, reached = _siblings(SHIPPED / entry), _reached(entry)
        assert reached == direct, f"{entry} must import {reached - direct} itself"
