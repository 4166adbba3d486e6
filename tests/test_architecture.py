"""The house itself: what may import what, what a wheel holds, how fast help comes."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# part -> the parts it may import, besides itself. Imports run downward only; adding an edge means editing this
# table in the same change.
LEAVES = {
    "lara_tokenizer._files",
    "lara_tokenizer._lazy",
    "lara_tokenizer.errors",
    "lara_tokenizer.thresholds",
    "lara_tokenizer.version",
}
EDGES = {
    "lara_tokenizer._files": set(),
    "lara_tokenizer._lazy": set(),
    "lara_tokenizer.thresholds": set(),
    "lara_tokenizer.errors": set(),
    "lara_tokenizer.version": set(),
    "lara_tokenizer.model": set(),
    "lara_tokenizer.metrics": {"lara_tokenizer.thresholds"},
    "lara_tokenizer.data": LEAVES,
    "lara_tokenizer.encode": LEAVES | {"lara_tokenizer.model", "lara_tokenizer.data", "lara_tokenizer.metrics"},
    "lara_tokenizer.export": LEAVES | {"lara_tokenizer.data", "lara_tokenizer.encode"},
    "lara_tokenizer.vision_tokens": LEAVES,
    "lara_tokenizer.convert": LEAVES | {"lara_tokenizer.model"},
    "lara_tokenizer.evaluate": LEAVES | {"lara_tokenizer.model", "lara_tokenizer.data", "lara_tokenizer.metrics"},
    "lara_tokenizer.train": LEAVES | {"lara_tokenizer.model", "lara_tokenizer.data", "lara_tokenizer.metrics"},
    "lara_policy": LEAVES
    | {
        "lara_tokenizer.model",
        "lara_tokenizer.data",
        "lara_tokenizer.metrics",
        "lara_tokenizer.train",
        "lara_tokenizer.encode",  # reads tables of tokens
    },
}
EDGES["lara_tokenizer"] = set(EDGES) - {"lara_policy"}
EDGES["lara_tok"] = set(EDGES)
SHIPPED_THIRD_PARTY = {"torch", "numpy", "PIL", "transformers"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel that a user would get, built from this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return zipfile.ZipFile(next(out.glob("*.whl")))


def _part(module: str) -> str:
    """The row of the table that a module belongs to: its longest listed prefix."""
    return max((part for part in EDGES if module == part or module.startswith(part + ".")), key=len, default="")


def _modules(wheel: zipfile.ZipFile) -> Iterator[tuple[str, ast.Module]]:
    for name in wheel.namelist():
        if name.endswith(".py"):
            yield name[:-3].replace("/", ".").removesuffix(".__init__"), ast.parse(wheel.read(name))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_run_downward(wheel):
    wrong = []
    for module, tree in _modules(wheel):
        here = _part(module)
        assert here, f"{module} belongs to no part of the table"
        for target in map(_part, _imports(tree)):
            if target and target != here and target not in EDGES[here]:
                wrong.append(f"{module} imports {target}")
    assert not wrong


def test_the_shipped_folder_is_closed(wheel):
    for module, tree in _modules(wheel):
        if not module.startswith("lara_tokenizer.model."):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, f"{module}: a parent import breaks remote code"
                assert node.module, f"{module}: `from . import x` is not copied with the weights"
                assert "." not in node.module, f"{module}: only sibling files are copied with the weights"
        third_party = {name.split(".")[0] for name in _imports(tree)} - set(sys.stdlib_module_names)
        assert third_party <= SHIPPED_THIRD_PARTY, f"{module} imports {third_party - SHIPPED_THIRD_PARTY}"


def test_the_wheel_holds_three_packages_their_type_marks_and_the_checkpoint(wheel):
    names = set(wheel.namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lara_tokenizer", "lara_policy", "lara_tok"}
    assert {f"{package}/py.typed" for package in ("lara_tokenizer", "lara_policy", "lara_tok")} <= names
    folder = "lara_tokenizer/checkpoints/lara-lam"
    assert {f"{folder}/{file}" for file in ("config.json", "preprocessor_config.json", "model.safetensors")} <= names


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("statement", ["import lara_tokenizer", "import lara_tok.__main__"])
def test_importing_the_package_or_the_command_line_imports_no_torch(statement):
    heavy = "{'torch', 'transformers', 'pyarrow', 'av', 'datasets'}"
    assert _run(f"{statement}; import sys; print(sorted({heavy} & set(sys.modules)))").strip() == "[]"


def test_help_names_every_command():
    done = subprocess.run([sys.executable, "-m", "lara_tok", "--help"], check=True, capture_output=True, text=True)
    commands = ("encode", "info", "decode", "verify", "convert", "simulate", "train", "eval", "refine", "rollout")
    for command in (*commands, "export", "tokens"):
        assert command in done.stdout


def test_an_unknown_name_of_the_package_lists_the_known_ones():
    import lara_tokenizer

    with pytest.raises(AttributeError, match="it offers EncodeSummary, Episode, EpisodeReadError"):
        lara_tokenizer.LatentActions  # noqa: B018
