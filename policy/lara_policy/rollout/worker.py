"""What a worker process does: it loads the policy once, keeps the last environment open, and plays episodes."""

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
    """All that a worker needs to know. `load` and the rest are pickled: `load` is a function of a module."""

    folder: str
    load: Callable[[str], RolloutPolicy]
    seed: int
    executed_steps: int | None
    max_steps: int | None
    videos: str | None  # a folder
    video_episodes: int  # the first of each environment are drawn
    tokenizer: str | None  # whose codes are drawn
    embodiment: str | None  # which of the policy's robots acts

    def video_of(self, environment: str, episode: int) -> Path | None:
        """Where this episode's video goes; None for no video."""
        if self.videos is None or episode >= self.video_episodes:
            return None
        return video_path(self.videos, environment, episode)


def load_policy(folder: str) -> RolloutPolicy:
    """A `FlowMatchingPolicy`, on the GPU where there is one; one CPU thread, since processes share the cores."""
    import torch
    from lara_policy import FlowMatchingPolicy
    from transformers.utils import logging

    logging.disable_progress_bar()  # the roll-outs have a bar of their own
    torch.set_num_threads(1)
    policy = FlowMatchingPolicy.from_pretrained(folder).eval()
    return policy.to("cuda" if torch.cuda.is_available() else "cpu")


def start_worker() -> None:
    """Send what simulators print to stderr, for stdout is for results; close the environment at the end."""
    os.dup2(2, 1)
    atexit.register(_close)


def play(job: RolloutJob, name: str, episode: int) -> EpisodeResult:
    """Play one episode, and write its video where one is asked for. Runs in a worker process.

    Raises:
        ValueError: the policy and the environment do not fit; the message says where.
    """
    policy = _policy(job.load, job.folder, job.embodiment)
    environment = _environment(job, name, policy)
    path = job.video_of(name, episode)
    if path is not None and not policy.cameras:
        raise ValueError("videos: the policy looks at no camera, so there is nothing to show")
    recording = Recording(policy.cameras[0]) if path is not None else None
    played = run_episode(
        policy,
        environment,
        episode,
        seed=job.seed,
        executed_steps=job.executed_steps,
        max_steps=job.max_steps,
        recording=recording,
    )
    if path is not None and recording is not None and recording.frames:
        longest = job.max_steps or environment.max_steps
        codes = None if job.tokenizer is None else _codes(job.tokenizer)
        write_rollout_video(
            path, played, recording, text=environment.text, fps=environment.fps, max_steps=longest, codes=codes
        )
    return played


@lru_cache(maxsize=1)
def _policy(load: Callable[[str], RolloutPolicy], folder: str, embodiment: str | None) -> RolloutPolicy:
    policy = load(folder)
    if embodiment is not None:
        policy.embodiment = embodiment
    return policy


@lru_cache(maxsize=1)
def _codes(tokenizer: str) -> LatentCodes:
    return LatentCodes.from_pretrained(tokenizer)


_open: list[Environment] = []  # the last one: making one anew takes a second (Meta-World) or half a minute (LIBERO)


def _close() -> None:
    while _open:
        _open.pop().close()


def _environment(job: RolloutJob, name: str, policy: RolloutPolicy) -> Environment:
    if _open and _open[0].name != name:
        _close()
    if not _open:
        sizes = {camera: policy.image_sizes[camera] for camera in policy.cameras}
        _open.append(open_environment(name, image_sizes=sizes, seed=job.seed))
    return _open[0]
