"""Something-Something v2: a folder of numbered webm files, and json files with a label for each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from lara_tokenizer.data.episode import Episode
from lara_tokenizer.data.listing import Found
from lara_tokenizer.data.video.backends import video_reader_class

# The archive's own names, in its two releases.
_SPLITS = {
    split: (f"labels/{split}.json", f"something-something-v2-{split}.json", f"{split}.json")
    for split in ("train", "validation", "test")
}


def is_something_something(folder: Path) -> bool:
    """Whether a folder has the archive's label files, whose entries have an id and a template, and its webm files."""
    if not (files := _label_files(folder)) or not any(_webm(folder)):
        return False
    entries = [entry for path in files.values() for entry in _entries(path)]
    return sum(isinstance(entry.get("template"), str) for entry in entries) > len(entries) / 2


def find_something_something(folder: str | Path, *, split: str | None = None, decoder: str = "pyav") -> Found:
    """The clips that the label files name, all splits or one; `text` is the label with its objects filled in.

    Ids are the files' paths below `folder`, `index` the archive's numbers. Clips that are named and not there are
    counted in a note. Raises ValueError where there are no label files, or none of the clips.

    >>> find_something_something("ssv2", split="train").episodes[0].text  # doctest: +SKIP
    'holding potato next to vicks vaporub bottle'
    """
    folder = Path(folder)
    files = _label_files(folder)
    if split is not None and split not in files:
        raise ValueError(f"{folder}: no labels of split {split!r}. There are: {', '.join(files) or 'none'}")
    chosen = {name: path for name, path in files.items() if split in (None, name)}
    if not chosen:
        wanted = ", ".join(name for names in _SPLITS.values() for name in names[:2])
        raise ValueError(f"{folder}: no label file of Something-Something. Looked for {wanted}")
    videos = {path.stem: path for path in _webm(folder)}
    reader_class = video_reader_class(decoder)
    found: dict[str, Episode] = {}
    named: set[str] = set()
    for path in chosen.values():
        for entry in _entries(path):
            number, label = str(entry["id"]), entry.get("label")
            named.add(number)
            if number in videos and number not in found:
                clip = videos[number]
                found[number] = Episode(
                    clip.relative_to(folder).as_posix(),
                    reader_class(clip),
                    index=int(number) if number.isdigit() else None,
                    text=label,
                    offers=("text",) if label else (),
                )
    if not found:
        raise ValueError(f"{folder}: none of the {len(named)} clips in {', '.join(chosen)} is there as <id>.webm")
    missing = len(named) - len(found)
    notes = [f"{missing} of {len(named)} clips in the label files are not there"] if missing else []
    return Found("Something-Something v2", folder.absolute().name, list(found.values()), notes)


def _label_files(folder: Path) -> dict[str, Path]:
    return {
        split: path
        for split, names in _SPLITS.items()
        for path in [next((folder / name for name in names if (folder / name).is_file()), None)]
        if path is not None
    }


def _webm(folder: Path) -> Iterator[Path]:
    """Videos in the folder and in those right below it, as the archive unpacks."""
    yield from folder.glob("*.webm")
    yield from folder.glob("*/*.webm")


def _entries(path: Path) -> list[dict[str, Any]]:
    """The clips a label file names; none where it is another kind of json."""
    return _read_entries(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=len(_SPLITS))  # looked at to know the format, and again to list the clips
def _read_entries(path: Path, version: int) -> list[dict[str, Any]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return list(_clips(values)) if isinstance(values, list) else []


def _clips(values: list[Any]) -> Iterator[dict[str, Any]]:
    for value in values:
        if isinstance(value, dict) and "id" in value:
            yield value
