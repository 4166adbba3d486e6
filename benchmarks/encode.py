"""The overhead of encoding over decoding and the model: time and memory of `encode_dataset` on a generated clip.

    python benchmarks/encode.py                    # the ratios, median of 5 interleaved runs
    python benchmarks/encode.py --memory           # peak memory, a 1-minute against a 20-minute clip
    python benchmarks/encode.py --flops            # FLOPs per pair of the paper's architecture
    python benchmarks/encode.py --start            # CPU seconds of commands on the samples, mostly loading

Prints JSON. The clip is 640x480 at 30 frames per second, noise over a moving pattern, H.264. The baseline is the
unavoidable work: a bare PyAV loop that converts frames to RGB, and the processor and the model on frames in memory, one
thread, each frame through the vision encoder once, and once more for each pair in which the processor compensates
camera motion. Encoding is measured from the moment the workers have loaded the model (the first clip is opened then) to
the end of the call (the table has its final name before).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

# Before torch is imported, which reads it then.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import psutil
import torch
from random_data import join_clips, write_clip
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lara_tokenizer import LatentActionConfig, LatentActionModel, LatentActionProcessor
from lara_tokenizer.data import Signals, Stride
from lara_tokenizer.encode import encode_dataset
from lara_tokenizer.encode.encode import encode_unit
from lara_tokenizer.encode.engines import LocalEngine
from lara_tokenizer.encode.model_runner import EncodedPairs, Frame, ModelRunner
from lara_tokenizer.encode.options import resolve_options
from lara_tokenizer.encode.plan import Unit

FPS, WIDTH, HEIGHT = 30, 640, 480
STRIDE = "0.5s"
BATCH = 64


@dataclass
class Cost:
    """CPU seconds (this process and its children), wall-clock seconds, and peak resident bytes of all together."""

    cpu: float = 0.0
    wall: float = 0.0
    memory: int = 0


def make_clip(file: Path, seconds: int) -> Path:
    """A pattern that drifts, a square that circles, and fresh noise in each frame."""
    rng = np.random.default_rng(0)
    pattern = np.kron(rng.integers(40, 200, (HEIGHT // 20, WIDTH // 20, 3)), np.ones((20, 20, 1))).astype(np.int16)
    noise = rng.normal(0, 6, (32, HEIGHT, WIDTH, 3)).astype(np.int16)

    def frames() -> Iterator[np.ndarray]:
        for t in range(seconds * FPS):
            frame = np.roll(pattern, (t // 2, t), axis=(0, 1))
            top, left = int(200 + 120 * np.sin(t / 20)), int(280 + 200 * np.cos(t / 20))
            frame[top : top + 80, left : left + 80] = (230, 60, 40)
            yield np.clip(frame + noise[rng.integers(32)], 0, 255).astype(np.uint8)

    return write_clip(file, frames(), (WIDTH, HEIGHT), FPS, preset="veryfast")


def baseline(clip: Path, model: LatentActionModel, processor: LatentActionProcessor) -> tuple[float, float]:
    """CPU seconds of the bare decoding loop, and of the model on frames in memory."""
    stride_frames = Stride.parse(STRIDE).frames_at(FPS)
    decode_cpu = model_cpu = 0.0
    runner = ModelRunner(model, processor)
    pending: list[Frame] = []  # frames whose pair is not complete
    with av.open(str(clip)) as container:
        container.streams.video[0].codec_context.thread_count = 1  # as the library's reader
        decoded = container.decode(video=0)
        while True:
            start = time.process_time()
            frames = [frame.to_ndarray(format="rgb24") for _, frame in zip(range(BATCH), decoded, strict=False)]
            decode_cpu += time.process_time() - start
            if not frames:
                return decode_cpu, model_cpu
            in_memory = np.stack(frames)
            start = time.process_time()
            with torch.inference_mode():
                pixels = processor.resize_frames(in_memory)
                pending += map(Frame, pixels, runner.frame_features(pixels), pixels)
                while len(pending) > stride_frames:
                    count = min(len(pending) - stride_frames, BATCH)
                    now, future = pending[:count], pending[stride_frames:][:count]
                    runner.encode([frame.features for frame in now], runner.future_features(now, future))
                    pending = pending[count:]
            model_cpu += time.process_time() - start


@contextmanager
def peak_memory(cost: Cost) -> Iterator[None]:
    """Record the peak resident memory of this process and its children."""
    done = threading.Event()
    this = psutil.Process()

    def sample() -> None:
        while not done.wait(0.05):
            total = 0
            for process in [this, *this.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:  # it ended since it was listed
                    continue
            cost.memory = max(cost.memory, total)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def encode(
    source: Path,
    model: str,
    workers: int,
    *,
    watch_memory: bool = False,
    columns: Sequence[str] = (),
    out: Path | None = None,
) -> Cost:
    """Measure one run of `encode_dataset`, from the moment the engine is ready. out: where the table stays."""
    cost, marks = Cost(), {}
    start_engine: Callable[[LocalEngine], None] = LocalEngine.start

    def start_and_mark(engine: LocalEngine) -> None:
        start_engine(engine)
        # The system counts the time of children when they have ended: what the living ones have used for imports and
        # for loading the model is read here, to be subtracted at the end.
        times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
        marks["children"] = sum(each.user + each.system for each in times)
        marks["reaped"], marks["own"], marks["wall"] = _reaped(), time.process_time(), time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        LocalEngine.start = start_and_mark  # type: ignore[method-assign]
        table = out or Path(folder) / "t.parquet"
        table.unlink(missing_ok=True)  # a complete table would not be encoded again
        try:
            with peak_memory(cost) if watch_memory else nullcontext():
                encode_dataset(source, model, out=table, strides=STRIDE, columns=columns, workers=workers)
        finally:
            LocalEngine.start = start_engine  # type: ignore[method-assign]
        cost.wall = time.perf_counter() - marks["wall"]
        cost.cpu = time.process_time() - marks["own"] + _reaped() - marks["reaped"] - marks["children"]
    return cost


def _reaped() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure_ratios(folder: Path, model_name: str, runs: int, seconds: int, workers: int) -> dict:
    """CPU and wall-clock time relative to the baseline, in interleaved runs."""
    torch.set_num_threads(1)
    clip = make_clip(folder / "clip.mp4", seconds)
    model = LatentActionModel.from_pretrained(model_name).eval()
    processor = LatentActionProcessor.from_pretrained(model_name)
    rows = []
    for _ in range(runs):
        decode_cpu, model_cpu = baseline(clip, model, processor)
        cost = encode(clip, model_name, workers)
        rows.append(
            {
                "decode_cpu": decode_cpu,
                "model_cpu": model_cpu,
                "encode_cpu": cost.cpu,
                "encode_wall": cost.wall,
                "cpu_ratio": cost.cpu / (decode_cpu + model_cpu),
                "wall_ratio": cost.wall / ((decode_cpu + model_cpu) / workers),
            }
        )
    medians = {name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]}
    return {"clip_seconds": seconds, "workers": workers, "runs": runs, "median": medians, "all": rows}


def measure_memory(folder: Path, model_name: str, workers: int) -> dict:
    """Peak memory of a 20-minute clip over that of a 1-minute clip."""
    short = make_clip(folder / "one.mp4", 60)
    long = join_clips([short] * 20, folder / "twenty.mp4")
    # A first run fills this process, the driver: imports, buffers of the parquet writer.
    _, *peaks = [encode(clip, model_name, workers, watch_memory=True).memory for clip in (short, short, long)]
    return {"peak_bytes_1_min": peaks[0], "peak_bytes_20_min": peaks[1], "ratio": round(peaks[1] / peaks[0], 4)}


class _FakeFrames:
    """A frame source without pixels."""

    def __init__(self, count: int, side: int) -> None:
        self.timestamps, self.signals = np.arange(count) / 10, Signals()
        self._side = side

    def read(self, indices: np.ndarray) -> Iterator[torch.Tensor]:
        yield torch.zeros(len(indices), 3, self._side, self._side, dtype=torch.uint8)


class _FakeRunner(ModelRunner):
    """A runner of the model on tensors that have a shape and no values."""

    def __init__(self, config: LatentActionConfig) -> None:
        # The paper's model is never allocated.
        with torch.device("meta"):
            model = LatentActionModel(config).eval()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        with self._fake:
            model.to_empty(device="cpu")
        super().__init__(model, LatentActionProcessor(size={"height": config.image_size, "width": config.image_size}))

    def frame_features(self, frames_B3SS: torch.Tensor) -> torch.Tensor:
        with self._fake:
            return super().frame_features(torch.empty(frames_B3SS.shape, dtype=torch.uint8))

    def encode(self, features: Sequence[torch.Tensor], future_features: Sequence[torch.Tensor]) -> EncodedPairs:
        with self._fake:
            self.model.encode(
                frame_features=torch.stack(list(features)), future_frame_features=torch.stack(list(future_features))
            )
        config = self.model.config
        latents = np.zeros((len(features), config.num_latents * config.codebook_dim), np.float16)
        codes = np.zeros((len(features), config.num_latents), np.int16)
        return EncodedPairs(latents, codes, np.zeros(len(features), np.float32))


def measure_flops() -> dict:
    """FLOPs per pair (2 per multiply-add) of the paper's architecture, 64 frames, batch 32, by torch's counter."""
    config = LatentActionConfig.paper_exact()
    runner, totals = _FakeRunner(config), {}
    for strides in (["1f"], ["1f", "2f", "5f"]):
        job = resolve_options(config, strides=strides, batch_size=32)
        # Attention as matrix products: the counter does not know the CPU's fused kernel.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            table = encode_unit(Unit("synthetic", "", 0, 63), _FakeFrames(64, config.image_size), runner, job)
        totals[len(strides)] = counter.get_total_flops(), table.num_rows
    one, three = totals[1], totals[3]
    return {"gflop_a_pair": round(one[0] / one[1] / 1e9, 2), "three_strides_over_one": round(three[0] / one[0], 4)}


def measure_start(folder: Path, runs: int) -> dict:
    """CPU seconds, children included, of commands on three samples, interleaved; and of loading the model."""
    samples, table, one_row = str(Path(__file__).parent.parent / "samples"), "all.parquet", "one.parquet"
    encode_all = ["lara-tok", "encode", samples, "--out"]
    encode_one = ["lara-tok", "encode", f"{samples}/hammer.mp4", "--stride", "1f", "--every", "1000f", "--out", one_row]
    commands = {
        "load the model": [sys.executable, "-c", "from lara_tokenizer import load_model; load_model('lara-lam')"],
        "encode, 0 workers": [*encode_all, table, "--workers", "0"],
        "encode": [*encode_all, "default.parquet"],
        "encode, complete already": [*encode_all, table],
        "encode --dry-run": [*encode_all, "dry.parquet", "--dry-run"],
        "verify, 1 row": ["lara-tok", "verify", one_row, f"{samples}/hammer.mp4"],
        "encode, no such source": ["lara-tok", "encode", "nowhere", "--out", "x.parquet"],
        "encode, no such stride": [*encode_all, "x.parquet", "--stride", "5"],
        "--help": ["lara-tok", "--help"],
    }
    subprocess.run(encode_one, cwd=folder, check=True, capture_output=True)
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name in (table, "default.parquet"):
            (folder / name).unlink(missing_ok=True)
        for name, command in commands.items():
            before = _reaped()
            subprocess.run(command, cwd=folder, capture_output=True)
            seconds[name].append(_reaped() - before)
    return {"runs": runs, "median": {name: round(statistics.median(each), 3) for name, each in seconds.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lara-lam", help="checkpoint (default: the bundled one)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=120, help="length of the clip")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--flops", action="store_true")
    parser.add_argument("--start", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.flops:
            result = measure_flops()
        elif options.start:
            result = measure_start(Path(folder), options.runs)
        elif options.memory:
            result = measure_memory(Path(folder), options.model, options.workers)
        else:
            result = measure_ratios(Path(folder), options.model, options.runs, options.seconds, options.workers)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
