"""The data that a run was trained on: its sources, with origins and licences of their clips."""

from __future__ import annotations

import csv
import json
import shlex
from collections import defaultdict
from pathlib import Path
from typing import Any

from lara_tokenizer.thresholds import IDLE_MOTION
from lara_tokenizer.train.frames import FrameCache
from lara_tokenizer.train.mixture import find_pairs, split_sequences
from lara_tokenizer.train.pairs import PairDataset, pixel_ranges

RANGE_PAIRS = 4096  # training pairs, for the ranges of their pixels
MANIFEST = "MANIFEST.csv"  # of a folder of clips; benchmarks/real_video.py says what it holds


def describe_run(folder: Path, sources: list[str], frames: Path | None = None) -> dict[str, Any]:
    """Data, steps and strides of a training run.

    Args:
        folder: of the run, with its training_log.json.
        sources: lists of clips ("list:FILE") and dataset folders that it was trained on, wherever they are now.
        frames: its cache of frames, for the ranges of their pixels; None: they are left out.

    Raises:
        ValueError: for a folder that is no run's, sources other than those of its log, and those that are not there.
    """
    file = folder / "training_log.json"
    if not file.exists():
        raise ValueError(f"{folder} has no training_log.json. Give the folder that `lara-tok train` wrote.")
    log = json.loads(file.read_text(encoding="utf-8"))
    paths = [Path(source.removeprefix("list:")) for source in sources]
    names, logged = sorted(path.name for path in paths), sorted(log["summary"]["datasets"])
    if names != logged:
        raise ValueError(f"{file} says that the run was trained on {', '.join(logged)}, not on {', '.join(names)}")
    if missing := [path for path in paths if not path.exists()]:
        raise ValueError(f"{missing[0]} is not there: its clips, or its episodes, are described by the card")
    recipe, lists = log["recipe"], [path for path in paths if path.is_file()]
    real, simulated = pool(lists), [describe_dataset(path) for path in paths if path not in lists]
    return {
        "words": words(real, simulated),
        "steps": recipe["training"]["steps"],
        "batch_size": recipe["training"]["batch_size"],
        "strides": recipe["model"]["strides"],
        "sources": [path.stem if path in lists else path.name for path in paths],
        "ranges": {} if frames is None else ranges(frames, recipe),
        "real": real,
        "simulated": simulated,
    }


def words(real: list[dict[str, Any]], simulated: list[dict[str, Any]]) -> str:
    """The training data in a few words.

    >>> words([{"minutes": 86.1}, {"minutes": 13.8}], [])
    '100 minutes of real robot video'
    """
    parts = [f"{sum(each['minutes'] for each in real):.0f} minutes of real robot video"] if real else []
    parts += [
        f"{data['total_episodes']} simulated {data['simulation']['simulator']} episodes"
        if "simulation" in data
        else f"{data['total_episodes']} episodes of {data['folder']}"
        for data in simulated
    ]
    return " and ".join(parts)


def ranges(frames: Path, recipe: dict[str, Any]) -> dict[str, list[float]]:
    """Ranges of the pixels of a run's training pairs, from its cache of frames."""
    options, strides = recipe["training"], recipe["model"]["strides"]
    cache = FrameCache(frames)
    chosen, _ = split_sequences(find_pairs(cache.sequences, strides), options["heldout_share"], options["seed"])
    return pixel_ranges(PairDataset(cache, chosen, options["seed"], min_motion=IDLE_MOTION), RANGE_PAIRS)


def pool(lists: list[Path]) -> list[dict[str, Any]]:
    """Repositories of the clips of some lists, longest first, each with its licence, robots, clips and minutes."""
    origins: dict[tuple[str, str, str], dict[str, Any]] = {}
    for path, seconds in _rows(lists):
        clip = origin(path)
        key = clip["repo"], clip["commit"], clip["licence"]
        found = origins.setdefault(key, {"robots": defaultdict(float), "clips": set(), "hands": 0.0})
        found["robots"][clip["robot"]] += seconds
        found["clips"].add(path)
        found["hands"] += seconds if clip["kind"] == "hand" else 0.0
    described = [
        {
            "repository": repository,
            "commit": commit,
            "licence": licence,
            "robots": list(found["robots"]),
            "clips": len(found["clips"]),
            "minutes": round(sum(found["robots"].values()) / 60, 1),
            "minutes_of_hands": round(found["hands"] / 60, 1),
        }
        for (repository, commit, licence), found in origins.items()
    ]
    return sorted(described, key=lambda each: -each["minutes"])


def _rows(lists: list[Path]) -> list[tuple[Path, float]]:
    """The clip and the seconds of every row."""
    found = []
    for file in lists:
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                clip = (file.parent / row["path"]).resolve()
                found.append((clip, float(row["end"]) - float(row["start"])))
    return found


_MANIFESTS: dict[Path, dict[str, dict[str, str]]] = {}


def origin(clip: Path) -> dict[str, str]:
    """The row of a clip in the manifest of the folder that it lies in."""
    folder = next((each for each in clip.parents if (each / MANIFEST).exists()), None)
    if folder is None:
        raise ValueError(f"{clip}: no {MANIFEST} above it names its origin and licence")
    if folder not in _MANIFESTS:
        with (folder / MANIFEST).open(encoding="utf-8", newline="") as lines:
            _MANIFESTS[folder] = {row["clip"]: row for row in csv.DictReader(lines)}
    name = clip.relative_to(folder).as_posix()
    if name not in _MANIFESTS[folder]:
        raise ValueError(f"{folder / MANIFEST} has no row for {name}")
    return _MANIFESTS[folder][name]


def describe_dataset(folder: Path) -> dict[str, Any]:
    """A dataset folder: its size, and the settings of its simulation where they are recorded."""
    info = json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))
    described = {"folder": folder.name, **{name: info[name] for name in ("total_episodes", "total_frames", "fps")}}
    simulation = folder / "meta" / "simulation.json"
    if simulation.exists():  # recorded demonstrations have none
        described["simulation"] = json.loads(simulation.read_text(encoding="utf-8"))
    return described


def simulate_command(data: dict[str, Any]) -> str:
    """The command that makes a simulated dataset."""
    from lara_policy.simulation.metaworld.tasks import TASK_SETS

    made = data["simulation"]
    # A named set of tasks where there is one: the full set has dozens.
    tasks = next(([name] for name, tasks in TASK_SETS.items() if list(tasks) == made["tasks"]), made["tasks"])
    command = ["lara-tok", "simulate", made["simulator"], "--out", f"runs/{data['folder']}"]
    command += [word for task in tasks for word in ("--task", task)]
    command += ["--episodes", str(data["total_episodes"] // len(made["tasks"])), "--size", str(made["size"])]
    return shlex.join([*command, "--seed", str(made["seed"]), "--action-noise", str(made["action_noise"])])
