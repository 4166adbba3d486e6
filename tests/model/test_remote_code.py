"""The weights travel with their code: a folder loads where this package is not installed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import lara_tokenizer.model
from lara_tokenizer.model import FAMILIES, LatentActionConfig, LatentActionModel, LatentActionProcessor

SHIPPED = Path(lara_tokenizer.model.__file__).parent

# Runs in a process of its own: imports of this distribution fail there, as on a machine without it.
STRANGER = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lara_tokenizer", "lara_policy", "lara_tok"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import numpy as np, torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel

folder, clip = sys.argv[1], np.load(sys.argv[2])
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    out = model.encode(**processor(clip[:-1], clip[1:]))
print(json.dumps({"codes": out.codes.tolist(), "latents": out.latents.tolist(), "dim": config.codebook_dim,
                  "model": type(model).__module__}))
"""


def test_a_saved_folder_loads_in_a_process_that_cannot_import_us(
    tiny_checkpoint, tiny_model, tiny_processor, moving_square, tmp_path, monkeypatch
):
    clip = moving_square(5, size=40)
    np.save(tmp_path / "clip.npy", clip)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(tiny_checkpoint), str(tmp_path / "clip.npy")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout)
    with torch.no_grad():
        ours = tiny_model.encode(**tiny_processor(clip[:-1], clip[1:]))
    assert theirs["codes"] == ours.codes.tolist()
    torch.testing.assert_close(torch.tensor(theirs["latents"]), ours.latents, rtol=0, atol=1e-6)
    assert theirs["dim"] == 8
    assert theirs["model"].startswith("transformers_modules")


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
    shipped = {file.name for file in SHIPPED.glob("*.py")} - {"__init__.py"}
    assert ENTRIES.union(*map(_reached, ENTRIES)) == shipped


def test_each_entry_file_imports_all_it_needs_directly():
    """transformers 4 copies what the entry file imports itself, not what those files import in turn."""
    for entry in sorted(ENTRIES):
        direct, reached = _siblings(SHIPPED / entry), _reached(entry)
        assert reached == direct, f"{entry} must import {reached - direct} itself"
