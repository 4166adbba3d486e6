"""Damaged video files, many in one folder: `lara-tok encode` with worker processes, and the check of each row.

A batch is one real call: damaged clips, and untouched clips as neighbours. Afterwards each clip with rows is decoded by
other means (`independent`), and its rows are compared with those that the tiny model gives for these frames.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fuzz.clips import write_seeds
from fuzz.damage import damage
from fuzz.forked import Finished, run_command, run_forked
from fuzz.independent import are_right, ffmpeg_frames, plain_frames
from fuzz.outcome import Outcome, violations

BATCH = 50  # damaged clips a call
NEIGHBOURS = ("h264_b_frames.mp4", "hevc_open_gop.mkv", "vp9_b_frames.webm", "mpeg4_plain.avi", "mpeg2_b_frames.ts")
STRIDE = "2f"
_PREFIX = "neighbour_"
# A worker that makes no progress is killed after ten minutes; a batch that takes this long has such a clip.
_BATCH_SECONDS = 240.0
_READS = 8  # single frames that are read in random order
# Names as they are in the world; the number keeps them apart.
_NAMES = ("{n:03}{suffix}",) * 12 + ("\x1b[31m{n}{suffix}", "a\n{n}{suffix}", "-{n}{suffix}", "{n} %s #t=1,2{suffix}")


@dataclass(frozen=True, slots=True)
class DamagedClip:
    """A damaged copy, and the undamaged clip that it was made from."""

    path: Path
    seed: Path


class VideoKind:
    """Clips of the codecs and containers of `clips.SEEDS`."""

    name = "video"
    share = 1250

    def __init__(self, folder: Path, model: Path) -> None:
        self._folder = folder
        self._model = model
        self._seeds: dict[str, bytes] = {}
        self._clean: dict[str, Any] = {}

    def prepare(self) -> None:
        """Write the seeds, and encode the neighbours alone."""
        seeds = list(write_seeds(self._folder / "seeds"))
        self._seeds = {path.name: path.read_bytes() for path in seeds}
        clean = self._folder / "clean"
        self._add_neighbours(clean / "clips")
        done = self._encode(clean / "clips", clean / "t.parquet")
        assert done.code == 0, done.output
        self._clean = rows_by_episode(clean / "t.parquet")

    def batches(self, indices: Sequence[int]) -> list[Sequence[int]]:
        """The inputs of each call."""
        return [indices[first : first + BATCH] for first in range(0, len(indices), BATCH)]

    def run(self, indices: Sequence[int], seed: int, found: Path) -> list[Outcome]:
        """Encode a batch in one call and check it; inputs of violations are copied to `found`."""
        folder = self._folder / f"batch-{indices[0]}"
        shutil.rmtree(folder, ignore_errors=True)
        clips = {index: self._damaged(Random(f"{seed} video {index}"), index, folder / "clips") for index in indices}
        self._add_neighbours(folder / "clips")
        outcomes = {index: Outcome(self.name, index) for index in indices}
        done = self._encode(folder / "clips", folder / "t.parquet")
        for outcome in outcomes.values():
            outcome.seconds, outcome.peak = done.seconds / len(indices), done.peak
        if violations(done) or done.code not in (0, 1):
            self._blame(done, clips, outcomes)
        else:
            self._check(folder, clips, outcomes)
        for index, outcome in outcomes.items():
            if outcome.violations:
                found.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(clips[index].path, found / f"video-{index}{clips[index].path.suffix}")
        shutil.rmtree(folder)
        return list(outcomes.values())

    def _damaged(self, rng: Random, index: int, folder: Path) -> DamagedClip:
        name = rng.choice(sorted(self._seeds))
        suffix = Path(name).suffix
        donors = [self._seeds[other] for other in sorted(self._seeds) if other.endswith(suffix) or rng.random() < 0.1]
        path = folder / rng.choice(_NAMES).format(n=index, suffix=suffix)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damage(rng, name, self._seeds[name], donors))
        return DamagedClip(path, self._folder / "seeds" / name)

    def _add_neighbours(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in NEIGHBOURS:
            (folder / f"{_PREFIX}{name}").write_bytes(self._seeds[name])

    def _encode(self, clips: Path, out: Path) -> Finished:
        options = ["--model", str(self._model), "--stride", STRIDE, "--workers", "2", "--out", str(out)]
        return run_program([sys.executable, "-m", "lara_tok", "encode", str(clips), *options], _BATCH_SECONDS)

    def _blame(self, done: Finished, clips: dict[int, DamagedClip], outcomes: dict[int, Outcome]) -> None:
        """Encode each clip of a batch that went wrong by itself; what no clip causes alone is put to the first one."""
        for index, clip in clips.items():
            alone = clip.path.parent.parent / f"alone-{index}.parquet"
            options = ["--model", str(self._model), "--stride", STRIDE, "--workers", "0", "--out", str(alone)]
            outcomes[index].add(run_command(["encode", f"./{clip.path.name}", *options], clip.path.parent))
        if not any(outcome.violations for outcome in outcomes.values()):
            found = violations(done) or {"crash": f"exit code {done.code}: {done.output[-300:]}"}
            next(iter(outcomes.values())).violations |= {
                name: f"the whole batch: {text}" for name, text in found.items()
            }

    def _check(self, folder: Path, clips: dict[int, DamagedClip], outcomes: dict[int, Outcome]) -> None:
        rows = rows_by_episode(folder / "t.parquet")
        changed = [name for name, table in self._clean.items() if rows.get(name) != table]
        if changed:
            next(iter(outcomes.values())).violations["changed rows"] = ", ".join(changed)
        for index, clip in clips.items():
            if clip.path.name not in rows:
                outcomes[index].verdict = "failed"
                continue
            checked = run_forked(wrong_rows, clip.path, clip.seed, rows[clip.path.name], self._model, Random(index))
            if checked.code != 0:
                # Rows of a worker that lived; the same clip kills or hangs this process.
                outcomes[index].violations["wrong rows"] = (
                    f"cannot be read again: {checked.code} {checked.output[-300:]}"
                )
            elif checked.value:
                outcomes[index].violations["wrong rows"] = checked.value


def rows_by_episode(table: Path) -> dict[str, Any]:
    """The rows of each episode as a table of Arrow; none where no table was written."""
    if not table.exists():
        return {}
    rows = pq.read_table(table)
    for k, field in enumerate(rows.schema):
        # A dictionary holds the names of a whole run.
        if pa.types.is_dictionary(field.type):
            rows = rows.set_column(k, field.name, rows.column(k).cast(field.type.value_type))
    names = pc.unique(rows["episode"]).to_pylist()
    return {name: rows.filter(pc.equal(rows["episode"], name)).combine_chunks() for name in names}


def wrong_rows(clip: Path, seed: Path, rows: Any, model: Path, rng: Random) -> str:
    """The difference between a clip's rows and an independent decode, or ""."""
    from lara_tokenizer import LatentActionModel, LatentActionProcessor, encode_episode
    from lara_tokenizer.data import load_episodes

    (episode,) = load_episodes(clip)
    count = episode.num_frames()
    frames = episode.frames("", range(count))
    stream, plain = plain_frames(clip)
    _, undamaged = plain_frames(seed)
    by_ffmpeg = ffmpeg_frames(clip, stream, *frames.shape[1:3])
    some = sorted(rng.sample(range(count), min(_READS, count)), key=lambda _: rng.random())
    alone = {index: load_episodes(clip)[0].frames("", [index])[0] for index in some}
    for name, seen in (("in order", frames), ("alone", [alone.get(k, frame) for k, frame in enumerate(frames)])):
        if not are_right(seen, plain, by_ffmpeg, undamaged):
            return (
                f"read {name}, {count} frames are not among ffmpeg's {len(by_ffmpeg)} nor a plain decode's {len(plain)}"
            )
    held = Held(frames, episode.frame_index())
    episode.reader = held
    expected = encode_episode(
        episode, LatentActionModel.from_pretrained(model).eval(), LatentActionProcessor.from_pretrained(model),
        strides=STRIDE,
    )  # fmt: skip
    different = [
        name for name in ("frame_index", "timestamp", "codes") if rows[name].to_pylist() != expected[name].to_pylist()
    ]
    return f"{', '.join(different)} differ from the rows of the same frames in memory" if different else ""


