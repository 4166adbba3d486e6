"""What exports cost beside pictures and video: seconds and peak memory, at 250,000 and 1,000,000 rows, a format each.

    python benchmarks/export.py                                 # all formats; about 15 minutes, 10 GB of disk
    python benchmarks/export.py --formats webdataset lapa       # some
    python benchmarks/export.py --kept benchmarks/results/export.json

The table is random: episodes of 500 frames, N 8, K 128, D 32, stride 5f, with latents (float16) where a format writes
them. Pictures and video are left out; for lerobot and groot the source is a LeRobotDataset v2.1 on the disk whose
pictures are one pixel, for the others episodes in memory. Each export runs in a process of its own, which begins to
count when its imports are done (seconds of CPU count those too); memory is the peak of that process and, apart, of its
largest worker, which counts as no less than the process that started it. It differs by 3 % from run to run, so the
median of several counts. Target: under 60 s a million rows, and memory that grows by less than 5 % from the first size
to the last.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.data import Episode, FrameIndex
from lara_tokenizer.table.schema import FORMAT_VERSION, token_schema
from lara_tokenizer.table.write import OutputPath, write_tokens

SIZES = (250_000, 1_000_000)
FRAMES, FPS, GAP = 500, 10, 5  # of an episode
N, K, D = 8, 128, 32
TEXT = "put the cup on the plate"
CAMERA = "observation.images.top"
MOST_SECONDS, MOST_GROWTH = 60.0, 0.05

Export = Callable[[Path, Any, Path], object]  # tokens, source, out


@dataclass(frozen=True, slots=True)
class Case:
    """An export to be measured.

    Fields:
        module: of `lara_tokenizer.export`, whose `export_<module>` it is.
        options: its keywords.
        latents: the table has them.
        dataset: the source is a LeRobotDataset.
    """

    module: str
    options: dict[str, Any]
    latents: bool = False
    dataset: bool = False

    def run(self, tokens: Path, source: Any, out: Path) -> object:
        import lara_tokenizer.export

        return getattr(lara_tokenizer.export, f"export_{self.module}")(tokens, source, out, **self.options)


CASES = {
    "lapa": Case("lapa", {"images": False, "instruction": TEXT}),
    "univla": Case("univla", {"images": False, "instruction": TEXT}),
    "moto": Case("moto", {"video": False, "actions": False, "instruction": TEXT}),
    "webdataset": Case("webdataset", {"images": False}),
    "webdataset with latents": Case("webdataset", {"images": False}, latents=True),
    "lerobot": Case("lerobot", {"model": "lara-lam"}, latents=True, dataset=True),
    "groot": Case("groot", {}, latents=True, dataset=True),
}


class NoPictures:
    """A `FrameReader` of black frames: what is left out is not decoded either, but for a first look."""

    def index(self, camera: str) -> FrameIndex:
        return FrameIndex(np.arange(FRAMES) / FPS, FPS)

    def frames(self, camera: str, indices: Any) -> np.ndarray:
        return np.zeros((len(indices), 16, 16, 3), np.uint8)

    def close(self) -> None:
        pass


def episode_name(number: int) -> str:
    return f"episode_{number:06d}"


def write_table(folder: Path, rows: int, latents: bool, camera: str) -> Path:
    """Random codes of rows // FRAMES episodes."""
    path = folder / f"tokens-{rows}{'-latents' if latents else ''}{'-dataset' if camera else ''}.parquet"
    if not path.exists():
        columns = ("latents", "text") if latents else ("text",)
        schema = token_schema(N, D, K, columns)
        metadata = _metadata(columns)
        write_tokens(_tracks(schema, rows, camera), schema, metadata, OutputPath.parse(path), folder, rows)
    return path


