"""Many simulated episodes, made in parallel and written as one LeRobotDataset v3.0.

The experts move about eight times faster than real arms are driven, so 10 frames a second is a nominal rate: it makes
the motion between two frames about as large as in real data of that rate.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from lara_policy.simulation.metaworld.expert import ACTION_NAMES, STATE_NAMES, record_episode
from lara_policy.simulation.metaworld.tasks import TASK_TEXT, select_tasks
from lara_policy.simulation.rendering import choose_gl_backend, gl_environment

from lara_tokenizer.data.lerobot_writer import LeRobotWriter
from lara_tokenizer.errors import missing_extra

logger = logging.getLogger(__name__)

NOMINAL_FPS = 10
CAMERAS = ("topview", "corner", "corner2", "corner3", "corner4", "behindGripper", "gripperPOV")
DEFAULT_CAMERAS = ("corner2", "corner")
EPISODES_PER_UNIT = 4  # made one after another by one process, with one set of OpenGL buffers


@dataclass(frozen=True)
class SimulationJob:
    """All that decides what the episodes look like. A folder holds the episodes of one job."""

    tasks: tuple[str, ...]
    cameras: tuple[str, ...]
    size: int
    action_noise: float
    seed: int

    def number(self, task: str, episode: int) -> int:
        """The episode's number in the dataset: all tasks' first, then all tasks' second..., so that more can follow."""
        return episode * len(self.tasks) + self.tasks.index(task)

    def noise_of(self, episode: int) -> float:
        """Even episodes are clean, odd ones noisy."""
        return self.action_noise if episode % 2 else 0.0


def simulate_metaworld(
    out: str | Path,
    *,
    tasks: Sequence[str] = ("all",),
    episodes: int = 10,
    cameras: Sequence[str] = DEFAULT_CAMERAS,
    size: int = 128,
    action_noise: float = 0.0,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Let scripted experts play Meta-World tasks and write what the cameras see as a LeRobotDataset v3.0.

    Columns: `action` (4), `observation.state` (4: hand xyz, gripper), `next.success`; videos
    `observation.images.<camera>` and `observation.masks.<camera>` (white on the arm: threshold at 128). The episode
    rows carry task_name, seed, task_episode, action_noise and success.

    The same arguments give the same frames, whatever the number of workers. A run that was interrupted continues, and
    one with more episodes adds to those there are. Data sets of different seeds share no episode.

    Args:
        out: The dataset's folder.
        tasks: Task names, or the sets "all", "train" (all but two), "unseen" (those two).
        episodes: How many of each task.
        cameras: Names of Meta-World's cameras; those mounted upside down are turned upright.
        size: Side of the pictures in pixels, even.
        action_noise: Standard deviation of gaussian noise on the actions of every second episode, so that actions are
            not a function of the picture; the other half stays clean. The action range is -1..1.
        seed: Entropy of all placements and noise.
        workers: Processes; None for one a core.
        progress: Called with (episodes done, episodes in all) now and then.

    Returns:
        episodes, frames, tasks, video_bytes, successes, and failed: a list of (task, episode, reason).

    Raises:
        ValueError: Unknown tasks or cameras, numbers out of range, or a folder that holds another job's episodes.
        ImportError: metaworld or mujoco is not installed.
        OSError: No OpenGL works, a process was killed, or the folder cannot be written.
    """
    job = SimulationJob(select_tasks(tasks), tuple(dict.fromkeys(cameras)), size, float(action_noise), seed)
    _check(job, episodes)
    for package in ("mujoco", "metaworld"):
        if find_spec(package) is None:
            raise missing_extra(package, "sim")
    writer = _writer(out, job)
    _claim(Path(out), job)
    writer.clear_unfinished()
    there = set(writer.episode_numbers())
    wanted = {job.number(task, episode): (task, episode) for episode in range(episodes) for task in job.tasks}
    missing = [pair for number, pair in wanted.items() if number not in there]
    failed = _play(out, job, missing, workers, progress, len(wanted))
    return _finish(writer, failed)


def _check(job: SimulationJob, episodes: int) -> None:
    if not job.cameras:
        raise ValueError(f"no camera given; there are {', '.join(CAMERAS)}")
    for camera in job.cameras:
        if camera not in CAMERAS:
            raise ValueError(f"unknown camera {camera!r}: there are {', '.join(CAMERAS)}")
    if episodes < 1:
        raise ValueError(f"episodes {episodes}: at least 1 of each task")
    if job.size < 16 or job.size % 2:
        raise ValueError(f"size {job.size}: an even number of pixels, at least 16")
    if not 0 <= job.action_noise <= 2:
        raise ValueError(f"action noise {job.action_noise}: a standard deviation in 0..2 (actions are in -1..1)")
    if job.seed < 0:
        raise ValueError(f"seed {job.seed}: 0 or more")


def _writer(out: str | Path, job: SimulationJob) -> LeRobotWriter:
    keys = [f"observation.{kind}.{camera}" for kind in ("images", "masks") for camera in job.cameras]
    return LeRobotWriter(
        out,
        fps=NOMINAL_FPS,
        video_shapes=dict.fromkeys(keys, (job.size, job.size)),
        column_names={"observation.state": STATE_NAMES, "action": ACTION_NAMES, "next.success": ()},
        robot_type="sawyer",
    )


def _claim(out: Path, job: SimulationJob) -> None:
    """Note whose episodes the folder holds; refuse one that holds another job's."""
    described = {"simulator": "metaworld", **job.__dict__, "fps": NOMINAL_FPS}
    described |= {package: version(package) for package in ("metaworld", "mujoco")}
    described = json.loads(json.dumps(described))
    path = out / "meta" / "simulation.json"
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key in described if known.get(key) != described[key]]
        if differing:
            was = "; ".join(f"{key} was {known.get(key)!r}, is {described[key]!r}" for key in differing)
            raise ValueError(f"{out} holds episodes of another job ({was}): use another folder, or remove this one")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps(described, indent=1), encoding="utf-8")
    path.with_suffix(".tmp").replace(path)


