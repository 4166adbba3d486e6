"""The overhead of a LeRobotDataset over plain video files: time and memory of `encode_dataset`.

    python benchmarks/readers.py                  # the ratio, median of 5 interleaved runs
    python benchmarks/readers.py --memory         # peak memory, a 1-hour against a 10-hour dataset (takes a while)

Prints JSON. The dataset is a LeRobotDataset v3.0 made by repeating episodes of 20 s (256x256, 10 frames per second,
H.264, a group of pictures of 10), 100 per video file, with actions and a task. The first measurement compares it with
a folder of the same episodes, the same packets, as one mp4 file each. Both give the same codes, which is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from encode import encode
from random_data import join_clips, write_clip

FPS, SIDE, SECONDS = 10, 256, 20
FRAMES = FPS * SECONDS
EPISODES_PER_FILE = 100
CAMERA = "observation.images.top"


def make_episodes(folder: Path, count: int) -> list[Path]:
    """Clips of a square that wanders over a drifting pattern, with noise."""
    return [
        write_clip(folder / f"base-{index}.mp4", wander(index), (SIDE, SIDE), FPS, preset="veryfast", bf="0", g="10")
        for index in range(count)
    ]


def wander(seed: int) -> Iterator[np.ndarray]:
    """The frames of one clip, uint8 (SIDE, SIDE, 3)."""
    rng = np.random.default_rng(seed)
    pattern = np.kron(rng.integers(40, 200, (16, 16, 3)), np.ones((16, 16, 1))).astype(np.int16)
    corners = (128 + 80 * np.sin(np.cumsum(rng.normal(0, 0.2, (FRAMES, 2)), 0))).astype(int)
    for t, (top, left) in enumerate(corners):
        frame = np.roll(pattern, t // 2, axis=1) + rng.integers(-6, 7, pattern.shape, np.int16)
        frame[top : top + 40, left : left + 40] = (230, 60, 40)
        yield np.clip(frame, 0, 255).astype(np.uint8)


def make_dataset(root: Path, base: list[Path], count: int) -> Path:
    """A LeRobotDataset v3.0 of `count` episodes, repeating those in `base`."""
    order = [base[index % len(base)] for index in range(count)]  # encoding hours of video would take hours
    rows, entries = [], []
    for first in range(0, count, EPISODES_PER_FILE):
        join_clips(
            order[first : first + EPISODES_PER_FILE],
            root / f"videos/{CAMERA}/chunk-000/file-{first // EPISODES_PER_FILE:03d}.mp4",
        )
    for index in range(count):
        file, position = divmod(index, EPISODES_PER_FILE)
        actions = np.random.default_rng(index % len(base)).normal(size=(FRAMES, 7)).astype(np.float32)
        frame = np.arange(FRAMES)
        rows.append(
            pa.table(
                {
                    "action": pa.FixedSizeListArray.from_arrays(actions.ravel(), 7),
                    "timestamp": (frame / FPS).astype(np.float32),
                    "frame_index": frame,
                    "episode_index": np.full(FRAMES, index),
                    "index": index * FRAMES + frame,
                    "task_index": np.zeros(FRAMES, np.int64),
                }
            )
        )
        entry = {"episode_index": index, "tasks": ["wander"], "length": FRAMES}
        entry |= {"data/chunk_index": 0, "data/file_index": 0}
        entry |= {f"videos/{CAMERA}/chunk_index": 0, f"videos/{CAMERA}/file_index": file}
        entry |= {f"videos/{CAMERA}/from_timestamp": float(position * SECONDS)}
        entry |= {f"videos/{CAMERA}/to_timestamp": float((position + 1) * SECONDS)}
        entries.append(entry)
    for folder in ("data/chunk-000", "meta/episodes/chunk-000"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(rows), root / "data/chunk-000/file-000.parquet", row_group_size=64 * FRAMES)
    pq.write_table(pa.Table.from_pylist(entries), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["wander"]}), root / "meta/tasks.parquet")
    features = {CAMERA: {"dtype": "video", "shape": [SIDE, SIDE, 3]}, "action": {"dtype": "float32", "shape": [7]}}
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "total_episodes": count,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {**features, "task_index": {"dtype": "int64", "shape": [1]}},
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def make_folder(root: Path, base: list[Path], count: int) -> Path:
    """The same episodes, each as a file of its own."""
    root.mkdir()
    for index in range(count):
        os.link(base[index % len(base)], root / f"episode_{index:06d}.mp4")
    return root


def measure_ratio(folder: Path, model: str, runs: int, episodes: int, workers: int) -> dict:
    """Pairs per second of the dataset over those of the folder, in interleaved runs, with equal codes."""
    base = make_episodes(folder, 6)
    sources = {
        "dataset": make_dataset(folder / "set", base, episodes),
        "folder": make_folder(folder / "clips", base, episodes),
    }
    rows = []
    for run in range(runs):
        # The second finds warm caches: take turns.
        costs = {
            name: encode(sources[name], model, workers, out=folder / f"{name}.parquet")
            for name in sorted(sources, reverse=bool(run % 2))
        }
        rows.append(
            {
                "dataset_wall": costs["dataset"].wall,
                "folder_wall": costs["folder"].wall,
                "pairs_per_second_ratio": costs["folder"].wall / costs["dataset"].wall,
                "cpu_ratio": costs["dataset"].cpu / costs["folder"].cpu,
            }
        )
        tables = [pq.read_table(folder / f"{name}.parquet", columns=["codes"]) for name in sources]
        # The packets are the same, so any difference is one of a reader.
        assert tables[0].equals(tables[1]), "the codes differ"
    pairs = tables[0].num_rows
    medians = {name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]}
    medians["pairs_per_second"] = round(pairs / medians["dataset_wall"], 1)
    return {"episodes": episodes, "pairs": pairs, "workers": workers, "runs": runs, "median": medians, "all": rows}


def measure_memory(folder: Path, model: str, workers: int, hours: int) -> dict:
    """Peak memory of all processes together, on one hour and on many."""
    base = make_episodes(folder, 6)
    per_hour = 3600 // SECONDS
    short, long = (make_dataset(folder / str(n), base, n * per_hour) for n in (1, hours))
    warm_up = make_dataset(folder / "warm-up", base, EPISODES_PER_FILE)
    # A first run fills this process, the driver: imports, buffers of the parquet writer.
    costs = [
        encode(each, model, workers, watch_memory=True, columns=["actions", "text"]) for each in (warm_up, short, long)
    ]
    return {
        "hours": hours,
        "frames": hours * per_hour * FRAMES,
        "workers": workers,
        "peak_bytes_1_hour": costs[1].memory,
        f"peak_bytes_{hours}_hours": costs[2].memory,
        "ratio": round(costs[2].memory / costs[1].memory, 4),
        "wall_seconds": round(costs[2].wall, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lara-lam", help="checkpoint (default: the bundled one)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=120, help="of the first measurement")
    parser.add_argument("--hours", type=int, default=10, help="of the long dataset")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.memory:
            result = measure_memory(Path(folder), options.model, options.workers, options.hours)
        else:
            result = measure_ratio(Path(folder), options.model, options.runs, options.episodes, options.workers)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
