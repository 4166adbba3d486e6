"""Shared fixtures: moving squares with known motion, tiny models, the shared real clips."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """One thread for each of several workers: torch, imported later, would take all cores in every one of them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def _shared(part: str) -> Path:
    folder = Path(os.environ.get("LARA_SHARED", ROOT.parent / "shared")) / part
    if not folder.exists():
        pytest.skip(f"{folder} is absent (set LARA_SHARED to the folder with the shared clips)")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips and datasets."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_fixtures() -> Path:
    """The folder of reference outputs."""
    return _shared("fixtures")


@pytest.fixture(scope="session")
def moving_square() -> Callable[..., np.ndarray]:
    """moving_square(num_frames, size=64, step=2) -> uint8 (T, size, size, 3): a square moves `step` px a frame."""

    def make(num_frames: int, size: int = 64, step: int = 2, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        background = np.kron(rng.integers(0, 96, (size // 8, size // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        side, frames = size // 4, np.repeat(background[None], num_frames, 0)
        for t in range(num_frames):
            left = (t * step) % (size - side)
            frames[t, size // 3 : size // 3 + side, left : left + side] = (230, 80 + seed % 100, 40)
        return frames

    return make


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """write_video(path, frames, fps=10, codec="libx264", gop=12, pix_fmt="yuv420p", options=None) -> path."""
    av = pytest.importorskip("av")

    def write(
        path: Path,
        frames: np.ndarray,
        fps: float = 10,
        codec: str = "libx264",
        gop: int = 12,
        pix_fmt: str = "yuv420p",
        options: dict[str, str] | None = None,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options or {})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt, stream.gop_size = pix_fmt, gop
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def decode_all() -> Callable[..., np.ndarray]:
    """decode_all(path, step=1) -> uint8 (n, H, W, 3): what a plain loop over the file gives, every `step`th frame."""

    av = pytest.importorskip("av")

    def decode(path: Path, step: int = 1) -> np.ndarray:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            stream.codec_context.thread_count = 1
            frames = islice(container.decode(stream), 0, None, step)
            return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])

    return decode


@pytest.fixture(scope="session")
def tiny_config():
    """A LatentActionConfig of the real shape at toy size: 32 px, patch 8, width 16."""
    from lara_tokenizer import LatentActionConfig

    return LatentActionConfig(
        image_size=32,
        patch_size=8,
        vision_config={
            "model_type": "vit_mae",
            "image_size": 32,
            "patch_size": 8,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        num_m_former_layers=1,
        num_decoder_layers=1,
        num_latents=4,
        codebook_dim=8,
        codebook_size=16,
        strides=["0.5s"],
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tiny_config) -> Path:
    """A saved tiny model with its processor, random weights from a fixed seed; z is spread so that codes vary."""
    import torch

    from lara_tokenizer import LatentActionModel, LatentActionProcessor

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny") / "lam"
    model = LatentActionModel(tiny_config).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.bottleneck.codebook.weight)
        for parameter in model.inverse_dynamics.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    LatentActionProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint):
    """The tiny model, in eval mode."""
    from lara_tokenizer import LatentActionModel

    return LatentActionModel.from_pretrained(tiny_checkpoint).eval()


@pytest.fixture(scope="session")
def tiny_processor(tiny_checkpoint):
    """The tiny model's processor."""
    from lara_tokenizer import LatentActionProcessor

    return LatentActionProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="session")
def write_lerobot(write_video) -> Callable[..., Path]:
    """write_lerobot(root, clips, version="v3.0", ...) -> root: a LeRobotDataset as the format's specification has it.

    `clips[camera][episode]` is uint8 (T, H, W, 3), or the path of an mp4 to copy. v3.0 keeps all episodes of a camera
    in one mp4, encoded in one go (copied clips in one each); "image" keeps PNG in the data.
    """
    import json
    import shutil

    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(
        root: Path,
        clips: dict[str, list],
        *,
        version: str = "v3.0",
        fps: float = 10,
        kind: str = "video",
        lengths: list[int] | None = None,
        actions: list[np.ndarray] | None = None,
        tasks: list[str] | None = None,
        **video: object,
    ) -> Path:
        first = next(iter(clips.values()))
        lengths = lengths or [len(clip) for clip in first]
        actions = actions or [np.random.default_rng(e).normal(size=(n, 3)).astype("f4") for e, n in enumerate(lengths)]
        tasks = tasks or ["push"] * len(lengths)
        known = list(dict.fromkeys(tasks))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        rows = [_lerobot_rows(e, n, offsets[e], fps, actions[e], known.index(tasks[e])) for e, n in enumerate(lengths)]
        entries = [
            {"episode_index": e, "tasks": [tasks[e]], "length": n, "data/chunk_index": 0, "data/file_index": 0}
            for e, n in enumerate(lengths)
        ]
        is_v3, meta = version == "v3.0", root / "meta"
        meta.mkdir(parents=True)
        for camera, episodes in clips.items():
            if kind == "image":
                for table, frames in zip(rows, episodes, strict=True):
                    table[camera] = [{"bytes": _png(frame), "path": None} for frame in frames]
                continue
            copied = isinstance(episodes[0], Path)
            if is_v3 and not copied:
                file = root / f"videos/{camera}/chunk-000/file-000.mp4"
                write_video(file, np.concatenate(episodes), fps=fps, **video)
            for e, clip in enumerate(episodes):
                number = e if copied else 0
                start = 0.0 if copied else offsets[e] / fps
                if is_v3:
                    file = root / f"videos/{camera}/chunk-000/file-{number:03d}.mp4"
                    entries[e] |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": number}
                    entries[e] |= {f"videos/{camera}/from_timestamp": start}
                    entries[e] |= {f"videos/{camera}/to_timestamp": start + lengths[e] / fps}
                else:
                    file = root / f"videos/chunk-000/{camera}/episode_{e:06d}.mp4"
                if copied:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(clip, file)
                elif not is_v3:
                    write_video(file, clip, fps=fps, **video)
        features = {camera: {"dtype": kind, "shape": [48, 64, 3], "names": None} for camera in clips}
        features |= {"action": {"dtype": "float32", "shape": [3], "names": None}, "task_index": {"dtype": "int64"}}
        if is_v3:
            data_path = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
            video_path = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
            (root / "data/chunk-000").mkdir(parents=True)
            pq.write_table(
                pa.concat_tables([pa.table(table) for table in rows]), root / "data/chunk-000/file-000.parquet"
            )
            (meta / "episodes/chunk-000").mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(entries), meta / "episodes/chunk-000/file-000.parquet")
            pq.write_table(pa.table({"task_index": range(len(known)), "task": known}), meta / "tasks.parquet")
        else:
            data_path = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
            video_path = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
            (root / "data/chunk-000").mkdir(parents=True)
            for e, table in enumerate(rows):
                pq.write_table(pa.table(table), root / f"data/chunk-000/episode_{e:06d}.parquet")
            keys = ("episode_index", "tasks", "length")
            lines = [json.dumps({key: entry[key] for key in keys}) for entry in entries]
            (meta / "episodes.jsonl").write_text("\n".join(lines) + "\n")
            tasks_lines = [json.dumps({"task_index": i, "task": task}) for i, task in enumerate(known)]
            (meta / "tasks.jsonl").write_text("\n".join(tasks_lines) + "\n")
        info = {"codebase_version": version, "fps": fps, "total_episodes": len(lengths), "chunks_size": 1000}
        info |= {"data_path": data_path, "video_path": video_path, "features": features}
        (meta / "info.json").write_text(json.dumps(info))
        return root

    return write


def _lerobot_rows(episode: int, length: int, first: int, fps: float, actions: np.ndarray, task: int) -> dict:
    return {
        "action": list(actions),
        "timestamp": (np.arange(length) / fps).astype("f4"),
        "frame_index": np.arange(length),
        "episode_index": np.full(length, episode),
        "index": first + np.arange(length),
        "task_index": np.full(length, task),
    }


def _png(frame: np.ndarray) -> bytes:
    from io import BytesIO

    from PIL import Image

    sink = BytesIO()
    Image.fromarray(frame).save(sink, "PNG")
    return sink.getvalue()