def _play(
    out: str | Path,
    job: SimulationJob,
    missing: list[tuple[str, int]],
    workers: int | None,
    progress: Callable[[int, int], None] | None,
    total: int,
) -> list[tuple[str, int, str]]:
    """Make the missing episodes in parallel; those that fail are returned with the reason."""
    units: dict[tuple[int, str], list[int]] = {}
    for task, episode in missing:
        units.setdefault((episode // EPISODES_PER_UNIT, task), []).append(episode)
    failed: list[tuple[str, int, str]] = []
    done = total - len(missing)
    if progress is not None:
        progress(done, total)
    if not units:
        return failed
    # Children read the backend from the environment before they import mujoco; spawn, because OpenGL and fork clash.
    os.environ.update(gl_environment(choose_gl_backend()))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    processes = min(workers or os.cpu_count() or 1, len(units))
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = [pool.submit(make_unit, str(out), job, task, numbers) for (_, task), numbers in sorted(units.items())]
        for future in as_completed(futures):
            made, unit_failed = future.result()
            done, failed = done + made, failed + unit_failed
            if progress is not None:
                progress(done, total)
    except BrokenProcessPool as error:
        raise OSError(
            "a simulation process was killed (too little memory?): run the same command again to go on, "
            "with fewer workers if need be"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # at an error or Ctrl-C: what is not begun is not made
    return failed


def make_unit(out: str, job: SimulationJob, task: str, episodes: list[int]) -> tuple[int, list[tuple[str, int, str]]]:
    """Play and write some episodes of one task. Runs in a worker process.

    Returns:
        How many were written, and (task, episode, reason) for each that was not.
    """
    writer, renderer, failed = _writer(out, job), None, []
    for episode in episodes:
        try:
            noise = job.noise_of(episode)
            played, renderer = record_episode(
                task,
                episode,
                seed=job.seed,
                cameras=job.cameras,
                action_noise=noise,
                renderer=renderer,
                size=job.size,
            )
            videos = {f"observation.images.{camera}": images for camera, images in played.images.items()}
            for camera, masks in played.masks.items():
                grey = np.where(masks, np.uint8(255), np.uint8(0))
                videos[f"observation.masks.{camera}"] = np.repeat(grey[..., None], 3, axis=-1)
            columns = {"observation.state": played.states, "action": played.actions, "next.success": played.success}
            extra: dict[str, str | int | float | bool] = {
                "task_name": task,
                "seed": job.seed,
                "task_episode": episode,
                "action_noise": noise,
                "success": bool(played.success.any()),
            }
            writer.add_episode(job.number(task, episode), TASK_TEXT[task], columns, videos, extra)
        except (RuntimeError, ArithmeticError, AssertionError, IndexError) as error:  # what simulators raise
            failed.append((task, episode, f"{type(error).__name__}: {error}"))
            logger.warning("%s episode %d failed: %s", task, episode, error)
    if renderer is not None:
        renderer.close()
    return len(episodes) - len(failed), failed


def _finish(writer: LeRobotWriter, failed: list[tuple[str, int, str]]) -> dict[str, Any]:
    if failed and not writer.episode_numbers():
        task, episode, reason = failed[0]
        raise ValueError(f"none of {len(failed)} episodes could be made; the first, {task} {episode}: {reason}")
    written = writer.finalize()
    rows = pq.read_table(writer.root / "meta/episodes/chunk-000/file-000.parquet", columns=["success"])
    return {
        "out": str(writer.root),
        "episodes": written.episodes,
        "frames": written.frames,
        "tasks": written.tasks,
        "video_bytes": written.video_bytes,
        "successes": sum(rows["success"].to_pylist()),
        "failed": [list(item) for item in failed],
    }
