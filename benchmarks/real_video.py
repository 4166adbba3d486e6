"""Lists of clips to train on and to hold out, from a folder of real video and its MANIFEST.csv.

    python benchmarks/real_video.py ../shared/data/real_video runs/real

MANIFEST.csv has one row per clip: clip (a path below the folder), repo and path (its origin), seconds, fps, cut_times
(seconds, separated by spaces) and still_fraction. Four lists are written, for `list:` sources: train_largest.csv and
heldout_largest.csv have the clips of the repository with most seconds, train_others.csv and heldout_others.csv all
others. Training samples every source equally often, so the largest repository is half of the draws, however long it is.

A row is a part of a clip between two cuts, at most 10 s long: sampling is uniform over rows, and a long clip counts by
its length. Scenes are held out as wholes where the origin tells them apart, other clips one by one.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

HELDOUT_SHARE = 0.08  # of each source's seconds
STILLEST = 0.8  # a clip that stands still for more than this share of its frames is left out
SIZES = ("largest", "others")  # repositories: the one with most seconds, and all others
SHORTEST, LONGEST = 1.0, 10.0  # seconds of a row
# The part of a clip's origin that names its scene, or its task before a fixed camera.
SCENES = (
    r"visualizer/videos/(\w+/[\d-]+)/",  # DROID: laboratory and day
    r"scene_type_(\w+)_video",  # DROID's grids: kind of room
    r"videos/(?:DP_|XLR_)?(\w+?)_(?:Octo|OpenVLA)",  # RLDG: task, whatever the policy
)


@dataclass(frozen=True, slots=True)
class Clip:
    """A row of the manifest."""

    name: str
    repository: str
    scene: str
    seconds: float
    fps: float
    cuts: tuple[float, ...]
    still: float

    @property
    def source(self) -> str:
        """The folder that the clip is in, the unit whose share is held out."""
        return self.name.partition("/")[0]

    def parts(self) -> list[tuple[float, float]]:
        """(start, end) in seconds of the parts that no cut divides, all between `SHORTEST` and `LONGEST` seconds."""
        # A cut is noted rounded and may be of the frame before it: one frame on both sides is left out.
        margin = 1 / self.fps
        edges = [0.0, *(edge for cut in sorted(self.cuts) for edge in (cut - margin, cut + margin)), self.seconds]
        found = []
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            if end - start < SHORTEST:
                continue
            count = math.ceil((end - start) / LONGEST)
            marks = [start + (end - start) * i / count for i in range(count + 1)]
            found += list(pairwise(marks))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the clips and of MANIFEST.csv")
    parser.add_argument("out", type=Path, help="folder for the lists, created if needed")
    options = parser.parse_args()
    for name, (clips, rows, seconds) in write_lists(options.folder, options.out).items():
        print(f"{options.out / name}: {clips} clips, {rows} rows, {seconds / 60:.1f} minutes")


def write_lists(folder: Path, out: Path) -> dict[str, tuple[int, int, float]]:
    """Write the lists; clips, rows and seconds of each."""
    clips = [clip for clip in read_manifest(folder / "MANIFEST.csv") if clip.still <= STILLEST and clip.parts()]
    by_repository: dict[str, float] = defaultdict(float)
    for clip in clips:
        by_repository[clip.repository] += clip.seconds
    largest = max(sorted(by_repository), key=by_repository.__getitem__)
    heldout = choose_heldout(clips)
    lists: dict[str, list[Clip]] = {f"{side}_{size}.csv": [] for side in ("train", "heldout") for size in SIZES}
    for clip in clips:
        side = "heldout" if clip.name in heldout else "train"
        lists[f"{side}_{SIZES[clip.repository != largest]}.csv"].append(clip)
    out.mkdir(parents=True, exist_ok=True)
    return {name: _write(out / name, folder, chosen) for name, chosen in lists.items() if chosen}


def read_manifest(file: Path) -> list[Clip]:
    """The clips of a manifest, in its order. Raises ValueError, naming the line, for a row that cannot be read."""
    clips = []
    with file.open(encoding="utf-8", newline="") as lines:
        for line, row in enumerate(csv.DictReader(lines), 2):
            try:
                clips.append(_clip(row))
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"{file}, line {line}: {error!r}. The columns are in benchmarks/real_video.py"
                ) from error
    return clips


def _clip(row: Mapping[str, str]) -> Clip:
    scene = next(
        (f"{row['repo']} {found[1]}" for each in SCENES if (found := re.search(each, row["path"]))), row["clip"]
    )
    cuts = tuple(map(float, row["cut_times"].split()))
    seconds, fps, still = (float(row[name]) for name in ("seconds", "fps", "still_fraction"))
    return Clip(row["clip"], row["repo"], scene, seconds, fps, cuts, still)


def choose_heldout(clips: Iterable[Clip]) -> set[str]:
    """Names of the clips to hold out: whole scenes, about `HELDOUT_SHARE` of each source's seconds.

    The choice depends on the names of the source's scenes alone: a clip that is added moves few others.
    """
    scenes: dict[str, dict[str, list[Clip]]] = defaultdict(lambda: defaultdict(list))
    for clip in clips:
        scenes[clip.source][clip.scene].append(clip)
    heldout: set[str] = set()
    for of_source in scenes.values():
        length = {scene: sum(clip.seconds for clip in own) for scene, own in of_source.items()}
        wanted, chosen = HELDOUT_SHARE * sum(length.values()), 0.0
        for scene in sorted(of_source, key=lambda name: hashlib.sha256(name.encode()).digest()):
            # Whichever comes closer to the share: with this scene, or without it.
            if len(of_source) > 1 and abs(chosen + length[scene] - wanted) < abs(chosen - wanted):
                heldout |= {clip.name for clip in of_source[scene]}
                chosen += length[scene]
    return heldout


def _write(file: Path, folder: Path, clips: list[Clip]) -> tuple[int, int, float]:
    rows = [(clip, part) for clip in clips for part in clip.parts()]
    base = os.path.relpath(folder.resolve(), file.parent.resolve())
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("path", "start", "end"))
        for clip, (start, end) in rows:
            writer.writerow((f"{Path(base).as_posix()}/{clip.name}", f"{start:.3f}", f"{end:.3f}"))
    return len(clips), len(rows), sum(end - start for _, (start, end) in rows)


if __name__ == "__main__":
    main()
