"""The worker process of roll-outs: loads the policy once, keeps the last environment open, and runs episodes."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lara_policy.rollout.episode import EpisodeResult, Recording, RolloutPolicy, run_episode
from lara_policy.rollout.video import LatentCodes, video_path, write_rollout_video
from lara_policy.simulation.protocol import Environment
from lara_policy.simulation.registry import open_environment


@dataclass(frozen=True)
class RolloutJob:
    """The options of a roll-out that workers need. It is pickled: `load` must be a module-level function."""

    folder: str
    load: Callable[[str], RolloutPolicy]
    seed: int
    executed_steps: int | None
    max_steps: int | None
    videos: str | Path | None  # a folder
    video_episodes: int  # the first episodes of each environment get a video
    tokenizer: str | None  # whose codes are drawn
    embodiment: str | None  # the policy's robot that acts

    def video_of(self, environment: str, episode: int) -> Path | None:
        """The path of this episode's video; None without a video."""
        if self.videos is None or episode >= self.video_episodes:
            return None
        return video_path(self.videos, environment, episode)


def load_policy(folder: str) -> RolloutPolicy:
    """Load a `FlowMatchingPolicy`, on the GPU if there is one; with one CPU thread, since processes share the cores."""
    import torch
    from transformers.utils import logging

    from lara_policy import FlowMatchingPolicy

    logging.disable_progress_bar()  # the roll-outs have a progress bar of their own
    torch.set_num_threads(1)
    policy = FlowMatchingPolicy.from_pretrained(folder).eval()
    return policy.to("cuda" if torch.cuda.is_available() else "cpu")


def start_worker() -> None:
    """Initialize a worker: simulators' prints go to stderr (stdout is for results)."""
    os.dup2(2, 1)


def run_job_episode(job: RolloutJob, name: str, episode: int) -> EpisodeResult:
    """Run one episode, and write its video if requested. Runs in a worker process.

    Raises:
        ValueError: the policy does not fit the environment; the message contains the step.
    """
    policy = _policy(job.load, job.folder, job.embodiment)
    environment = _environment(job, name, policy)
    path = job.video_of(name, episode)
    if path is not None and not policy.cameras:
        raise ValueError("videos: the policy has no camera, so there is nothing to show")
    recording = Recording(policy.cameras[0]) if path is not None else None
    result = run_episode(
        policy,
        environment,
        episode,
        seed=job.seed,
        executed_steps=job.executed_steps,
        max_steps=job.max_steps,
        recording=recording,
    )
    if path is not None and recording is not None and recording.frames:
        limit = job.max_steps or environment.max_steps
        codes = None if job.tokenizer is None else _codes(job.tokenizer)
        write_rollout_video(
            path, result, recording, text=environment.text, fps=environment.fps, max_steps=limit, codes=codes
        )
    return result


@lru_cache(maxsize=1)
def _policy(load: Callable[[str], RolloutPolicy], folder: str, embodiment: str | None) -> RolloutPolicy:
    policy = load(folder)
    if embodiment is not None:
        policy.embodiment = embodiment
    return policy


@lru_cache(maxsize=1)
def _codes(tokenizer: str) -> LatentCodes:
    return LatentCodes.from_pretrained(tokenizer)


# The last environment stays open: opening one takes a second (Meta-World) or half a minute (LIBERO).
_open: list[Environment] = []


def _close_environment() -> None:
    while _open:
        _open.pop().close()


def _environment(job: RolloutJob, name: str, policy: RolloutPolicy) -> Environment:
    if _open and _open[0].name != name:
        _close_environment()
    if not _open:
        sizes = {camera: policy.image_sizes[camera] for camera in policy.cameras}
        _open.append(open_environment(name, image_sizes=sizes, seed=job.seed))
        # Now that the simulator has registered the end of OpenGL: at exit, the last that is registered runs first.
        atexit.unregister(_close_environment)
        atexit.register(_close_environment)
    return _open[0]
