"""The pre-processor: separates the tokenizer's raw frame pair from the base policy's observations.

Shape suffixes: B batch, T frames in time, C H W of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lerobot.policies.factory import make_pre_post_processors
from lerobot.processor import ProcessorStep, ProcessorStepRegistry, TransitionKey
from torch import Tensor

from lerobot_policy_lara.configuration_lara import LARAConfig

FRAME, FUTURE_FRAME, FUTURE_IS_PAD = "lara.frame", "lara.future_frame", "lara.future_is_pad"
STEP_NAME = "lara_future_frame"


def make_lara_pre_post_processors(config: LARAConfig, dataset_stats: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """The base policy's processors, with `FutureFrameStep` as the first step."""
    config.validate_features()
    before, after = make_pre_post_processors(config.base, dataset_stats=dataset_stats)
    history = config.base.observation_delta_indices
    now = 0 if history is None else history.index(0)
    before.steps = [FutureFrameStep(None if history is None else len(history), now, config.camera), *before.steps]
    return before, after


@dataclass
@ProcessorStepRegistry.register(name=STEP_NAME)
class FutureFrameStep(ProcessorStep):
    """Removes the future frame from every observation, and stores one camera's unnormalized pair.

    LeRobot reads all observations at the same offsets, so each has one more time step; after this step they are as the
    base policy expects them. Observations of roll-outs, which have no future frame, pass unchanged.

    Attributes:
        history: number of time steps of the base's observations; None for observations without a time axis.
        now: index of frame t among them.
        camera: the dataset's name of the tokenizer's camera; None for the first.
    """

    history: int | None = None
    now: int = 0
    camera: str | None = None

    def __call__(self, transition: dict[Any, Any]) -> dict[Any, Any]:
        extra = dict(transition.get(TransitionKey.COMPLEMENTARY_DATA) or {})
        observation = transition.get(TransitionKey.OBSERVATION) or {}
        padded = {name.removesuffix("_is_pad") for name in extra if name.endswith("_is_pad")} & set(observation)
        if not padded:
            return transition
        camera = self._camera(observation, padded)
        frames_BTCHW = observation[camera]
        extra[FRAME], extra[FUTURE_FRAME] = frames_BTCHW[:, self.now], frames_BTCHW[:, -1]
        extra[FUTURE_IS_PAD] = extra[f"{camera}_is_pad"][:, -1]
        for name in padded:
            del extra[f"{name}_is_pad"]
        past = {name: value for name, value in observation.items() if not name.endswith("_is_pad")}
        past |= {name: self._past(past[name]) for name in padded}
        return {**transition, TransitionKey.OBSERVATION: past, TransitionKey.COMPLEMENTARY_DATA: extra}

    def get_config(self) -> dict[str, Any]:
        return {"history": self.history, "now": self.now, "camera": self.camera}

    def transform_features(self, features: dict[Any, Any]) -> dict[Any, Any]:
        return features

    def _past(self, values: Tensor) -> Tensor:
        return values[:, 0] if self.history is None else values[:, : self.history]

    def _camera(self, observation: dict[str, Any], padded: set[str]) -> str:
        cameras = [name for name in observation if name in padded and observation[name].ndim == 5]
        if self.camera is None and cameras:
            return cameras[0]
        if self.camera not in cameras:
            raise ValueError(
                f"camera {self.camera!r} is none of this dataset's: {', '.join(cameras) or 'there is none'}."
            )
        return self.camera
