"""Moto's LMDB: a key for each value of each step, all episodes one after the other.

cur_step                                              the last step's number
cur_episode_{i}  local_step_{i}                       episode and frame of step i
feature_dict_{i}                                      styles oxe and rt1: instruction and action
inst_{episode}  rgb_static_{i}  rel_action_{i}        style calvin: instruction, JPEG, action
latent_motion_ids_{i}  latent_motion_valid_{i}        ours: codes int16 (N,), and whether they are to be trained on
latent_motion_meta                                    ours: a dict, where the codes come from

Keys and values as TencentARC/Moto at 4471f76 writes (data_preprocessing) and reads them (common/data/datasets.py).
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lara_tokenizer.errors import missing_extra
from lara_tokenizer.export import moto_values as values

# What waits for a transaction, at most: steps of few bytes, or bytes of pictures.
_STEPS_AT_A_TIME = 16_384
_BYTES_AT_A_TIME = 32 * 2**20
_SLACK = 16 * 2**20  # for the pages of the tree above the leaves
_FILE = "data.mdb"


@dataclass(frozen=True, slots=True)
class Steps:
    """An episode of F frames.

    Fields:
        codes: int16 (F, N), -1 where there is no label.
        valid: bool (F,).
        texts: F instructions.
        actions: float32 (F, 7), or None.
        pictures: F JPEG files, for style calvin; None for the others.
    """

    codes: np.ndarray
    valid: np.ndarray
    texts: list[str]
    actions: np.ndarray | None = None
    pictures: list[Path] | None = None


def need_lmdb() -> None:
    """Raises ImportError where the lmdb package is not installed."""
    try:
        import lmdb  # noqa: F401
    except ImportError:
        raise missing_extra("lmdb", "moto") from None


def write_lmdb(folder: Path, episodes: Iterable[Steps], meta: dict[str, Any]) -> None:
    """Write all episodes to a new LMDB. What is there is removed first: a build takes less than a minute a million
    steps, and one that was cut short holds nothing that is known to be whole.

    Args:
        folder: of `data.mdb`.
        episodes: asked for one at a time, numbered from 0.
        meta: the value of `latent_motion_meta`.

    Raises OSError in one line where it cannot be written, say because the disk is full.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    batch = _Batch(folder)
    step = 0
    for number, episode in enumerate(episodes):
        _add(batch, episode, number, step)
        step += len(episode.codes)
        batch.commit_if_full()
    batch.put(b"cur_step", pickle.dumps(step - 1, 3))
    batch.put(b"latent_motion_meta", pickle.dumps(meta, 3))
    batch.commit(last=True)


def _add(batch: _Batch, episode: Steps, number: int, first: int) -> None:
    frames = len(episode.codes)
    batch.steps += frames
    batch.put_steps(b"cur_episode_%d", first, values.integers(np.full(frames, number)))
    batch.put_steps(b"local_step_%d", first, values.integers(np.arange(frames)))
    batch.put_steps(b"latent_motion_ids_%d", first, values.arrays(episode.codes))
    batch.put_steps(b"latent_motion_valid_%d", first, values.flags(episode.valid))
    if episode.pictures is None:
        batch.put_steps(b"feature_dict_%d", first, _features(episode))
        return
    batch.put(b"inst_%d" % number, pickle.dumps(episode.texts[0], 3))
    if episode.actions is not None:
        batch.put_steps(b"rel_action_%d", first, values.tensors(episode.actions))
    for place, picture in enumerate(episode.pictures):
        jpeg = np.frombuffer(picture.read_bytes(), np.uint8)
        batch.put_steps(b"rgb_static_%d", first + place, values.tensors(jpeg[None]))
        batch.commit_if_full()


def _features(episode: Steps) -> list[bytes]:
    """`feature_dict` of each frame; a run of frames has one instruction."""
    starts = [0, *(i for i in range(1, len(episode.texts)) if episode.texts[i] != episode.texts[i - 1])]
    pickles: list[bytes] = []
    for start, stop in zip(starts, [*starts[1:], len(episode.texts)], strict=True):
        actions = None if episode.actions is None else episode.actions[start:stop]
        pickles += values.features(episode.texts[start], actions, stop - start)
    return pickles


class _Batch:
    """Keys and values that wait for one transaction.

    The database is opened for each transaction and closed after it: its pages are mapped into memory and would stay
    there, so that memory would grow with the file.
    """

    def __init__(self, folder: Path) -> None:
        self.steps = 0
        self._bytes = 0
        self._folder = folder
        self._runs: list[tuple[list[bytes], list[bytes]]] = []

    def put(self, key: bytes, value: bytes) -> None:
        self._add([key], [value])

    def put_steps(self, pattern: bytes, first: int, pickles: list[bytes]) -> None:
        """One value for each step from `first` on."""
        self._add([pattern % step for step in range(first, first + len(pickles))], pickles)

    def _add(self, keys: list[bytes], pickles: list[bytes]) -> None:
        self._runs.append((keys, pickles))
        self._bytes += sum(map(len, pickles))

    def commit_if_full(self) -> None:
        """When that is follows from what was put alone: equal values give equal files."""
        if self.steps >= _STEPS_AT_A_TIME or self._bytes >= _BYTES_AT_A_TIME:
            self.commit()

    def commit(self, last: bool = False) -> None:
        import lmdb

        # Keys that are neighbours in the file, one after the other.
        self._runs.sort(key=lambda run: run[0][0].rstrip(b"0123456789"))
        try:
            self._write(last)
        except lmdb.Error as error:  # no OSError of its own
            raise OSError(f"the LMDB in {self._folder}: {error}; make room if that disk is full") from error
        self.steps, self._bytes, self._runs = 0, 0, []

    def _write(self, last: bool) -> None:
        import lmdb

        environment = lmdb.open(str(self._folder), map_size=self._room(), lock=False, sync=False, readahead=False)
        try:
            with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                for keys, pickles in self._runs:
                    cursor.putmulti(zip(keys, pickles, strict=True))
            if last:
                environment.sync(True)
        finally:
            environment.close()

    def _room(self) -> int:
        """The most that the file can grow to: each value may need pages of its own, and is copied once."""
        file = self._folder / _FILE
        size = file.stat().st_size if file.exists() else 0
        pages = sum(2 + len(pickled) // 2048 for _, pickles in self._runs for pickled in pickles)
        return -(-(size + pages * 4096 + _SLACK) // _SLACK) * _SLACK
