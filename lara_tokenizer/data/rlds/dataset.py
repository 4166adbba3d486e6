"""Listing of RLDS datasets. Reads metadata and the headers of records only.

    features.json                                features of a step
    dataset_info.json                            splits, and the number of episodes in each of their shards
    <name>-<split>.tfrecord-00000-of-00004       shards, one record per episode

RLDS states no control rate: it comes from the table of published sets (`open_x`), or from the user.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any

from lara_tokenizer._parse import format_template, read_json
from lara_tokenizer.data.episode import Episode
from lara_tokenizer.data.listing import DEFAULT_OPTIONS, Listing, ListOptions, choose_cameras
from lara_tokenizer.data.rlds.features import choose_signals, read_features
from lara_tokenizer.data.rlds.open_x import find_set
from lara_tokenizer.data.rlds.reader import RecordLayout, RldsReader
from lara_tokenizer.data.rlds.tfrecord import index_records

FEATURES, INFO = "features.json", "dataset_info.json"
LOOKED_FOR = f"{FEATURES} and {INFO} (RLDS)"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_MOST_SHARDS, _MOST_EPISODES, _LONGEST_NAME = 1_000_000, 1_000_000_000, 255  # of a split; of a shard; characters
_VERSION = re.compile(r"\d+(\.\d+)*")


def detect(folder: Path, names: Set[str]) -> bool:
    """Whether a folder holds an RLDS dataset, or versions of one."""
    may_be_one = FEATURES in names or any(name[0].isdigit() and name.count(".") == 2 for name in names)
    return may_be_one and find_version(folder) is not None


def find_version(folder: Path) -> Path | None:
    """The folder with features.json: this one, or its highest version (bridge_dataset/1.0.0).

    >>> find_version(Path("bridge_dataset"))  # doctest: +SKIP
    PosixPath('bridge_dataset/1.0.0')
    """
    if _is_version(folder):
        return folder
    try:
        versions = [entry.name for entry in os.scandir(folder) if _VERSION.fullmatch(entry.name)]
    except OSError:
        return None
    ordered = sorted(versions, key=lambda name: [int(part) for part in name.split(".")], reverse=True)
    return next((folder / name for name in ordered if _is_version(folder / name)), None)


def list_episodes(source: str, options: ListOptions = DEFAULT_OPTIONS) -> Listing:
    """List the episodes of a dataset's folder, of all splits or of one.

    Ids are "train/000012": the split, and the episode's index within it, which is the same while shards are missing.
    By default the camera of the table is taken, or the first. Raises ValueError for a folder without such a dataset,
    without a readable episode, or without a requested camera or split.

    >>> list_episodes("bridge_dataset", ListOptions(split="val")).episodes[3].id  # doctest: +SKIP
    'val/000003'
    """
    root = find_version(Path(source))
    if root is None:
        raise ValueError(f"{source}: no RLDS dataset. Looked for {FEATURES} and {INFO} in it and in its versions")
    info = _load_info(root)
    name = info["name"]
    known = find_set(name)
    features = read_features(root / FEATURES)
    available = features.cameras()
    cameras, notes = choose_cameras(list(available), options.cameras, name, preferred=known.camera if known else None)
    signals = choose_signals(features, known)
    rate = float(known.rate) if known and known.rate else nan
    layout = RecordLayout({camera: available[camera] for camera in cameras}, signals, features.steps, rate)
    if known is not None and known.rate:
        notes.append(f"{known.rate:g} Hz, the control rate of {known.name} as published")
    notes += signals.notes
    if features.skipped:
        notes.append(f"not read: {', '.join(features.skipped)} (of a kind or shape without one fixed size a step)")
    episodes = []
    for split in _splits(info, options.split, root, notes):
        for index, (shard, offset, length) in split.records(root):
            reader = RldsReader(shard, offset, length, layout)
            episodes.append(
                Episode(f"{split.name}/{index:06d}", reader, cameras, index, available_signals=signals.available)
            )
        notes += split.notes
    if not episodes:
        raise ValueError(f"{root}: no episode can be read: {'; '.join(notes)}")
    return Listing("RLDS", name, episodes, notes, needs_rate=isnan(rate))


@dataclass(slots=True)
class _Split:
    """One split of dataset_info.json; `notes` are added while its records are listed."""

    name: str
    shards: list[str]
    lengths: list[int]
    notes: list[str] = field(default_factory=list)

    def records(self, root: Path) -> Iterator[tuple[int, tuple[Path, int, int]]]:
        """Index, and (shard, offset, length), of each record that can be found."""
        # An episode's index counts the episodes of all shards, also of missing ones, so that ids never change.
        first, missing = 0, []
        for shard, promised in zip(self.shards, self.lengths, strict=True):
            path = root / shard
            if not path.is_file():
                missing.append(shard)
                first += promised
                continue
            try:
                records = index_records(path)
            except OSError as error:
                self.notes.append(f"split {self.name}: {shard} cannot be read ({error.strerror})")
                first += promised
                continue
            count = len(records.offsets)
            for i, (offset, length) in enumerate(zip(records.offsets, records.lengths, strict=True)):
                yield first + i, (path, int(offset), int(length))
            if records.problem is not None:
                after = f"; {promised - count} episodes after it cannot be found" if promised > count else ""
                self.notes.append(f"split {self.name}: {shard}: {records.problem}{after}")
            elif count != promised:
                self.notes.append(f"split {self.name}: {shard} holds {count} episodes, {INFO} promises {promised}")
            first += max(promised, count)
        if missing:
            subject = f"its shard {missing[0]} is" if len(missing) == 1 else f"{len(missing)} of its shards are"
            others = f" ({missing[0]} and others)" if len(missing) > 1 else ""
            self.notes.append(f"split {self.name}: {subject} missing{others}")


def _is_version(folder: Path) -> bool:
    """Whether a folder holds one version of an RLDS dataset."""
    return (folder / FEATURES).is_file() and (folder / INFO).is_file()


def _load_info(root: Path) -> dict[str, Any]:
    """The content of dataset_info.json, with a name and a list of splits."""
    try:
        info = read_json(root / INFO)
        if not isinstance(info, dict) or not isinstance(info.get("splits"), list):
            raise ValueError("no list of splits in it")
    except (OSError, ValueError) as error:
        raise ValueError(f"{root / INFO}: not an RLDS dataset's ({error})") from error
    form = info.get("fileFormat") or "tfrecord"
    if form != "tfrecord":
        raise ValueError(
            f"{root}: its shards are {str(form)[:40]} files; tfrecord is read. Convert it with tfds convert_format"
        )
    name = info.get("name")
    return info | {"name": name if isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME else root.name}


def _splits(info: dict[str, Any], requested: str | None, root: Path, notes: list[str]) -> list[_Split]:
    """The splits, or the requested one; an invalid one is left out with a note.

    Raises ValueError where none is left, and for a requested one that does not exist.
    """
    splits, problems = [], []
    for entry in info["splits"]:
        try:
            splits.append(_split(entry, info["name"]))
        except ValueError as error:
            problems.append(f"{INFO}: a split of it is invalid ({error})")
    if not splits and problems:
        raise ValueError(f"{root}/{problems[0]}")
    if requested is not None and requested not in {split.name for split in splits}:
        names = ", ".join(split.name for split in splits)
        raise ValueError(f"{root}: no split {requested!r}. There are: {names}{''.join(f'; {p}' for p in problems[:1])}")
    notes += [f"{problems[0]}{f' and {len(problems) - 1} others' * (len(problems) > 1)}"] if problems else []
    return [split for split in splits if requested in (None, split.name)]


def _split(entry: Any, dataset: str) -> _Split:
    """One entry of dataset_info.json's splits. Raises ValueError for what is none."""
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        raise ValueError(f"{str(entry)[:60]!r} has no name")
    stated = entry.get("shardLengths", [])
    if not isinstance(stated, list) or len(stated) > _MOST_SHARDS:
        raise ValueError(f"{name!r}: shardLengths is no list of up to {_MOST_SHARDS:,} numbers")
    lengths = [_length(each, name) for each in stated]
    count = len(lengths)
    digits = max(5, len(str(count)))
    template = entry.get("filepathTemplate") or _TEMPLATE
    shards = []
    for i in range(count):
        index, total = f"{i:0{digits}d}", f"{count:0{digits}d}"
        values = {"SHARD_INDEX": index, "NUM_SHARDS": total, "SHARD_X_OF_Y": f"{index}-of-{total}"}
        values |= {"DATASET": dataset, "SPLIT": name, "FILEFORMAT": "tfrecord"}
        shard = os.path.normpath(format_template(template, values, f"split {name!r}"))
        if os.path.isabs(shard) or shard.startswith(".."):
            raise ValueError(f"{name!r}: its shard {shard!r} lies outside the dataset's folder")
        shards.append(shard)
    return _Split(name, shards, lengths)


def _length(value: Any, split: str) -> int:
    """The number of episodes of a shard, an integer or its digits."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value)):
        raise ValueError(f"{split!r}: shard length {str(value)[:40]!r} is no number of episodes")
    if not 0 <= int(value) <= _MOST_EPISODES:
        raise ValueError(f"{split!r}: shard length {str(value)[:40]}: takes 0 to {_MOST_EPISODES:,} episodes")
    return int(value)
