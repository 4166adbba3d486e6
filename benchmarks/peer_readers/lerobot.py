"""LeRobot's own reading and training on `lara-tok export lerobot`: stock lerobot 0.6.1 (v3.0) and 0.3.3 (v2.1).

    python benchmarks/peer_readers/lerobot.py --lerobot06 ENV/bin/python --lerobot03 ENV/bin/python

Needs two environments with Python 3.12: lerobot[dataset,training]==0.6.1, and lerobot==0.3.3 with av<18;
tests/compat/lerobot.sh builds them. Each lerobot writes datasets of its own (tests/compat/lerobot_sets.py), with videos
and with images; here they get random labels, as new datasets and in place; then each lerobot reads all of them
(lerobot_side.py), and lerobot-train trains ACT for some steps on one that was labelled in place. At the end --undo.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_checkout import ROOT
from peer_readers._sample import write_checkpoint, write_table

from lara_tokenizer._files import file_sha256
from lara_tokenizer.data import load_episodes
from lara_tokenizer.export import export_lerobot, undo_lerobot
from lara_tokenizer.table import read_tokens

OTHER_SIDE = Path(__file__).with_name("lerobot_side.py").resolve()
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
                # Not resolved: the Python of an environment is a link to one without its packages.
                compare(Path(python).absolute(), version, scratch)


def compare(python: Path, version: str, scratch: Path) -> None:
    """Run all checks with one lerobot."""
    sets = scratch / version
    sets.mkdir()
    run_there(scratch, python, ROOT / "tests/compat/lerobot_sets.py", "write", sets)
    for dataset in (sets / "video", sets / "image"):
        tokens, expected = label(dataset, scratch)
        labelled = sets / f"{dataset.name}-labelled"
        export_lerobot(tokens, dataset, labelled, model=scratch / "random")
        print(run_there(scratch, python, OTHER_SIDE, "read", labelled, expected), end="")
        before = hashes(dataset)
        export_lerobot(tokens, dataset, in_place=True, model=scratch / "random")
        print(run_there(scratch, python, OTHER_SIDE, "read", dataset, expected), end="")
        if dataset.name == "video":
            print(run_there(scratch, python, OTHER_SIDE, "train", dataset), end="")
        undo_lerobot(dataset)
        assert hashes(dataset) == before, "--undo did not restore every byte"
        print(f"{version} {dataset.name}: --undo restored all {len(before)} files")


def label(dataset: Path, scratch: Path) -> tuple[Path, Path]:
    """A token table for a dataset, and a file with the expected columns, row by row."""
    episodes = {e.index: e for e in load_episodes(dataset) if e.index is not None}
    lengths = {index: episode.num_frames(CAMERA) for index, episode in sorted(episodes.items())}
    fps = next(iter(episodes.values())).frame_index(CAMERA).fps
    stem = scratch / f"{dataset.parent.name}-{dataset.name}"
    labelled = {index: length for index, length in lengths.items() if index != UNLABELLED}
    tokens = write_table(stem.with_suffix(".tokens.parquet"), labelled, CAMERA, fps, scratch / "random")
    table = read_tokens(tokens)
    valid = np.array(table["valid"].to_pylist())
    codes, latents = (np.array(table[name].to_pylist()) for name in ("codes", "latents"))
    # Rows of episodes that are not in the table stay invalid.
    offsets = dict(zip(lengths, np.cumsum([0, *lengths.values()]), strict=False))
    rows = np.array([offsets[index] for index in table["episode_index"].to_pylist()])
    rows = (rows + table["frame_index"].to_numpy())[valid]
    codebook = load_file(scratch / "random/model.safetensors")["bottleneck.codebook.weight"]
    total, shape = sum(lengths.values()), (codes.shape[1], codebook.shape[1])
    ids = np.full((total, shape[0]), -1)
    vectors, continuous = np.zeros((2, total, *shape), np.float32)
    mask = np.zeros(total, int)
    ids[rows], vectors[rows], mask[rows] = codes[valid], codebook[codes[valid]], 1
    continuous[rows] = latents[valid].astype(np.float32).reshape(-1, *shape)
    np.savez(stem.with_suffix(".npz"), ids=ids, vectors=vectors, continuous=continuous, valid=mask)
    return tokens, stem.with_suffix(".npz")


def run_there(scratch: Path, python: Path, script: Path, *arguments: object) -> str:
    """Run a script in lerobot's environment, offline; returns its output."""
    # Without PYTHONPATH lara_tokenizer is not there, as for anyone who downloads a dataset.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "hf"), "HF_LEROBOT_HOME": str(scratch / "lerobot")}
    command = [str(python), "-P", str(script), *map(str, arguments)]  # -P: this file has the name of lerobot's package
    done = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-5000:]}")
    return done.stdout


def hashes(dataset: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {str(file.relative_to(dataset)): file_sha256(file) for file in dataset.rglob("*") if file.is_file()}


if __name__ == "__main__":
    main()
