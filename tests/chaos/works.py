"""The commands that are disturbed, their inputs, and what they leave behind when nothing disturbs them."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from fuzz.clips import plain_clip
from fuzz.datasets import lerobot
from fuzz.forked import run_command
from golden.inputs import write_checkpoint

RECIPES = Path(__file__).resolve().parents[1] / "golden/recipes"
CLIPS, LENGTH = 4, 24
LONG = 1300  # frames of the longest clip: more than one unit of work


@dataclass(frozen=True, slots=True)
class Work:
    """A command that is disturbed.

    Attributes:
        command: arguments of `lara-tok`, with absolute paths but for the output.
        out: the output, a file or folder in the working folder.
        again: what is added to go on with it after a stop.
        kept: endings of the files whose bytes must be those of an undisturbed run; logs hold times.
    """

    name: str
    command: tuple[str, ...]
    out: str
    again: tuple[str, ...] = ()
    kept: tuple[str, ...] = ("",)

    def result(self, folder: Path) -> dict[str, str]:
        """SHA-256 by file name of what the command wrote; empty where it has written nothing under its name."""
        out = folder / self.out
        files = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.name.endswith(self.kept)
        }


class Bench:
    """Inputs in a folder, the works, and their undisturbed results and seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "tiny"
        self.clips = folder / "clips"
        self.results: dict[str, dict[str, str]] = {}
        self.seconds: dict[str, float] = {}
        self.works: dict[str, Work] = {}

    def prepare(self) -> None:
        """Write the inputs and run each work undisturbed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        write_checkpoint(self.model, RECIPES / "train.yaml")
        for number in range(CLIPS):
            plain_clip(self.clips / f"clip {number}.mp4", LENGTH, number * LENGTH)
        shutil.copytree(self.clips, self.folder / "short")
        plain_clip(self.clips / "long.mkv", LONG)
        lerobot(self.folder / "robot", "v2.1")
        self._table("short.parquet", self.folder / "short")
        self._table("robot.parquet", self.folder / "robot", "--with", "latents,text", "--camera", "top")
        (self.folder / "recipe.yaml").write_text(self._short_recipe())
        for work in self._works():
            self.works[work.name] = work
            clean = self.folder / "clean" / work.name
            clean.mkdir(parents=True)
            done = run_command(work.command, clean)
            assert done.code == 0, f"{work.name}: {done.output}"
            self.results[work.name], self.seconds[work.name] = work.result(clean), done.seconds

    def encode(self, workers: int, source: Path | None = None, out: str = "t.parquet") -> tuple[str, ...]:
        """Arguments of `lara-tok encode`."""
        options = ("--model", str(self.model), "--stride", "2f", "--workers", str(workers), "--out", out)
        return ("encode", str(source or self.clips), *options)

    def _table(self, name: str, source: Path, *options: str) -> None:
        done = run_command([*self.encode(0, source, name), *options], self.folder)
        assert done.code == 0, done.output

    def _works(self) -> list[Work]:
        short, clips, robot, root = (
            str(self.folder / name) for name in ("short.parquet", "short", "robot.parquet", "robot")
        )
        model, alone = ("--model", str(self.model)), ("--out", "out", "--workers", "0")
        said = ("--instruction", "go")
        return [
            Work("encode", self.encode(0), "t.parquet"),
            Work("encode folder", self.encode(0, out="t/"), "t"),
            Work("encode by 2 workers", self.encode(2), "t.parquet"),
            Work("univla", ("export", "univla", short, clips, *alone, *said), "out"),
            Work("webdataset", ("export", "webdataset", robot, root, *alone), "out"),
            Work("lerobot", ("export", "lerobot", robot, root, "--out", "out", *model), "out"),
            Work("groot", ("export", "groot", robot, root, "--out", "out"), "out"),
            Work("moto", ("export", "moto", robot, root, *alone, "--no-actions", *said), "out"),
            Work(
                "train",
                ("train", clips, "--recipe", str(self.folder / "recipe.yaml"), "--out", "out"),
                "out",
                ("--resume",),
                ("model.safetensors", "preprocessor_config.json"),
            ),
        ]  # fmt: skip

    @staticmethod
    def _short_recipe() -> str:
        import yaml

        recipe = yaml.safe_load((RECIPES / "train.yaml").read_text())
        recipe["training"] |= {"steps": 12, "save_steps": 3, "log_steps": 3}
        return json.dumps(recipe)
