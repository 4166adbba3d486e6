"""Does LeRobot read, and train on, what `lara-tok export lerobot` writes? Stock lerobot 0.6.1 (v3.0) and 0.3.3 (v2.1).

    python benchmarks/peer_readers/lerobot.py --lerobot06 ENV/bin/python --lerobot03 ENV/bin/python

Needs two environments with Python 3.12: lerobot[dataset,training]==0.6.1, and lerobot==0.3.3 with av<18;
tests/compat/lerobot.sh builds them. Each lerobot writes datasets of its own (tests/compat/lerobot_sets.py), videos and
pictures; here they are labelled at random, as new datasets and in place; then each reads all of them
(lerobot_side.py), and lerobot-train trains ACT for some steps on one that was labelled in place. At the end --undo.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from _lerobot_sample import write_checkpoint, write_table

from lara_tokenizer.data import load_episodes
from lara_tokenizer.export import export_lerobot, undo_lerobot
from lara_tokenizer.table import read_tokens

HERE = Path(__file__).resolve().parent
CAMERA, UNLABELLED = "observation.images.top", 1  # one episode is not in the table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lerobot06", help="Python of an environment with lerobot 0.6.1.")
    parser.add_argument("--lerobot03", help="Python of an environment with lerobot 0.3.3.")
    options = parser.parse_args()
    if not (options.lerobot06 or options.lerobot03):
        parser.error("name at least one environment")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        write_checkpoint(scratch / "random")
        for python, version in ((options.lerobot06, "v3.0"), (options.lerobot03, "v2.1")):
            if python is not None:
                compare(Path(python).absolute(), version, scratch)


def compare(python: Path, version: str, scratch: Path) -> None:
    """Everything that is checked with one lerobot."""
    sets = scratch / version
    sets.mkdir()
    theirs(scratch, python, HERE.parents[1] / "tests/compat/lerobot_sets.py", "write", sets)
    for dataset in (sets / "video", sets / "image"):
        tokens, expected = label(dataset, scratch)
        labelled = sets / f"{dataset.name}-labelled"
        export_lerobot(tokens, dataset, labelled, model=scratch / "random")
        print(theirs(scratch, python, HERE / "lerobot_side.py", "read", labelled, expected), end="")
        before = hashes(dataset)
        export_lerobot(tokens, dataset, in_place=True, model=scratch / "random")
        print(theirs(scratch, python, HERE / "lerobot_side.py", "read", dataset, expected), end="")
        if dataset.name == "video":
            print(theirs(scratch, python, HERE / "lerobot_side.py", "train", dataset), end="")
        undo_lerobot(dataset)
        assert hashes(dataset) == before, "--undo did not restore every byte"
        print(f"{version} {dataset.name}: --undo restored all {len(before)} files")


def label(dataset: Path, scratch: Path) -> tuple[Path, Path]:
    """A table for a dataset, and a file with what its columns must be, row by row."""
    episodes = {e.index: e for e in load_episodes(dataset) if e.index is not None}
    lengths = {number: episode.num_frames(CAMERA) for number, episode in sorted(episodes.items())}
    fps = next(iter(episodes.values())).frame_index(CAMERA).fps
    stem = scratch / f"{dataset.parent.name}-{dataset.name}"
    chosen = {number: length for number, length in lengths.items() if number != UNLABELLED}
    tokens = write_table(stem.with_suffix(".tokens.parquet"), chosen, CAMERA, fps, scratch / "random")
    table = read_tokens(tokens)
    valid = np.array(table["valid"].to_pylist())
    codes, latents = (np.array(table[name].to_pylist()) for name in ("codes", "latents"))
    offsets = dict(zip(lengths, np.cumsum([0, *lengths.values()]), strict=False))
    rows = np.array([offsets[number] for number in table["episode_index"].to_pylist()])
    rows = (rows + table["frame_index"].to_numpy())[valid]
    raw = (scratch / "random/model.safetensors").read_bytes()
    codebook = np.frombuffer(raw[8 + int.from_bytes(raw[:8], "little") :], "<f4").reshape(-1, latents.shape[1] // 8)
    total, shape = sum(lengths.values()), (codes.shape[1], codebook.shape[1])
    ids = np.full((total, shape[0]), -1)
    vectors, continuous = np.zeros((2, total, *shape), np.float32)
    mask = np.zeros(total, int)
    ids[rows], vectors[rows], mask[rows] = codes[valid], codebook[codes[valid]], 1
    continuous[rows] = latents[valid].astype(np.float32).reshape(-1, *shape)
    np.savez(stem.with_suffix(".npz"), ids=ids, vectors=vectors, continuous=continuous, valid=mask)
    return tokens, stem.with_suffix(".npz")


def theirs(scratch: Path, python: Path, script: Path, *arguments: object) -> str:
    """What a script says that runs in lerobot's environment, offline."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "hf"), "HF_LEROBOT_HOME": str(scratch / "lerobot")}
    command = [str(python), "-P", str(script), *map(str, arguments)]  # -P: this file has the name of their package
    done = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-5000:]}")
    return done.stdout


def hashes(dataset: Path) -> dict[str, str]:
    """sha256 of every file."""
    files = sorted(file for file in dataset.rglob("*") if file.is_file())
    return {str(file.relative_to(dataset)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


if __name__ == "__main__":
    main()
