"""The kinds of input besides video, and the list of all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Protocol

from fuzz.clips import plain_clip
from fuzz.datasets import TREES
from fuzz.forked import run_command, run_forked
from fuzz.outcome import Outcome
from fuzz.trees import TreeKind
from fuzz.video import VideoKind, rows_by_episode
from golden.inputs import write_checkpoint
from video_files import number_in

ROOT = Path(__file__).resolve().parents[2]
WITH_ACTIONS = ("lerobot", "rlds", "hugging-face", "webdataset")
GOLDEN = ROOT / "tests/golden/recipes"


class Kind(Protocol):
    """A kind of input."""

    name: str
    share: int
    """Inputs of 3,000 over all kinds."""

    def prepare(self) -> None:
        """Make what the inputs are made from."""

    def batches(self, indices: Sequence[int]) -> list[Sequence[int]]:
        """The inputs that one process works on in one go."""

    def run(self, indices: Sequence[int], seed: int, found: Path) -> list[Outcome]:
        """Try inputs; those of violations are copied to `found`."""


class DatasetKind(TreeKind):
    """A damaged dataset beside an untouched video: both are encoded by one command."""

    def __init__(self, folder: Path, model: Path, format_name: str, share: int, options: Sequence[str] = ()) -> None:
        super().__init__(folder, model, TREES[format_name])
        self.name, self.share, self._options = format_name, share, options

    def prepare(self) -> None:
        super().prepare()
        self._neighbour = plain_clip(self._folder / "plain.mp4", 20)
        clean = self._folder / "clean"
        self._add_neighbour(clean)
        done = run_command(["encode", "in/other/plain.mp4", *self._encode_options()], clean)
        assert done.code == 0, done.output
        self._rows = _comparable(rows_by_episode(clean / "t.parquet")["plain.mp4"])

    def commands(self, rng: Random, name: str, case: Path) -> Iterator[list[str]]:
        self._add_neighbour(case)
        with_ = ["--with", "actions,text"] if self.name in WITH_ACTIONS and rng.random() < 0.5 else []
        yield ["encode", "in", *self._encode_options(), *with_]

    def check(self, outcome: Outcome, case: Path, changed: list[str]) -> None:
        rows = rows_by_episode(case / "t.parquet")
        neighbours = [table for name, table in rows.items() if name.endswith("plain.mp4")]
        if rows and [_comparable(table) for table in neighbours] != [self._rows]:
            outcome.violations["changed rows"] = f"{len(neighbours)} neighbours in {sorted(rows)[:5]}"
        if any("/meta/" in f"/{path}" or path.endswith((".json", ".jsonl")) for path in changed) and len(rows) > 1:
            read = run_forked(mismatched_pairs, case / "in/set", self._options)
            if read.code != 0:
                outcome.violations["wrong rows"] = f"cannot be read again: {read.code} {read.output[-300:]}"
            elif read.value:
                outcome.violations["wrong rows"] = read.value

    def _encode_options(self) -> list[str]:
        return ["--model", str(self._model), "--stride", "2f", "--workers", "0", "--out", "t.parquet", *self._options]

    def _add_neighbour(self, case: Path) -> None:
        (case / "in/other").mkdir(parents=True)
        shutil.copyfile(self._neighbour, case / "in/other/plain.mp4")


def _comparable(rows: object) -> object:
    """Rows without what depends on the other episodes of a run."""
    keep = ("camera", "stride", "frame_index", "future_frame_index", "timestamp", "future_timestamp", "codes", "motion")
    return rows.select(keep).to_pylist()


def mismatched_pairs(source: Path, options: Sequence[str]) -> str:
    """The first frame of a dataset whose action is another frame's, or "". Damaged numbers are not judged."""
    from lara_tokenizer.data import load_episodes
    from lara_tokenizer.errors import LaraTokenizerError

    fps = float(options[options.index("--fps") + 1]) if "--fps" in options else None
    try:
        episodes = load_episodes(source, fps=fps)
    except (LaraTokenizerError, ValueError, OSError):
        return ""
    for each in episodes:
        try:
            actions = each.signals().actions
            frames = each.frames(each.cameras[0], range(each.num_frames(each.cameras[0])))
        except (LaraTokenizerError, ValueError, OSError):
            continue
        if actions is None or len(actions) != len(frames):
            continue
        for t, (frame, action) in enumerate(zip(frames, actions, strict=True)):
            shown, said = number_in(frame), float(action[0])
            if shown >= 0 and said == int(said) and 0 <= said < 36 and shown != said:
                return f"{each.id}: frame {t} shows {shown}, its action is that of {said:.0f}"
    return ""


