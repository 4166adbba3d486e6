"""`rollout`: run many episodes of a policy in simulators, in parallel; equal jobs give equal results.

python: rollout("policy/", environments=["metaworld:drawer-open-v3"], episodes=50)["all"]["success"]["text"]
'31 of 50, 62 % (48 to 74)'
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lara_policy.rollout.episode import EpisodeResult, RolloutPolicy
from lara_policy.rollout.statistics import summarize
from lara_policy.rollout.worker import RolloutJob, load_policy, run_job_episode, start_worker
from lara_policy.simulation.metaworld.environment import STEP_LIMIT, rollout_seed
from lara_policy.simulation.registry import SIMULATORS, select_environments
from lara_policy.simulation.rendering import check_same_job, require_metaworld, run_rendering_jobs
from lara_tokenizer._files import folder_sha256, write_atomically
from lara_tokenizer._parse import load_json
from lara_tokenizer.errors import first_line

RESULT_FILE = "episodes.jsonl"


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
    """Run `episodes` episodes in each environment and count the successes.

    On one machine, equal arguments give equal results, with any number of workers. Policies with the same seed get
    the same initial states, so their episodes can be compared in pairs. No initial state occurs in demonstrations of
    `simulate_metaworld`, whatever the two seeds.

    Args:
        policy: the policy's folder; each worker loads it.
        environments: names such as "metaworld:push-v3"; see `select_environments`.
        episodes: number of episodes in each environment.
        seed: of initial states and the policy's noise, 0 to 2 ** 32 - 1.
        embodiment: the policy's robot that acts; None for its only one.
        executed_steps: actions of a chunk executed before the next prediction; None for the policy's default.
        max_steps: length limit of an episode; None for each environment's own.
        workers: processes; None for one per core.
        out: a folder that records each episode as it ends: an interrupted run continues there, and one with more
            episodes adds to the existing ones.
        videos: a folder for videos of the first `video_episodes` episodes of each environment.
        video_episodes: videos per environment.
        tokenizer: a latent action checkpoint, "lara-lam" or a folder, whose codes are drawn into the videos.
        progress: `progress(episodes done, episodes in all)`, called from time to time.
        load: loads the policy from its folder.

    Returns:
        policy, policy_sha256, seed, episodes, executed_steps, max_steps, versions; `environments`, each with its name,
        the result of `summarize`, and its episodes; `all`, the same over all episodes; and `broken`, a list of
        (environment, episode, reason) in which the simulator failed, which counts as no success.

    Raises:
        ValueError: a value out of range, an unknown name, a policy that does not fit, or `out` holds another job.
        ImportError: a simulator is not installed.
        OSError: there is no such folder, no OpenGL works, or a process was killed.
    """
    names = select_environments(environments)
    _check(names, episodes=episodes, seed=seed, max_steps=max_steps, video_episodes=video_episodes)
    options: dict[str, Any] = {"seed": seed, "embodiment": embodiment}
    options |= {"executed_steps": executed_steps, "max_steps": max_steps}
    identity = {"policy_sha256": policy_sha256(policy), "environments": list(names)}
    description = {**identity, **options, "versions": _versions(names)}
    log = ResultLog(out, description)
    job = RolloutJob(str(policy), load, videos=videos, video_episodes=video_episodes, tokenizer=tokenizer, **options)
    requested = [(name, episode) for episode in range(episodes) for name in names]
    missing = [key for key in requested if key not in log.results or _lacks_video(job, *key)]
    _run(job, missing, log, workers, progress, len(requested))
    log.finish()
    return _report(Path(policy), description, episodes, [log.results[key] for key in requested])


class ResultLog:
    """The results of one job's episodes, optionally in a folder, so that an interrupted run continues there.

    `episodes.jsonl` holds the job in its first line and one episode in each further line. Lines are appended as
    episodes end; a finished run rewrites the file in order, so that equal jobs leave equal bytes.

    Args:
        folder: created if absent; None keeps the results in memory only.
        job: everything that decides an episode's result, JSON-serializable. The number of episodes is no part of it: a
            second run may have more.

    Raises:
        ValueError: the folder holds another job's episodes; the message contains the differences.
    """

    def __init__(self, folder: str | Path | None, job: Mapping[str, Any]) -> None:
        self._path = None if folder is None else Path(folder) / RESULT_FILE
        self._job = json.loads(json.dumps(job))
        self.results: dict[tuple[str, int], EpisodeResult] = {}
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._read(self._path)
        self.finish()  # drops a line that a kill cut short

    def add(self, result: EpisodeResult) -> None:
        """Append one episode."""
        self.results[result.environment, result.episode] = result
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result.to_dict()) + "\n")

    def finish(self) -> None:
        """Rewrite the file: the job, then the episodes in order."""
        if self._path is None:
            return
        order = {name: index for index, name in enumerate(self._job["environments"])}
        keys = sorted(self.results, key=lambda key: (order[key[0]], key[1]))
        lines = [json.dumps(self._job), *(json.dumps(self.results[key].to_dict()) for key in keys)]
        write_atomically(self._path, "\n".join(lines) + "\n")

    def _read(self, path: Path) -> None:
        first, *lines = path.read_text(encoding="utf-8", errors="backslashreplace").split("\n")
        check_same_job(path.parent, "roll-outs", load_json(first, path), self._job)
        for number, line in enumerate(lines[:-1], 2):  # the text after the last line break was cut short, or is empty
            values = load_json(line, f"{path}, line {number}")
            try:
                result = EpisodeResult(**values)
            except TypeError as error:
                raise ValueError(f"{path}, line {number}: no result of an episode ({first_line(error)})") from error
            if result.environment not in self._job["environments"] or not isinstance(result.episode, int):
                raise ValueError(f"{path}, line {number}: an episode that is not one of its job")
            self.results[result.environment, result.episode] = result


def policy_sha256(folder: str | Path) -> str:
    """Hex SHA-256 of a policy: names and contents of the json and safetensors files in its folder.

    Raises:
        OSError: there is no such folder, or it holds no weights.
    """
    files = [path for path in Path(folder).rglob("*") if path.suffix in (".json", ".safetensors")]
    if not any(path.suffix == ".safetensors" for path in files):
        raise OSError(f"{folder}: no folder with a policy's weights (*.safetensors). Pass what training has saved.")
    return folder_sha256(Path(folder), files)


def _check(names: Sequence[str], *, episodes: int, seed: int, max_steps: int | None, video_episodes: int) -> None:
    if episodes < 1:
        raise ValueError(f"episodes {episodes}: takes at least 1 of each environment.")
    if video_episodes < 1:
        raise ValueError(f"video episodes {video_episodes}: takes at least 1; without videos leave the folder out.")
    rollout_seed(seed)
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max steps {max_steps}: takes at least 1.")
    if any(name.startswith("metaworld:") for name in names):
        if max_steps is not None and max_steps > STEP_LIMIT:
            raise ValueError(f"max steps {max_steps}: Meta-World allows at most {STEP_LIMIT}.")
        require_metaworld()


def _versions(names: Sequence[str]) -> dict[str, str]:
    packages = dict.fromkeys(package for name in names for package in SIMULATORS[name.partition(":")[0]].packages)
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions


def _lacks_video(job: RolloutJob, name: str, episode: int) -> bool:
    path = job.video_of(name, episode)
    return path is not None and not path.exists()


def _run(
    job: RolloutJob,
    missing: Sequence[tuple[str, int]],
    log: ResultLog,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
    total: int,
) -> None:
    """Run the missing episodes in parallel, and log each as it ends."""
    done = total - len(missing)
    if progress is not None:
        progress(done, total)
    # One environment after another: a worker keeps its environment open for the next episode.
    order = {name: index for index, name in enumerate(dict.fromkeys(name for name, _ in missing))}
    jobs = [(job, *key) for key in sorted(missing, key=lambda key: (order[key[0]], key[1]))]
    with closing(run_rendering_jobs(run_job_episode, jobs, workers, start_worker)) as results:
        for result in results:
            log.add(result)
            done += 1
            if progress is not None:
                progress(done, total)


def _report(
    policy: Path, description: Mapping[str, Any], episodes: int, results: Sequence[EpisodeResult]
) -> dict[str, Any]:
    by_name = {name: [each for each in results if each.environment == name] for name in description["environments"]}
    return {
        "policy": policy.resolve().name,
        **{key: value for key, value in description.items() if key != "environments"},
        "episodes": episodes,
        "environments": [
            {"environment": name, **summarize(own), "episodes": [each.to_dict() for each in own]}
            for name, own in by_name.items()
        ],
        "all": summarize(results),
        "broken": [[each.environment, each.episode, each.broken] for each in results if each.broken is not None],
    }
