"""Damaged trees of files, one a command: the common part of all kinds but video.

`TreeKind` writes its undamaged trees once. For each input it copies one, damages one to three files of it, and runs
commands on it, each in a forked child.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from fuzz.damage import CANARY, damage
from fuzz.forked import run_command
from fuzz.outcome import Outcome

BATCH = 20  # inputs that one process works on before it reports
_METADATA = (".json", ".jsonl", ".yaml", ".csv", ".tsv", ".txt", ".sqlite")

Tree = dict[str, bytes]  # content by path


class TreeKind(ABC):
    """A kind of input that is a tree of files.

    Args:
        makers: functions that write an undamaged tree to a folder, by name.
    """

    name: str
    share: int

    def __init__(self, folder: Path, model: Path, makers: Mapping[str, Callable[[Path], None]]) -> None:
        self._folder = folder
        self._model = model
        self._makers = makers
        self._trees: dict[str, Tree] = {}

    def prepare(self) -> None:
        """Write and read the undamaged trees."""
        for name, make in self._makers.items():
            root = self._folder / "seeds" / name / "set"
            shutil.rmtree(root.parent, ignore_errors=True)
            root.parent.mkdir(parents=True)
            make(root)
            self._trees[name] = {
                path.relative_to(root).as_posix(): path.read_bytes()
                for path in sorted(root.rglob("*"))
                if path.is_file()
            }

    def batches(self, indices: Sequence[int]) -> list[Sequence[int]]:
        """The inputs that one process works on in one go."""
        return [indices[first : first + BATCH] for first in range(0, len(indices), BATCH)]

    def run(self, indices: Sequence[int], seed: int, found: Path) -> list[Outcome]:
        """Try the inputs one by one; those of violations are kept in `found`."""
        outcomes = []
        for index in indices:
            rng = Random(f"{seed} {self.name} {index}")
            case = self._folder / f"case-{index}"
            shutil.rmtree(case, ignore_errors=True)
            outcome = Outcome(self.name, index)
            name = rng.choice(sorted(self._trees))
            changed = self._write(rng, name, case / "in/set")
            for command in self.commands(rng, name, case):
                outcome.add(run_command(command, case))
            self.check(outcome, case, changed)
            if Path(CANARY).exists():
                outcome.violations["executed"] = f"{CANARY} was made"
                Path(CANARY).unlink()
            if outcome.violations:
                shutil.copytree(case, found / f"{self.name}-{index}", dirs_exist_ok=True, symlinks=True)
            shutil.rmtree(case)
            outcomes.append(outcome)
        return outcomes

    @abstractmethod
    def commands(self, rng: Random, name: str, case: Path) -> Iterator[list[str]]:
        """Command lines to run in folder `case`, for the damaged copy of tree `name` in `in/set`."""

    def check(self, outcome: Outcome, case: Path, changed: list[str]) -> None:  # noqa: B027 (most kinds need none)
        """Look at what the commands left; `changed` are the damaged files."""

    def _write(self, rng: Random, name: str, root: Path) -> list[str]:
        """A damaged copy of a tree; returns the paths of the damaged files."""
        tree = dict(self._trees[name])
        metadata = [path for path in tree if path.endswith(_METADATA) or "/meta/" in f"/{path}"]
        changed = []
        for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
            path = rng.choice(metadata) if metadata and rng.random() < 0.7 else rng.choice(sorted(tree))
            if path in changed:  # damaged data are not read here
                continue
            donors = [data for other, data in self._trees[name].items() if Path(other).suffix == Path(path).suffix]
            tree[path] = damage(rng, path, tree[path], donors)
            changed.append(path)
        if rng.random() < 0.04:
            tree.pop(changed[-1])
        root.mkdir(parents=True)
        for path, data in tree.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        return changed
