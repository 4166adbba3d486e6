"""The room of the token table imports neither torch nor the encoder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lara_tokenizer.table

_MODULES = sorted(file.stem for file in Path(lara_tokenizer.table.__file__).parent.glob("[!_]*.py"))
_SCRIPT = """
import importlib, sys
import lara_tokenizer.table as table
for name in sys.argv[1:]:
    importlib.import_module(f"lara_tokenizer.table.{name}")
for name in table.__all__:
    getattr(table, name)
unwanted = [name for name in sys.modules if name in ("torch", "transformers") or ".encode" in name]
print(*[name for name in unwanted if name.partition(".")[0] in ("torch", "transformers", "lara_tokenizer")])
"""


def test_no_module_of_the_table_imports_torch_or_encode():
    ran = subprocess.run([sys.executable, "-c", _SCRIPT, *_MODULES], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
