"""The architecture: import edges between packages, sizes of files and folders, contents of the wheel."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# part -> the parts it may import, besides itself. Imports run downward only; adding an edge means editing this
# table in the same change.
LEAVES = {
    "lara_tokenizer._database",
    "lara_tokenizer._files",
    "lara_tokenizer._lazy",
    "lara_tokenizer._parse",
    "lara_tokenizer._templates",
    "lara_tokenizer.errors",
    "lara_tokenizer.thresholds",
    "lara_tokenizer.verdict",
    "lara_tokenizer.version",
}
EDGES = {
    "lara_tokenizer._database": {"lara_tokenizer.errors"},
    "lara_tokenizer._files": set(),
    "lara_tokenizer._lazy": set(),
    "lara_tokenizer._parse": {"lara_tokenizer.errors"},
    "lara_tokenizer._templates": set(),
    "lara_tokenizer.thresholds": set(),
    "lara_tokenizer.errors": set(),
    "lara_tokenizer.verdict": {"lara_tokenizer._parse", "lara_tokenizer.thresholds"},
    "lara_tokenizer.version": set(),
    "lara_tokenizer.model": set(),
    "lara_tokenizer.metrics": {"lara_tokenizer.thresholds"},
    "lara_tokenizer.motion": {"lara_tokenizer.errors", "lara_tokenizer.model"},
    "lara_tokenizer.vision_encoder": {"lara_tokenizer.errors"},
    "lara_tokenizer.data": LEAVES,
    "lara_tokenizer.checkpoint": LEAVES | {"lara_tokenizer.model"},
    "lara_tokenizer.table": LEAVES | {"lara_tokenizer.data", "lara_tokenizer.checkpoint"},
    "lara_tokenizer.encode": LEAVES
    | {
        "lara_tokenizer.model",
        "lara_tokenizer.data",
        "lara_tokenizer.metrics",
        "lara_tokenizer.checkpoint",
        "lara_tokenizer.table",
    },
    "lara_tokenizer.deploy": LEAVES | {"lara_tokenizer.model", "lara_tokenizer.checkpoint"},
    "lara_tokenizer.tokenizer": LEAVES
    | {
        "lara_tokenizer.model",
        "lara_tokenizer.data",
        "lara_tokenizer.checkpoint",
        "lara_tokenizer.table",
        "lara_tokenizer.encode",
    },
    "lara_tokenizer.export": LEAVES
    | {"lara_tokenizer.data", "lara_tokenizer.table", "lara_tokenizer.checkpoint", "lara_tokenizer.vision_tokens"},
    "lara_tokenizer.view": LEAVES | {"lara_tokenizer.data", "lara_tokenizer.table", "lara_tokenizer.export"},
    "lara_tokenizer.vision_tokens": LEAVES,
    "lara_tokenizer.convert": LEAVES | {"lara_tokenizer.model", "lara_tokenizer.checkpoint"},
    "lara_tokenizer.evaluate": LEAVES
    | {
        "lara_tokenizer.model",
        "lara_tokenizer.data",
        "lara_tokenizer.metrics",
        "lara_tokenizer.motion",
        "lara_tokenizer.vision_encoder",
    },
    "lara_tokenizer.train": LEAVES
    | {
        "lara_tokenizer.model",
        "lara_tokenizer.data",
        "lara_tokenizer.metrics",
        "lara_tokenizer.motion",
        "lara_tokenizer.vision_encoder",
    },
    "lara_policy": LEAVES
    | {
        "lara_tokenizer.model",
        "lara_tokenizer.data",
        "lara_tokenizer.metrics",
        "lara_tokenizer.train",
        "lara_tokenizer.checkpoint",
        "lara_tokenizer.table",
    },
}
EDGES["lara_tokenizer"] = set(EDGES) - {"lara_policy"}
EDGES["lara_tok"] = set(EDGES)
SHIPPED_THIRD_PARTY = {"torch", "numpy", "PIL", "transformers"}


# Folders of code and the limits that keep them easy to read. `model/` is flat because it ships with the weights.
CODE = ("lara_tokenizer", "policy/lara_policy", "cli/lara_tok", "benchmarks", "examples")
MOST_FILES, MOST_LINES, LONGEST_BODY = 15, 400, 60
FLAT = {"lara_tokenizer/model"}
LONG = {"policy/lara_policy/modeling_flow_matching_policy.py"}
RIDDLES = ("What", "Which", "Where", "How", "Does", "Who", "Whose", "Do", "Is", "Are", "From what")


def _code_files() -> list[Path]:
    return [file for folder in CODE for file in sorted((ROOT / folder).rglob("*.py"))]


def _name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


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


def test_no_module_imports_itself_through_others(wheel):
    modules = dict(_modules(wheel))
    graph = {}
    for module, tree in modules.items():
        # An import of a package's lazy name loads nothing; what counts is the module that an import names.
        targets = (name if name in modules else name.rpartition(".")[0] for name in _imports(tree))
        graph[module] = {target for target in targets if target in modules and target != module}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


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
    recipes = {f"lara_tokenizer/recipes/{path.name}" for path in (ROOT / "hub_configs/training").glob("*.yaml")}
    assert {name for name in names if name.startswith("lara_tokenizer/recipes/")} == recipes
    evaluate = ("evaluate/report/page.html.j2", "evaluate/controls/closed_form.safetensors", "view/page.js")
    assert {f"lara_tokenizer/{name}" for name in (*evaluate, "data/rlds/open_x.yaml")} <= names


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("statement", ["import lara_tokenizer", "import lara_tok.__main__"])
def test_importing_the_package_or_the_command_line_imports_no_torch(statement):
    heavy = "{'torch', 'transformers', 'pyarrow', 'av', 'datasets'}"
    assert _run(f"{statement}; import sys; print(sorted({heavy} & set(sys.modules)))").strip() == "[]"


def test_reading_a_table_imports_no_torch():
    code = "import lara_tokenizer.table.reader, lara_tokenizer.table.health, sys; print('torch' in sys.modules)"
    assert _run(code).strip() == "False"


def test_help_names_every_command():
    done = subprocess.run([sys.executable, "-m", "lara_tok", "--help"], check=True, capture_output=True, text=True)
    commands = (
        "encode",
        "info",
        "view",
        "decode",
        "verify",
        "convert",
        "simulate",
        "train",
        "eval",
        "refine",
        "rollout",
        "recipes",
    )
    for command in (*commands, "export", "tokens"):
        assert command in done.stdout


def test_an_unknown_name_of_the_package_lists_the_known_ones():
    import lara_tokenizer

    with pytest.raises(AttributeError, match="it offers EncodeSummary, Episode, EpisodeReadError"):
        lara_tokenizer.LatentTokens  # noqa: B018


def test_folders_hold_at_most_fifteen_files():
    folders = Counter(_name(file.parent) for file in _code_files())
    assert {folder: count for folder, count in folders.items() if count > MOST_FILES and folder not in FLAT} == {}


def test_files_have_at_most_four_hundred_lines():
    lengths = {_name(file): len(file.read_text(encoding="utf-8").splitlines()) for file in _code_files()}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES and name not in LONG} == {}


def test_function_bodies_fit_a_screen():
    """Without signature and docstring, which are long where there are many options."""
    long = []
    for file in _code_files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                if body and node.end_lineno - body[0].lineno + 1 > LONGEST_BODY:
                    long.append(f"{_name(file)}:{node.lineno} {node.name}")
    assert long == []


def test_docstrings_begin_with_what_a_thing_is():
    riddles = []
    for file in _code_files():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in (tree, *ast.walk(tree)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                first = (ast.get_docstring(node) or "").split("\n")[0]
                if re.match(rf"({'|'.join(RIDDLES)})\b", first):
                    riddles.append(f"{_name(file)}:{getattr(node, 'lineno', 1)} {first}")
    assert riddles == []


@pytest.mark.parametrize(
    ("call", "home"),
    [("os.replace", "_files.py"), ("os.rename", "_files.py"), ("os.fsync", "_files.py"), ("file_digest", "_files.py")],
)
def test_shared_craft_has_one_home(call, home):
    packages = ("lara_tokenizer/", "policy/", "cli/")
    users = [
        _name(file)
        for file in _code_files()
        if _name(file).startswith(packages) and re.search(rf"\b{re.escape(call)}\b", file.read_text(encoding="utf-8"))
    ]
    assert users == [f"lara_tokenizer/{home}"] or users == []


# `lara_tokenizer/table/schema.py:table_schema` in a document names a file and a definition in it.
REFERENCES = sorted(
    {
        (file.name, path, name)
        for file in sorted((ROOT / "docs").glob("*.md"))
        for path, name in re.findall(
            r"`((?:lara_tokenizer|policy|cli|benchmarks|tests|examples)/[\w./-]+\.py)(?::([\w.]+))?`",
            file.read_text(encoding="utf-8"),
        )
    }
)


@pytest.mark.parametrize(("document", "path", "name"), REFERENCES)
def test_code_that_a_document_names_exists(document, path, name):
    assert (ROOT / path).is_file(), f"docs/{document} names {path}"
    scope: ast.AST = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for part in name.split(".") if name else ():
        named = {
            getattr(node, "name", None) or getattr(getattr(node, "target", None), "id", None): node
            for node in ast.iter_child_nodes(scope)
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AnnAssign)
        }
        named |= {
            target.id: node
            for node in ast.iter_child_nodes(scope)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert part in named, f"docs/{document}: {path} has no {name}"
        scope = named[part]
