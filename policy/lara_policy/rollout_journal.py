"""What has been played, on disk: a run that was killed goes on from there.

`episodes.jsonl` holds the job in its first line and an episode in each further one. Lines are added as episodes end;
a finished run writes the file anew in order, so that equal jobs leave equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lara_policy.rollout_episode import PlayedEpisode

FILE = "episodes.jsonl"


class Journal:
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
        self.played: dict[tuple[str, int], PlayedEpisode] = {}
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._read(self._path)
        self.finish()  # without a line that was cut short

    def add(self, episodes: Iterable[PlayedEpisode]) -> None:
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
            played = PlayedEpisode(**json.loads(line))
            self.played[played.environment, played.episode] = played