def _tracks(schema: pa.Schema, rows: int, camera: str) -> Iterator[pa.Table]:
    rng = np.random.default_rng(0)
    frames = np.arange(FRAMES, dtype=np.int32)
    valid = frames + GAP < FRAMES

    def names(text: str) -> pa.Array:
        return pa.DictionaryArray.from_arrays(np.zeros(FRAMES, np.int32), pa.array([text]))

    for number in range(rows // FRAMES):
        codes = rng.integers(0, K, (FRAMES, N), dtype=np.int16)
        z = (rng.random((FRAMES, N * D), np.float32) - 0.5).astype(np.float16)
        codes[~valid], z[~valid] = -1, np.nan
        margin, motion = rng.random((2, FRAMES), np.float32)
        columns = {
            "episode": names(episode_name(number)),
            "episode_index": pa.array(np.full(FRAMES, number)),
            "camera": names(camera),
            "stride": names(f"{GAP}f"),
            "frame_index": frames,
            "future_frame_index": np.where(valid, frames + GAP, -1).astype(np.int32),
            "timestamp": frames / FPS,
            "future_timestamp": pa.array((frames + GAP) / FPS, mask=~valid),
            "codes": pa.FixedSizeListArray.from_arrays(codes.reshape(-1), type=schema.field("codes").type),
            "code_margin": pa.array(margin, mask=~valid),
            "motion": pa.array(motion, mask=~valid),
            "valid": valid,
            "text": names(TEXT),
        }
        if "latents" in schema.names:
            columns["latents"] = pa.FixedSizeListArray.from_arrays(z.reshape(-1), type=schema.field("latents").type)
        yield pa.table([columns[name] for name in schema.names], schema=schema)


def _metadata(columns: tuple[str, ...]) -> dict[str, Any]:
    from lara_tokenizer.checkpoint import Checkpoint

    return {
        "format_version": FORMAT_VERSION,
        "model": Checkpoint.open("lara-lam").identity() | {"num_latents": N, "codebook_size": K, "codebook_dim": D},
        "strides": [f"{GAP}f"],
        "every": "1f",
        "columns": list(columns),
        "keep_tail": True,
        "min_motion": 0.0,
        "source": [],
        "load": {"decoder": "pyav"},
        "episodes": {"count": 0, "ids_sha256": "", "failed": 0},
    }


def write_dataset(root: Path, rows: int) -> Path:
    """A LeRobotDataset v2.1, an action of 7 and a picture of one pixel a row."""
    if root.exists():
        return root
    import io

    from PIL import Image

    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG")
    pictures = pa.array([{"bytes": pixel.getvalue(), "path": None}] * FRAMES)
    rng, episodes = np.random.default_rng(0), rows // FRAMES
    for number in range(episodes):
        file = root / f"data/chunk-{number // 1000:03d}/{episode_name(number)}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        frames = np.arange(FRAMES)
        columns = {
            "action": pa.FixedSizeListArray.from_arrays(rng.random(FRAMES * 7, np.float32), 7),
            CAMERA: pictures,
            "timestamp": (frames / FPS).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(FRAMES, number),
            "index": number * FRAMES + frames,
            "task_index": np.zeros(FRAMES, np.int64),
        }
        pq.write_table(pa.table(columns), file)
    _write_meta(root / "meta", episodes)
    return root


def _write_meta(meta: Path, episodes: int) -> None:
    meta.mkdir()
    number = {"dtype": "int64", "shape": [1], "names": None}
    features = {
        "action": {"dtype": "float32", "shape": [7], "names": None},
        CAMERA: {"dtype": "image", "shape": [1, 1, 3], "names": ["height", "width", "channels"]},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), number),
    }
    info = {
        "codebase_version": "v2.1",
        "fps": FPS,
        "total_episodes": episodes,
        "total_frames": episodes * FRAMES,
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": None,
        "features": features,
    }
    (meta / "info.json").write_text(json.dumps(info))
    lines = [{"episode_index": number, "tasks": [TEXT], "length": FRAMES} for number in range(episodes)]
    (meta / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (meta / "tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": TEXT}) + "\n")
    stats = [{"episode_index": number, "stats": {}} for number in range(episodes)]
    (meta / "episodes_stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in stats))


def measure(name: str, rows: int, folder: Path, runs: int) -> dict[str, float]:
    """The medians of several runs, each in a process of its own."""
    case = CASES[name]
    write_table(folder, rows, case.latents, CAMERA if case.dataset else "")
    if case.dataset:
        write_dataset(folder / f"dataset-{rows}", rows)
    command = [sys.executable, __file__, "--one", name, "--rows", str(rows), "--folder", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = []
    for _ in range(runs):
        ran = subprocess.run(command, capture_output=True, text=True, env=environment)
        if ran.returncode:
            raise RuntimeError(f"{name}, {rows} rows: {ran.stderr[-2000:]}")
        found.append(json.loads(ran.stdout.splitlines()[-1]))
    return {each: statistics.median(run[each] for run in found) for each in found[0]}


def run_one(name: str, rows: int, folder: Path) -> dict[str, float]:
    """The export itself, measured from within."""
    case, out = CASES[name], folder / "out"
    tokens = write_table(folder, rows, case.latents, CAMERA if case.dataset else "")
    source: Any = folder / f"dataset-{rows}"
    if not case.dataset:
        episodes = range(rows // FRAMES)
        source = [Episode(episode_name(number), NoPictures(), text=TEXT) for number in episodes]
    __import__(f"lara_tokenizer.export.{case.module}")
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    case.run(tokens, source, out)
    seconds = time.perf_counter() - start
    shutil.rmtree(out)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in usage)
    own, largest = _peak_own(), usage[1].ru_maxrss / 1024
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "own_mb": round(own, 1),
        "largest_worker_mb": round(largest, 1),
    }


def _peak_own() -> float:
    """MB. Unlike ru_maxrss, it leaves out the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def summarise(runs: dict[int, dict[str, float]]) -> dict[str, Any]:
    """Of one format: what a million rows take, and how memory grows."""
    small, large = runs[min(runs)], runs[max(runs)]
    growth = max(large[who] / small[who] - 1 for who in ("own_mb", "largest_worker_mb") if small[who])
    seconds = large["seconds"] / max(runs) * 1e6
    return {
        "seconds_a_million": round(seconds, 1),
        "cpu_seconds_a_million": round(large["cpu_seconds"] / max(runs) * 1e6, 1),
        "growth": round(growth, 4),
        "within_target": seconds < MOST_SECONDS and growth < MOST_GROWTH,
        "runs": {str(rows): run for rows, run in runs.items()},
    }


def show(name: str, result: dict[str, Any]) -> None:
    memory = "  ".join(f"{run['own_mb']:7.1f} + {run['largest_worker_mb']:6.1f}" for run in result["runs"].values())
    times = f"{result['seconds_a_million']:8.1f} {result['cpu_seconds_a_million']:8.1f}"
    print(f"{name:26}{times}   {memory}   {result['growth']:+7.1%}", flush=True)


def main() -> None:
    """Parse, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES), help="rows")
    parser.add_argument("--runs", type=int, default=3, help="of each export; the medians count (default: 3)")
    parser.add_argument("--kept", type=Path, help="where the result is kept as JSON; other formats in it stay")
    parser.add_argument("--folder", type=Path, help="for tables and exports, kept (default: a temporary one)")
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
            if find_spec(f"lara_tokenizer.export.{CASES[name].module}") is None:
                print(f"{name:26}there is no lara_tokenizer.export.{CASES[name].module}: left out")
                continue
            results[name] = summarise({rows: measure(name, rows, folder, options.runs) for rows in options.sizes})
            show(name, results[name])
            if options.kept:
                options.kept.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
