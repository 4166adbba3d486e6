"""A world of one red square driven by its action, as labelled episodes in memory, and sizes of a policy for it."""

from __future__ import annotations

import numpy as np
from square_models import LENGTH, square_episode

from lara_tokenizer.data import FrameIndex, Signals

TINY_POLICY = {
    "hidden_size": 16,
    "num_layers": 4,
    "num_heads": 2,
    "output_size": 16,
    "dropout": 0.0,
    "state_hidden_size": 8,
    "horizon": 6,
    "executed_steps": 3,
    "context_size": 16,
    "num_adapter_layers": 1,
    "num_adapter_heads": 2,
    "max_action_dim": 5,
    "max_state_dim": 4,
    "initializer_range": 0.2,
}
FPS = 10.0


class LabelledSquares:
    """`square_episode` with its actions (T, 3), states (T, 2) and an instruction; `bad` puts NaN into an action."""

    def __init__(self, seed: int, text: str, width: int, bad: bool, labelled: bool) -> None:
        self.pixels, self.actions = square_episode(seed)
        extra = np.zeros((LENGTH, max(0, width - 3)), np.float32)
        self.actions = np.concatenate([self.actions, extra], 1)[:, :width].astype(np.float32)
        self.text, self.labelled = text, labelled
        if bad:
            self.actions[3, 0] = np.nan

    def index(self, camera: str) -> FrameIndex:
        return FrameIndex(np.arange(LENGTH) / FPS, FPS)

    def signals(self) -> Signals:
        if not self.labelled:
            return Signals(texts=(self.text,) * LENGTH)
        states = np.cumsum(self.actions[:, :2], 0).astype(np.float32)
        return Signals(actions=self.actions, states=np.nan_to_num(states), texts=(self.text,) * LENGTH)

    def frames(self, camera: str, indices: np.ndarray) -> np.ndarray:
        frames = self.pixels[np.asarray(indices)]
        return frames if camera == "front" else frames[:, :, ::-1]  # another camera sees it mirrored

    def close(self) -> None:
        pass
