"""Episodes of moving squares in memory, and the smallest recipe that still learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from lara_tokenizer.data import Episode, FrameIndex, Signals
from lara_tokenizer.errors import VideoDecodeError


@dataclass(eq=False)
class SquaresReader:
    """A square that walks at random over a background of its own; `broken` frames cannot be read.

    Row t of its `actions`, where it has any, is (seed, t, 2t, ...).
    """

    seed: int
    num_frames: int
    size: int
    broken: bool = False
    fps: float = 10
    actions: int = 0
    calls: int = 0
    closed: int = 0

    def index(self, camera: str) -> FrameIndex:
        return FrameIndex(np.arange(self.num_frames) / self.fps, self.fps)

    def signals(self) -> Signals:
        if not self.actions:
            return Signals()
        rows = np.arange(self.num_frames)[:, None] * np.arange(self.actions)
        rows[:, 0] = self.seed
        return Signals(actions=rows.astype(np.float32))

    def frames(self, camera: str, indices: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.broken:
            raise VideoDecodeError(f"clip{self.seed}.mp4", "damaged")
        rng = np.random.default_rng([self.seed, len(camera)])
        side = self.size // 4
        background = np.kron(rng.integers(0, 96, (4, 4, 3)), np.ones((self.size // 4, self.size // 4, 1)))
        frames = np.repeat(background[None].astype(np.uint8), self.num_frames, 0)
        corner, colour = rng.integers(0, self.size - side, 2), rng.integers(150, 255, 3)
        for frame in frames:
            corner = np.clip(corner + rng.integers(-2, 3, 2), 0, self.size - side)
            frame[corner[0] : corner[0] + side, corner[1] : corner[1] + side] = colour
        return frames[np.asarray(indices)]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(scope="session")
def squares() -> Callable[..., list[Episode]]:
    """squares(count, num_frames=20, size=32, cameras=("",), broken=(), dataset="", fps=10, actions=0) -> episodes."""

    def make(
        count: int,
        num_frames: int = 20,
        size: int = 32,
        cameras: tuple[str, ...] = ("",),
        broken: tuple[int, ...] = (),
        dataset: str = "",
        fps: float = 10,
        actions: int = 0,
    ) -> list[Episode]:
        readers = [SquaresReader(i, num_frames, size, i in broken, fps, actions) for i in range(count)]
        return [Episode(f"ep{i:03d}", reader, cameras, dataset=dataset) for i, reader in enumerate(readers)]

    return make


@pytest.fixture(scope="session")
def tiny_recipe_values(tiny_config) -> dict:
    """Plain data of a recipe around the tiny config, without workers."""
    from lara_tokenizer.train.recipe import config_keywords

    model = {name: getattr(tiny_config, name) for name in config_keywords() if name != "vision_config"}
    sizes = ["image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
    vision = tiny_config.vision_config
    model["vision_config"] = {name: getattr(vision, name) for name in ("model_type", *sizes)}
    return {
        "model": {**model, "continuous_steps": 8, "dead_code_steps": 4},
        "training": {
            "steps": 30,
            "batch_size": 16,
            "learning_rate": 1e-2,
            "warmup_steps": 3,
            "workers": 0,
            "log_steps": 10,
            "save_steps": 1000,
            "heldout_pairs": 14,
            "heldout_share": 0.2,
        },
    }
