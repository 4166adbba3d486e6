"""RLDS datasets, as TFDS writes them and as Open X-Embodiment is published: read without TensorFlow.

    features.json                                what a step holds
    dataset_info.json                            splits, and how many episodes each shard of them has
    <name>-<split>.tfrecord-00000-of-00004       shards, one record an episode

RLDS states no control rate: it comes from the table of published sets (`oxe`), or from a person.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any

from lara_tokenizer.data.episode import Episode
from lara_tokenizer.data.listing import Found, choose_cameras
from lara_tokenizer.data.rlds import open_x as oxe
from lara_tokenizer.data.rlds import tfrecord
from lara_tokenizer.data.rlds.features import read_features
from lara_tokenizer.data.rlds.reader import RecordPlan, RldsReader
from lara_tokenizer.data.rlds.signals import choose_signals

FEATURES, INFO = "features.json", "dataset_info.json"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_VERSION = re.compile(r"\d+(\.\d+)*")


def is_rlds(folder: Path) -> bool:
    """Whether a folder holds one version of an RLDS dataset."""
    return (folder / FEATURES).is_file() and (folder / INFO).is_file()


def rlds_root(folder: Path) -> Path | None:
    """The folder with features.json: this one, or its highest version (bridge_dataset/1.0.0).

    >>> rlds_root(Path("bridge_dataset"))  # doctest: +SKIP
    PosixPath('bridge_dataset/1.0.0')
    """
    if is_rlds(folder):
        return folder
    try:
        versions = [entry.name for entry in os.scandir(folder) if _VERSION.fullmatch(entry.name)]
    except OSError:
        return None
    ordered = sorted(versions, key=lambda name: [int(part) for part in name.split(".")], reverse=True)
    return next((folder / name for name in ordered if is_rlds(folder / name)), None)


def find_rlds(folder: Path, *, cameras: Sequence[str] = (), split: str | None = None) -> Found:
    """List the episodes of a dataset, of all splits or of one. Only the records' headers are read.

    Ids are "train/000012": the split, and the episode's number within it, which stays the same while shards are
    missing. `cameras` are names ("image_0"), their last parts or "all"; none given takes the table's, or the first.
    Raises ValueError for what is no such dataset, has nothing to read, or lacks a camera or the split.

    >>> find_rlds(Path("bridge_dataset"), split="val").episodes[3].id  # doctest: +SKIP
    'val/000003'
    """
    root = rlds_root(folder)
    if root is None:
        raise ValueError(f"{folder}: no RLDS dataset. Looked for {FEATURES} and {INFO} in it and in its versions")
    info = _load_info(root)
    name = str(info.get("name") or root.name)
    row = oxe.find(name)
    features = read_features(root / FEATURES)
    available = features.cameras()
    chosen, notes = choose_cameras(list(available), cameras, name, preferred=row.camera if row else None)
    signals = choose_signals(features, row)
    rate = float(row.rate) if row and row.rate else nan
    plan = RecordPlan({camera: available[camera] for camera in chosen}, signals, features.steps, rate)
    if row is not None and row.rate:
        notes.append(f"{row.rate:g} Hz, the control rate of {row.name} as published")
    notes += signals.notes
    if features.skipped:
        notes.append(f"not read: {', '.join(features.skipped)} (of a kind or shape without one fixed size a step)")
    episodes = []
    for each in _splits(info, split, root):
        episodes += [
            Episode(f"{each.name}/{number:06d}", RldsReader(*place, plan), chosen, number, offers=signals.offers)
            for number, place in each.records(root)
        ]
        notes += each.notes
    if not episodes:
        raise ValueError(f"{root}: no episode can be read: {'; '.join(notes)}")
    return Found("RLDS", name, episodes, notes, needs_rate=isnan(rate))


@dataclass(slots=True)
class _Split:
    """A split as dataset_info.json has it; `notes` are filled while its records are listed."""

    name: str
    shards: list[str]
    lengths: list[int]
    notes: list[str] = field(default_factory=list)

    def records(self, root: Path) -> Iterator[tuple[int, tuple[Path, int, int]]]:
        """The number, shard, offset and length of each record that can be found."""
        number, missing = 0, []
        for shard, promised in zip(self.shards, self.lengths, strict=True):
            path = root / shard
            if not path.is_file():
                missing.append(shard)
                number += promised
                continue
            try:
                index = tfrecord.index(path)
            except OSError as error:
                self.notes.append(f"split {self.name}: {shard} cannot be read ({error.strerror})")
                number += promised
                continue
            count = len(index.offsets)
            yield from enumerate(
                ((path, int(offset), int(length)) for offset, length in zip(index.offsets, index.lengths, strict=True)),
                number,
            )
            if index.problem is not None:
                after = f"; {promised - count} episodes after it cannot be found" if promised > count else ""
                self.notes.append(f"split {self.name}: {shard}: {index.problem}{after}")
            elif count != promised:
                self.notes.append(f"split {self.name}: {shard} holds {count} episodes, {INFO} promises {promised}")
            number += max(promised, count)
        if missing:
            more = f"its shard {missing[0]} is" if len(missing) == 1 else f"{len(missing)} of its shards are"
            other = f" ({missing[0]} and others)" if len(missing) > 1 else ""
            self.notes.append(f"split {self.name}: {more} missing{other}")


def _load_info(root: Path) -> dict[str, Any]:
    try:
        info = json.loads((root / INFO).read_text(encoding="utf-8"))
        if not isinstance(info.get("splits"), list):
            raise ValueError("no list of splits in it")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{root / INFO}: not an RLDS dataset's ({error})") from error
    form = info.get("fileFormat") or "tfrecord"
    if form != "tfrecord":
        raise ValueError(f"{root}: its shards are {form} files; tfrecord is read. Convert it with tfds convert_format")
    return info


def _splits(info: dict[str, Any], asked: str | None, root: Path) -> list[_Split]:
    try:
        splits = [_split(entry, str(info.get("name") or "")) for entry in info["splits"]]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{root / INFO}: a split of it makes no sense ({error!r})") from error
    if asked is None:
        return splits
    if not (of_name := [each for each in splits if each.name == asked]):
        names = ", ".join(each.name for each in splits)
        raise ValueError(f"{root}: no split {asked!r}. There are: {names}")
    return of_name


def _split(entry: dict[str, Any], dataset: str) -> _Split:
    lengths = [int(length) for length in entry.get("shardLengths", ())]
    count = len(lengths)
    digits = max(5, len(str(count)))
    template = entry.get("filepathTemplate") or _TEMPLATE
    shards = []
    for number in range(count):
        first, last = f"{number:0{digits}d}", f"{count:0{digits}d}"
        names = {"SHARD_INDEX": first, "NUM_SHARDS": last, "SHARD_X_OF_Y": f"{first}-of-{last}"}
        shards.append(template.format(DATASET=dataset, SPLIT=entry["name"], FILEFORMAT="tfrecord", **names))
    return _Split(entry["name"], shards, lengths)