class CheckpointKind(TreeKind):
    """A checkpoint of this package with damaged configuration, processor or weights."""

    name, share = "checkpoint", 220

    def __init__(self, folder: Path, model: Path) -> None:
        super().__init__(folder, model, {"tiny": lambda root: shutil.copytree(model, root)})

    def prepare(self) -> None:
        super().prepare()
        self._clip = plain_clip(self._folder / "plain.mp4", 8)

    def commands(self, rng: Random, name: str, case: Path) -> Iterator[list[str]]:
        if rng.random() < 0.5:
            yield ["info", "in/set"]
        else:
            yield ["convert", "in/set", "--to", "moto", "--out", "moto"]
        yield ["encode", str(self._clip), "--model", "in/set", "--stride", "2f", "--workers", "0", "--out", "t.parquet"]


class ForeignCheckpointKind(TreeKind):
    """A damaged checkpoint of another project, to be converted."""

    name, share = "foreign-checkpoint", 120

    def __init__(self, folder: Path, model: Path) -> None:
        super().__init__(folder, model, {"moto": self._make_moto, "weights": self._make_weights})

    def commands(self, rng: Random, name: str, case: Path) -> Iterator[list[str]]:
        if name == "moto":
            yield ["convert", "in/set", "--out", "converted"]
        else:
            yield ["convert", "in/set/weights.pt", "--out", "converted"]

    def _make_moto(self, root: Path) -> None:
        done = run_command(["convert", str(self._model), "--to", "moto", "--out", str(root)], root.parent)
        assert done.code == 0, done.output

    def _make_weights(self, root: Path) -> None:
        import torch

        root.mkdir()
        names = ("vq.codebooks", "to_patch_emb_first_frame.1.weight", "enc_spatial_transformer.layers.0.0.weight")
        torch.save({name: torch.randn(8, 4) for name in names}, root / "weights.pt")


class TableKind(TreeKind):
    """A damaged token table, described, verified, exported, merged."""

    name, share = "table", 200
    _COMMANDS = (
        ["info", "in/set/tokens.parquet"],
        ["verify", "in/set/tokens.parquet", "{source}", "--model", "{model}", "--workers", "0", "--sample", "100%"],
        ["tokens", "diff", "in/set/tokens.parquet", "{whole}"],
        ["tokens", "merge", "in/set/tokens.parquet", "{other}", "--out", "merged.parquet"],
        ["decode", "in/set/tokens.parquet", "{source}", "--model", "{model}", "--out", "futures.png"],
        ["view", "in/set/tokens.parquet", "{source}", "--out", "view.html"],
        *(
            ["export", form, "in/set/tokens.parquet", "{source}", "--out", "out", "--workers", "0", *instruction]
            for form, instruction in (
                ("univla", ("--instruction", "go")),
                ("lapa", ("--instruction", "go")),
                ("webdataset", ()),
            )
        ),
    )

    def __init__(self, folder: Path, model: Path) -> None:
        super().__init__(folder, model, {"tokens": self._make})

    def commands(self, rng: Random, name: str, case: Path) -> Iterator[list[str]]:
        whole, other = self._folder / "seeds/tokens/set/tokens.parquet", self._folder / "other.parquet"
        places = {"source": self._source, "model": self._model, "whole": whole, "other": other}
        for command in rng.sample(self._COMMANDS, 2):
            yield [word.format(**places) for word in command]

    def _make(self, root: Path) -> None:
        self._source = self._folder / "source"
        for name in ("a", "b"):
            plain_clip(self._source / f"{name}.mp4", 14)
        root.mkdir()
        self._encode(self._source, root / "tokens.parquet")
        self._encode(plain_clip(self._folder / "c.mp4", 14), self._folder / "other.parquet")

    def _encode(self, source: Path, out: Path) -> None:
        options = ["--model", str(self._model), "--stride", "2f", "--workers", "0", "--with", "latents"]
        done = run_command(["encode", str(source), *options, "--out", str(out)], out.parent)
        assert done.code == 0, done.output


