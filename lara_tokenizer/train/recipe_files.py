"""Recipes that ship with the package and go by name: "lam" for hub_configs/training/lam.yaml of a checkout."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from lara_tokenizer._parse import read_yaml
from lara_tokenizer.errors import printable

_PACKAGE = Path(__file__).resolve().parents[1]
# In an installed wheel, and in a checkout.
_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "hub_configs" / "training")
# Sections and keys that only the recipe of a joint training has.
_OF_REFINE = {"policy", "policy_preset", "alignment", "tokenizer", "mode"}


@dataclass(frozen=True, slots=True)
class ShippedRecipe:
    """A recipe of the package: its name, the command it is for, a summary, and its file."""

    name: str
    command: str  # "train" or "refine"
    summary: str  # the first line of the file
    path: Path

    @classmethod
    def read(cls, path: Path) -> ShippedRecipe:
        """Describe a recipe by its file."""
        first = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        command = "refine" if _OF_REFINE & set(read_yaml(path)) else "train"
        return cls(path.stem, command, first, path)


def shipped_recipes() -> dict[str, Path]:
    """The files of the recipes that ship with the package, by name.

    >>> "lam" in shipped_recipes()
    True
    """
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe, given by its path or, for one that ships with the package, by its name.

    A file in the working directory takes precedence. Raises FileNotFoundError with the nearest names, and ValueError
    for a folder.
    """
    path, shipped = Path(name), shipped_recipes()
    if path.is_file():
        return path
    if str(name) in shipped:
        return shipped[str(name)]
    if path.is_dir():
        raise ValueError(f"recipe '{printable(path)}': a folder. Name a YAML file, or a recipe of `lara-tok recipes`.")
    if path.exists():  # a pipe, a device
        return path
    near = get_close_matches(path.stem, shipped, n=3, cutoff=0.5)
    hint = f"Nearest by name: {', '.join(near)}" if near else f"By name there are {', '.join(shipped)}"
    raise FileNotFoundError(f"recipe '{printable(path)}': no such file or recipe. {hint} (see `lara-tok recipes`).")