class Held:
    """A `FrameReader` of frames that were read before."""

    def __init__(self, frames: np.ndarray, index: Any) -> None:
        self._frames, self._index = frames, index

    def index(self, camera: str) -> Any:
        return self._index

    def frames(self, camera: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return self._frames[np.asarray(indices)]

    def close(self) -> None:
        pass


def run_program(command: Sequence[str], seconds: float) -> Finished:
    """A program of its own with a time limit; its peak is that of the driver, without worker processes."""
    started, peak = time.monotonic(), 0
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        pieces: list[bytes] = []
        reader = threading.Thread(target=lambda: pieces.extend(iter(lambda: process.stdout.read(65536), b"")))
        reader.start()
        while process.poll() is None and time.monotonic() < started + seconds:
            peak = max(peak, peak_memory(process.pid))
            time.sleep(0.05)
        code = process.poll()
        if code is None:
            end_session(process.pid)
            process.wait()
        reader.join()
    return Finished(code, b"".join(pieces).decode("utf-8", "replace"), peak, time.monotonic() - started)


def peak_memory(process: int) -> int:
    """The most bytes that a running process has held resident so far (VmHWM)."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    lines = [line.split() for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0][1]) * 1024 if lines else 0


def end_session(session: int) -> None:
    """Kill every process of a session: a driver and its workers, which are in groups of their own."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                process.kill()
        except (OSError, psutil.Error):
            continue