class RecipeKind(TreeKind):
    """A damaged recipe of `lara-tok train` or `lara-tok refine`, planned without training."""

    name, share = "recipe", 200

    def __init__(self, folder: Path, model: Path) -> None:
        recipes = {
            path.stem: path
            for path in (*sorted((ROOT / "hub_configs/training").glob("*.yaml")), *GOLDEN.glob("*.yaml"))
        }
        self._is_joint = {name: "policy:" in path.read_text() for name, path in recipes.items()}
        makers = {name: lambda root, path=path: self._copy(path, root) for name, path in recipes.items()}
        super().__init__(folder, model, makers)

    def commands(self, rng: Random, name: str, case: Path) -> Iterator[list[str]]:
        if self._is_joint[name]:
            yield ["refine", "--recipe", "in/set/recipe.yaml", "--tokenizer", str(self._model), "--dry-run"]
        else:
            yield ["train", "--recipe", "in/set/recipe.yaml", "--dry-run"]

    @staticmethod
    def _copy(recipe: Path, root: Path) -> None:
        root.mkdir()
        shutil.copyfile(recipe, root / "recipe.yaml")


class JobKind(TreeKind):
    """A damaged job folder of a stopped run: the next run gives the bytes of an undisturbed one, or says no."""

    name, share = "job", 160

    def __init__(self, folder: Path, model: Path) -> None:
        super().__init__(folder, model, {"job": self._make})

    def commands(self, rng: Random, name: str, case: Path) -> Iterator[list[str]]:
        shutil.copytree(case / "in/set", case / "t.parquet.job")
        yield self._encode("t.parquet")

    def check(self, outcome: Outcome, case: Path, changed: list[str]) -> None:
        table = case / "t.parquet"
        if outcome.verdict == "ok" and table.read_bytes() != self._clean:
            outcome.violations["wrong rows"] = "the table differs from that of an undisturbed run, exit code 0"

    def _make(self, root: Path) -> None:
        self._source = self._folder / "source"
        for number, name in enumerate("abc"):
            plain_clip(self._source / f"{name}.mp4", 20, 20 * number)
        done = run_command(self._encode("clean.parquet"), root.parent)
        assert done.code == 0, done.output
        self._clean = (root.parent / "clean.parquet").read_bytes()
        run_forked(self._stop_midway, root.parent / "t.parquet")
        shutil.copytree(root.parent / "t.parquet.job", root)

    def _stop_midway(self, out: Path) -> None:
        """Run until one episode is done."""
        from lara_tokenizer import encode_dataset

        def stop(state: object) -> None:
            if state.episodes_done:
                raise KeyboardInterrupt

        encode_dataset(self._source, self._model, out=out, strides="2f", workers=0, progress=stop)

    def _encode(self, out: str) -> list[str]:
        return [
            "encode",
            str(self._source),
            "--model",
            str(self._model),
            "--stride",
            "2f",
            "--workers",
            "0",
            "--out",
            out,
        ]


def all_kinds(folder: Path) -> list[Kind]:
    """Every kind, with a folder of its own in `folder`, and the tiny checkpoint that all use."""
    model = folder / "tiny"
    if not model.exists():
        write_checkpoint(folder / "tiny.partial", GOLDEN / "train.yaml")
        (folder / "tiny.partial").rename(model)
    rate = ("--fps", "10")
    return [
        VideoKind(folder / "video", model),
        DatasetKind(folder / "images", model, "images", 130, rate),
        DatasetKind(folder / "lerobot", model, "lerobot", 420),
        DatasetKind(folder / "rlds", model, "rlds", 150, rate),
        DatasetKind(folder / "hugging-face", model, "hugging-face", 150),
        DatasetKind(folder / "webdataset", model, "webdataset", 150, rate),
        DatasetKind(folder / "ssv2", model, "ssv2", 60),
        DatasetKind(folder / "list", model, "list", 120),
        CheckpointKind(folder / "checkpoint", model),
        ForeignCheckpointKind(folder / "foreign", model),
        TableKind(folder / "table", model),
        RecipeKind(folder / "recipe", model),
        JobKind(folder / "job", model),
    ]
