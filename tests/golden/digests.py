"""Digests of outputs, without what differs between equal runs: times, prose and files of working state."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Sentences for people inside JSON: their wording is free, that they are there is not.
PROSE = {"verdict", "sentence", "reason", "health", "notes", "note", "made_differently"}
# Clock times, speeds, and how much of a job an earlier run had done.
VOLATILE = re.compile(r"seconds$|_per_second$|runtime$|^wall|^resumed$|^video_bytes$")
# Trainer's state holds pickled classes of this package and times; the weights beside it are recorded.
WORKING_STATE = {"checkpoints", "logs", "lock.mdb"}
FREE_SUFFIXES = {".html", ".md", ".py"}


def sha256(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def canonical(value: Any, prose: list[str]) -> Any:
    """`value` without volatile entries; sentences move to the list `prose`."""
    if isinstance(value, dict):
        result = {}
        for key, item in value.items():
            if VOLATILE.search(key):
                continue
            if key in PROSE:
                prose.append(json.dumps(item))
                item = [] if not item else type(item).__name__
            result[key] = canonical(item, prose)
        return result
    if isinstance(value, list):
        return [canonical(item, prose) for item in value]
    return value


def json_digests(text: str, name: str) -> Iterator[tuple[str, str, str]]:
    """(class, name, digest) of each entry of JSON, or of JSON lines; the order of keys is free, as is prose."""
    prose: list[str] = []
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = [json.loads(line) for line in text.splitlines()]
    value = canonical(value, prose)
    for key, item in value.items() if isinstance(value, dict) else [("all", value)]:
        yield "equal", f"{name}#{key}", sha256(json.dumps(item, sort_keys=True))
    yield "free", f"{name}, order of keys", sha256(json.dumps(value))
    yield "free", f"{name}, prose", sha256("\n".join(prose))


def tree_digests(root: Path) -> Iterator[tuple[str, str, str]]:
    """(class, relative path, digest) of every file below `root`, or of the one file that it is."""
    if root.is_file():
        yield from _file_digests(root, root.name)
        return
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and not WORKING_STATE & set(name.parts):
            yield from _file_digests(path, name.as_posix())


def _file_digests(path: Path, name: str) -> Iterator[tuple[str, str, str]]:
    if path.name == "data.mdb":
        yield "equal", name, _lmdb_digest(path.parent)
    elif path.suffix in FREE_SUFFIXES:
        yield "free", name, sha256(path.read_bytes())
    elif path.suffix in (".json", ".jsonl") and _has_noise(text := path.read_text(encoding="utf-8")):
        yield from json_digests(text, name)
    else:
        yield "equal", name, sha256(path.read_bytes())


def _has_noise(text: str) -> bool:
    """True if `canonical` would change this JSON; other files count byte for byte."""
    keys = set(re.findall(r'"(\w+)":', text))
    return bool(keys & PROSE) or any(VOLATILE.search(key) for key in keys)


def _lmdb_digest(folder: Path) -> str:
    """Of keys and values: free pages of the file hold what was there before."""
    import lmdb

    digest = hashlib.sha256()
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        for key, value in transaction.cursor():
            digest.update(b"%d %d " % (len(key), len(value)) + key + value)
    return digest.hexdigest()
