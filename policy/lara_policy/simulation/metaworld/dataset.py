"""`simulate_metaworld`: demonstrations of Meta-World's experts, recorded in parallel as a LeRobotDataset v3.0."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from lara_policy.simulation.metaworld.expert import (
    ACTION_NAMES,
    CAMERAS,
    NOMINAL_FPS,
    STATE_NAMES,
    SimulatedEpisode,
    record_episode,
)
from lara_policy.simulation.metaworld.tasks import TASK_TEXT, select_tasks
from lara_policy.simulation.protocol import SIMULATOR_ERRORS
from lara_policy.simulation.rendering import check_same_job, require_metaworld, run_rendering_jobs
from lara_tokenizer._files import write_atomically
from lara_tokenizer._parse import read_json
from lara_tokenizer.data.lerobot.writer import LeRobotWriter

logger = logging.getLogger(__name__)

DEFAULT_CAMERAS = ("corner2", "corner")
EPISODES_PER_UNIT = 4  # made one after another by one process, with one set of OpenGL buffers


@dataclass(frozen=True)
class SimulationJob:
    """The options that decide the content of episodes. A folder holds the episodes of one job."""

    tasks: tuple[str, ...]
    cameras: tuple[str, ...]
    size: int
    action_noise: float
    seed: int

    def episode_index(self, task: str, episode: int) -> int:
        """Index in the dataset: the first episode of all tasks, then the second ..., so that more can be added."""
        return episode * len(self.tasks) + self.tasks.index(task)

    def noise_of(self, episode: int) -> float:
        """Action noise of an episode: even ones are clean, odd ones noisy."""
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
    """Record scripted experts in Meta-World tasks and write a LeRobotDataset v3.0.

    Columns: `action` (4), `observation.state` (4: hand xyz, gripper), `next.success`; videos
    `observation.images.<camera>` and `observation.masks.<camera>` (white on the arm: threshold at 128). The episode
    rows contain task_name, seed, task_episode, action_noise and success.

    Equal arguments give equal frames, whatever the number of workers. An interrupted run continues, and one with more
    episodes adds to the existing ones. Datasets of different seeds share no episode.

    Args:
        out: the dataset's folder.
        tasks: task names, or the sets "all", "train" (all but two), "unseen" (those two).
        episodes: number of episodes per task.
        cameras: names of Meta-World's cameras; images of those mounted upside down are turned upright.
        size: side of the images in pixels, even.
        action_noise: standard deviation of gaussian noise on the actions of every second episode, so that actions are
            not a function of the image; the other half stays clean. The action range is -1..1.
        seed: entropy of all placements and noise.
        workers: processes; None for one per core.
        progress: `progress(episodes done, episodes in all)`, called from time to time.

    Returns:
        episodes, frames, tasks, video_bytes, successes, and failed: a list of (task, episode, reason).

    Raises:
        ValueError: unknown tasks or cameras, values out of range, or a folder with another job's episodes.
        ImportError: metaworld or mujoco is not installed.
        OSError: no OpenGL works, a process was killed, or the folder cannot be written.
    """
    job = SimulationJob(select_tasks(tasks), tuple(dict.fromkeys(cameras)), size, float(action_noise), seed)
    _check(job, episodes)
    require_metaworld()
    writer = _writer(out, job)
    _claim_folder(Path(out), job)
    writer.clear_unfinished()
    existing = set(writer.episode_ids())
    requested = [(task, episode) for episode in range(episodes) for task in job.tasks]
    missing = [(task, episode) for task, episode in requested if job.episode_index(task, episode) not in existing]
    failed = _record(out, job, missing, workers, progress, len(requested))
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


def _claim_folder(out: Path, job: SimulationJob) -> None:
    """Write the job's description to the folder. Raises ValueError if it holds another job's episodes."""
    description = {"simulator": "metaworld", **asdict(job), "fps": NOMINAL_FPS}
    description |= {package: version(package) for package in ("metaworld", "mujoco")}
    description = json.loads(json.dumps(description))  # tuples become lists, as in the file
    path = out / "meta" / "simulation.json"
    if path.exists():
        check_same_job(out, "episodes", read_json(path), description)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(description, indent=1))


def _record(
    out: str | Path,
    job: SimulationJob,
    missing: list[tuple[str, int]],
    workers: int | None,
    progress: Callable[[int, int], None] | None,
    total: int,
) -> list[tuple[str, int, str]]:
    """Record the missing episodes in parallel; returns (task, episode, reason) of those that failed."""
    units: dict[tuple[int, str], list[int]] = {}
    for task, episode in missing:
        units.setdefault((episode // EPISODES_PER_UNIT, task), []).append(episode)
    # In the order of episodes, so that an interrupted run has a similar number of episodes of each task.
    jobs = [(str(out), job, task, episodes) for (_, task), episodes in sorted(units.items())]
    failed: list[tuple[str, int, str]] = []
    done = total - len(missing)
    if progress is not None:
        progress(done, total)
    with closing(run_rendering_jobs(make_unit, jobs, workers)) as results:
        for written, unit_failed in results:
            done, failed = done + written, failed + unit_failed
            if progress is not None:
                progress(done, total)
    return failed


def make_unit(out: str, job: SimulationJob, task: str, episodes: list[int]) -> tuple[int, list[tuple[str, int, str]]]:
    """Record and write some episodes of one task. Runs in a worker process.

    Returns:
        The count of written episodes, and (task, episode, reason) for each that was not.
    """
    writer, renderer, failed = _writer(out, job), None, []
    for episode in episodes:
        noise = job.noise_of(episode)
        try:
            recorded, renderer = record_episode(
                task,
                episode,
                seed=job.seed,
                cameras=job.cameras,
                action_noise=noise,
                renderer=renderer,
                size=job.size,
            )
            columns = {
                "observation.state": recorded.states,
                "action": recorded.actions,
                "next.success": recorded.success,
            }
            extra: dict[str, str | int | float | bool] = {
                "task_name": task,
                "seed": job.seed,
                "task_episode": episode,
                "action_noise": noise,
                "success": bool(recorded.success.any()),
            }
            index = job.episode_index(task, episode)
            writer.add_episode(index, TASK_TEXT[task], columns, _videos(recorded), extra)
        except SIMULATOR_ERRORS as error:
            failed.append((task, episode, f"{type(error).__name__}: {error}"))
            logger.warning("%s episode %d failed: %s", task, episode, error)
    if renderer is not None:
        renderer.close()
    return len(episodes) - len(failed), failed


def _videos(recorded: SimulatedEpisode) -> dict[str, np.ndarray]:
    videos = {f"observation.images.{camera}": images for camera, images in recorded.images.items()}
    for camera, masks in recorded.masks.items():
        grey = np.where(masks, np.uint8(255), np.uint8(0))
        videos[f"observation.masks.{camera}"] = np.repeat(grey[..., None], 3, axis=-1)
    return videos


def _finish(writer: LeRobotWriter, failed: list[tuple[str, int, str]]) -> dict[str, Any]:
    if failed and not writer.episode_ids():
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
