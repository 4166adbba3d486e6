"""Shared fixtures: moving squares with known motion, tiny models, the shared real clips."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from scheduling import ordinary_scheduling

ROOT = Path(__file__).resolve().parent.parent
# Scripts of opt-in targets, which need other environments or arguments; not to be imported for doctests.
collect_ignore_glob = ["compat/*", "golden/*"]


def pytest_configure() -> None:
    """Give each of several test workers one thread: torch, imported later, would take all cores in each of them."""
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
    """moving_square(num_frames, size=64, step=2) -> uint8 (T, size, size, 3): a square moves `step` px per frame."""

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
        with ordinary_scheduling(), av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options or {})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt, stream.gop_size = pix_fmt, gop
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def write_audio() -> Callable[[Path], None]:
    """write_audio(path): one second of silence, without a video stream."""
    av = pytest.importorskip("av")

    def write(path: Path) -> None:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
            sound.rate = 16000
            container.mux(stream.encode(sound))
            container.mux(stream.encode(None))

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

    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    return LatentActionConfig(
        **sizes,
        vision_config={"model_type": "vit_mae", "num_hidden_layers": 1, **sizes},
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
    """`lerobot_files.write_lerobot(root, clips, version="v3.0", ...)`, with this suite's video writer."""
    from lerobot_files import write_lerobot

    return lambda root, clips, **options: write_lerobot(root, clips, write_video, **options)
