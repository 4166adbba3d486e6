"""The cost of exports without images and video: seconds and peak memory at 250,000 and 1,000,000 rows, per format.

    python benchmarks/export.py                                 # all formats; about 15 minutes, 10 GB of disk
    python benchmarks/export.py --formats webdataset lapa       # some
    python benchmarks/export.py --kept benchmarks/results/export.json

The table is random: episodes of 500 frames, N 8, K 128, D 32, stride 5f, with latents (float16) where a format writes
them. Images and video are left out; for lerobot and groot the source is a LeRobotDataset v2.1 on disk whose images are
one pixel, for the others episodes in memory. Each export runs in a process of its own, which starts the clock when its
imports are done (CPU seconds include those). Memory is the peak of that process and, apart, of its largest worker,
which counts as no less than the process that started it. It differs by 3 % from run to run, so the median of several
counts. Target: under 60 s per million rows, and memory that grows by less than 5 % from the first size to the last.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from random_data import RandomTokens, write_lerobot

from lara_tokenizer.data import Episode, FrameIndex

SIZES = (250_000, 1_000_000)
FRAMES, FPS = 500, 10  # of an episode
TEXT = "put the cup on the plate"
CAMERA = "observation.images.top"
MAX_SECONDS, MAX_GROWTH = 60.0, 0.05


@dataclass(frozen=True, slots=True)
class Case:
    """An export to be measured."""

    format: str
    """The function is `lara_tokenizer.export.export_<format>`."""
    options: dict[str, Any]
    latents: bool = False
    """Whether the table has latents."""
    is_dataset: bool = False
    """Whether the source is a LeRobotDataset."""


CASES = {
    "lapa": Case("lapa", {"images": False, "instruction": TEXT}),
    "univla": Case("univla", {"images": False, "instruction": TEXT}),
    "moto": Case("moto", {"video": False, "actions": False, "instruction": TEXT}),
    "webdataset": Case("webdataset", {"images": False}),
    "webdataset with latents": Case("webdataset", {"images": False}, latents=True),
    "lerobot": Case("lerobot", {"model": "lara-lam"}, latents=True, is_dataset=True),
    "groot": Case("groot", {}, latents=True, is_dataset=True),
}


class BlackFrames:
    """A `FrameReader` of black frames: exports without images still look at the first ones."""

    def index(self, camera: str) -> FrameIndex:
        return FrameIndex(np.arange(FRAMES) / FPS, FPS)

    def frames(self, camera: str, indices: Any) -> np.ndarray:
        return np.zeros((len(indices), 16, 16, 3), np.uint8)

    def close(self) -> None:
        pass


def episode_name(index: int) -> str:
    return f"episode_{index:06d}"


def write_table(folder: Path, rows: int, case: Case) -> Path:
    """Random codes of rows // FRAMES episodes, written once."""
    suffix = f"{'-latents' if case.latents else ''}{'-dataset' if case.is_dataset else ''}"
    path = folder / f"tokens-{rows}{suffix}.parquet"
    if path.exists():
        return path
    from lara_tokenizer.checkpoint import Checkpoint

    table = RandomTokens(8, 32, 128, ("latents", "text") if case.latents else ("text",))
    camera = CAMERA if case.is_dataset else ""

    def episodes() -> Iterator[pa.Table]:
        rng = np.random.default_rng(0)
        for index in range(rows // FRAMES):
            name = episode_name(index)
            yield table.rows(rng, FRAMES, FPS, episode=name, episode_index=index, camera=camera, text=TEXT)

    return table.write(path, episodes(), model=Checkpoint.open("lara-lam").identity())


def write_dataset(root: Path, rows: int) -> Path:
    """A LeRobotDataset v2.1 with 7 action components and an image of one pixel per row, written once."""
    if root.exists():
        return root
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG")
    images = pa.array([{"bytes": pixel.getvalue(), "path": None}] * FRAMES)
    rng = np.random.default_rng(0)

    def columns(episode: int, length: int) -> dict[str, Any]:
        return {"action": pa.FixedSizeListArray.from_arrays(rng.random(length * 7, np.float32), 7), CAMERA: images}

    features = {
        "action": {"dtype": "float32", "shape": [7], "names": None},
        CAMERA: {"dtype": "image", "shape": [1, 1, 3], "names": ["height", "width", "channels"]},
    }
    return write_lerobot(root, FPS, [FRAMES] * (rows // FRAMES), features, [TEXT], columns)


def measure(name: str, rows: int, folder: Path, runs: int) -> dict[str, float]:
    """The medians of several runs, each in a process of its own."""
    # The inputs are made here, so that they count neither as seconds nor as memory of the measured process.
    write_table(folder, rows, CASES[name])
    if CASES[name].is_dataset:
        write_dataset(folder / f"dataset-{rows}", rows)
    command = [sys.executable, __file__, "--one", name, "--rows", str(rows), "--folder", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # threads of BLAS would add to the CPU seconds
    results = []
    for _ in range(runs):
        ran = subprocess.run(command, capture_output=True, text=True, env=environment)
        if ran.returncode:
            raise RuntimeError(f"{name}, {rows} rows: {ran.stderr[-2000:]}")
        results.append(json.loads(ran.stdout.splitlines()[-1]))
    return {each: statistics.median(result[each] for result in results) for each in results[0]}


def run_one(name: str, rows: int, folder: Path) -> dict[str, float]:
    """One export, measured in its own process."""
    case, out = CASES[name], folder / "out"
    tokens = write_table(folder, rows, case)
    source: Any = folder / f"dataset-{rows}"
    if not case.is_dataset:
        source = [Episode(episode_name(index), BlackFrames(), text=TEXT) for index in range(rows // FRAMES)]
    export = getattr(importlib.import_module("lara_tokenizer.export"), f"export_{case.format}")
    shutil.rmtree(out, ignore_errors=True)  # an export goes into a new folder
    start = time.perf_counter()
    export(tokens, source, out, **case.options)
    seconds = time.perf_counter() - start
    shutil.rmtree(out)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(sum(each.ru_utime + each.ru_stime for each in usage), 2),
        "own_mb": round(_own_peak_mb(), 1),
        "largest_worker_mb": round(usage[1].ru_maxrss / 1024, 1),
    }


def _own_peak_mb() -> float:
    # Unlike ru_maxrss, this leaves out the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def summarize(runs: dict[int, dict[str, float]]) -> dict[str, Any]:
    """The cost of a million rows in one format, and the growth of memory."""
    small, large = runs[min(runs)], runs[max(runs)]
    growth = max(large[who] / small[who] - 1 for who in ("own_mb", "largest_worker_mb") if small[who])  # no worker: 0
    seconds = large["seconds"] / max(runs) * 1e6
    return {
        "seconds_a_million": round(seconds, 1),
        "cpu_seconds_a_million": round(large["cpu_seconds"] / max(runs) * 1e6, 1),
        "growth": round(growth, 4),
        "within_target": seconds < MAX_SECONDS and growth < MAX_GROWTH,
        "runs": {str(rows): run for rows, run in runs.items()},
    }


def show(name: str, result: dict[str, Any]) -> None:
    """Print one row of the table."""
    memory = "  ".join(f"{run['own_mb']:7.1f} + {run['largest_worker_mb']:6.1f}" for run in result["runs"].values())
    times = f"{result['seconds_a_million']:8.1f} {result['cpu_seconds_a_million']:8.1f}"
    print(f"{name:26}{times}   {memory}   {result['growth']:+7.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES), help="rows")
    parser.add_argument("--runs", type=int, default=3, help="of each export; the medians count (default: 3)")
    parser.add_argument("--kept", type=Path, help="JSON file for the results; other formats in it stay")
    parser.add_argument("--folder", type=Path, help="for tables and exports, not deleted (default: a temporary one)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options.one, options.rows, options.folder)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        results = json.loads(options.kept.read_text()) if options.kept and options.kept.exists() else {}
        sizes = " and ".join(f"{size:,}" for size in options.sizes)
        print(f"{'a million rows:':26}{'seconds':>8} {'of CPU':>8}   peak MB, own + largest worker, at {sizes} rows")
        for name in options.formats:
            results[name] = summarize({rows: measure(name, rows, folder, options.runs) for rows in options.sizes})
            show(name, results[name])
            if options.kept:  # after every format: a run of a quarter of an hour may be stopped
                options.kept.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
