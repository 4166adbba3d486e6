"""Episodes of moving squares in memory, and the smallest recipe that still learns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lara_tokenizer.data import Episode, FrameIndex, Signals
from lara_tokenizer.errors import VideoDecodeError


class SquaresReader:
    """A square that walks at random over a background of its own; `broken` frames cannot be read.

    Row t of its `actions`, where it has any, is (seed, t, 2t, ...).
    """

    def __init__(
        self, seed: int, num_frames: int, size: int, broken: bool = False, fps: float = 10, actions: int = 0
    ) -> None:
        self.seed, self.num_frames, self.size, self.broken = seed, num_frames, size, broken
        self.fps, self.actions = fps, actions
        self.calls = self.closed = 0

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
        place, colour = rng.integers(0, self.size - side, 2), rng.integers(150, 255, 3)
        for frame in frames:
            place = np.clip(place + rng.integers(-2, 3, 2), 0, self.size - side)
            frame[place[0] : place[0] + side, place[1] : place[1] + side] = colour
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
    model["vision_config"] = {
        "model_type": "vit_mae",
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
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
            "heldout_pairs": 16,
            "heldout_share": 0.2,
        },
    }
