"""Something-Something v2: a folder of numbered webm files, and JSON files with a label for each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from functools import lru_cache
from pathlib import Path
from typing import Any

from lara_tokenizer._parse import read_json
from lara_tokenizer.data.episode import Episode
from lara_tokenizer.data.listing import DEFAULT_OPTIONS, Listing, ListOptions
from lara_tokenizer.data.video import video_reader_class

LOOKED_FOR = "labels/*.json with *.webm (Something-Something)"

# Names of the label files in the two releases of the archive.
_SPLITS = {
    split: (f"labels/{split}.json", f"something-something-v2-{split}.json", f"{split}.json")
    for split in ("train", "validation", "test")
}


def detect(folder: Path, names: Set[str]) -> bool:
    """Whether a folder has the archive's label files, whose entries have an id and a template, and its webm files."""
    if not any(name == "labels" or name.endswith(".json") for name in names):
        return False
    if not (files := _label_files(folder)) or not any(_webm(folder)):
        return False
    entries = [entry for path in files.values() for entry in _entries(path)[0]]
    return sum(isinstance(entry.get("template"), str) for entry in entries) > len(entries) / 2


def list_episodes(source: str, options: ListOptions = DEFAULT_OPTIONS) -> Listing:
    """The clips that the label files list, of all splits or one; `text` is the label with its objects filled in.

    Ids are file paths below the folder, `index` is the archive's number. Listed clips without a file are counted in a
    note. Raises ValueError where there are no label files, or no file of any clip.

    >>> list_episodes("ssv2", ListOptions(split="train")).episodes[0].text  # doctest: +SKIP
    'holding potato next to vicks vaporub bottle'
    """
    folder, split = Path(source), options.split
    files = _label_files(folder)
    if split is not None and split not in files:
        raise ValueError(f"{folder}: no labels of split {split!r}. There are: {', '.join(files) or 'none'}")
    chosen = {name: path for name, path in files.items() if split in (None, name)}
    if not chosen:
        expected = ", ".join(name for names in _SPLITS.values() for name in names[:2])
        raise ValueError(f"{folder}: no label file of Something-Something. Looked for {expected}")
    videos = {path.stem: path for path in _webm(folder)}
    reader_class = video_reader_class(options.decoder)
    episodes: dict[str, Episode] = {}
    listed: set[str] = set()
    notes = []
    for path in chosen.values():
        entries, problem = _entries(path)
        notes += [f"left out: {problem}"] if problem else []
        for entry in entries:
            clip_id, label = str(entry["id"]), entry.get("label")
            label = label if isinstance(label, str) and label.strip() else None
            listed.add(clip_id)
            if clip_id in videos and clip_id not in episodes:
                episodes[clip_id] = Episode(
                    videos[clip_id].relative_to(folder).as_posix(),
                    reader_class(videos[clip_id]),
                    index=int(clip_id) if re.fullmatch("[0-9]{1,18}", clip_id) else None,
                    text=label,
                    available_signals=("text",) if label else (),
                )
    if not episodes:
        problems = "".join(f" ({note})" for note in notes)
        raise ValueError(
            f"{folder}: none of the {len(listed)} clips in {', '.join(chosen)} is there as <id>.webm{problems}"
        )
    missing = len(listed) - len(episodes)
    notes += [f"{missing} of {len(listed)} clips in the label files are not there"] if missing else []
    return Listing("Something-Something v2", folder.absolute().name, list(episodes.values()), notes)


def _label_files(folder: Path) -> dict[str, Path]:
    """The label file of each split that has one."""
    files = {}
    for split, names in _SPLITS.items():
        if existing := [folder / name for name in names if (folder / name).is_file()]:
            files[split] = existing[0]
    return files


def _webm(folder: Path) -> Iterator[Path]:
    """Videos in the folder and in its subfolders, where the archive unpacks them."""
    yield from folder.glob("*.webm")
    yield from folder.glob("*/*.webm")


def _entries(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The clips of a label file, and a message where it is damaged; none for another kind of JSON."""
    try:
        return _read_entries(path, path.stat().st_mtime_ns)
    except OSError as error:
        return [], f"{path} cannot be read ({error.strerror})"


@lru_cache(maxsize=len(_SPLITS))  # read once to detect the format, and again to list the clips
def _read_entries(path: Path, version: int) -> tuple[list[dict[str, Any]], str]:
    try:
        values = read_json(path)
    except ValueError as error:
        return [], str(error)
    if not isinstance(values, list):
        return [], ""
    return [each for each in values if isinstance(each, dict) and isinstance(each.get("id"), str | int)], ""
