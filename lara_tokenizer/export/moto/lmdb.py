"""Moto's LMDB: one key per value of each step, all episodes one after the other.

cur_step                                              the last step's index
cur_episode_{i}  local_step_{i}                       episode and frame of step i
feature_dict_{i}                                      styles oxe and rt1: instruction and action
inst_{episode}  rgb_static_{i}  rel_action_{i}        style calvin: instruction, JPEG, action
latent_motion_ids_{i}  latent_motion_valid_{i}        our addition: codes int16 (N,), and whether to train on them
latent_motion_meta                                    our addition: a dict, where the codes come from

Keys and values as TencentARC/Moto at 4471f76 writes (data_preprocessing) and reads them (common/data/datasets.py).
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lara_tokenizer.errors import missing_extra

# A transaction is committed at so many steps, which have few bytes, or bytes, which images have.
_STEPS_AT_A_TIME = 16_384
_BYTES_AT_A_TIME = 32 * 2**20
_SLACK = 16 * 2**20  # for the pages of the tree above the leaves
DATABASE = "data.mdb"

# Moto unpickles every value with a plain `pickle.loads`, under Python 3.8 and numpy 1.24: protocol 3 suits both.
_PROTOCOL = 3
_PARTS_OF_ACTION = (("world_vector", 0, 3), ("rotation_delta", 3, 6), ("gripper_closedness_action", 6, 7))


@dataclass(frozen=True, slots=True)
class EpisodeSteps:
    """The steps of an episode of F frames.

    Attributes:
        codes: int16 (F, N), -1 without a label.
        valid: bool (F,), true with a label.
        texts: F instructions.
        actions: float32 (F, 7), or None.
        images: F JPEG files, for style calvin; None for the others.
    """

    codes: np.ndarray
    valid: np.ndarray
    texts: list[str]
    actions: np.ndarray | None = None
    images: list[Path] | None = None


def require_lmdb() -> None:
    """Raises ImportError where the lmdb package is not installed."""
    try:
        import lmdb  # noqa: F401
    except ImportError:
        raise missing_extra("lmdb", "moto") from None


def write_lmdb(folder: Path, episodes: Iterable[EpisodeSteps], meta: dict[str, Any]) -> None:
    """Write all episodes to a new LMDB.

    An existing one is removed first: a million steps take less than a minute, and an interrupted one has no part that
    is known to be complete.

    Args:
        folder: of `data.mdb`.
        episodes: consumed one at a time, numbered from 0.
        meta: the value of `latent_motion_meta`.

    Raises OSError in one line where it cannot be written, for example because the disk is full.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    batch = _Batch(folder)
    step = 0
    for index, episode in enumerate(episodes):
        _add(batch, episode, index, step)
        step += len(episode.codes)
        batch.commit_if_full()
    batch.put(b"cur_step", pickle.dumps(step - 1, _PROTOCOL))
    batch.put(b"latent_motion_meta", pickle.dumps(meta, _PROTOCOL))
    batch.commit(last=True)


def _add(batch: _Batch, episode: EpisodeSteps, index: int, first: int) -> None:
    """Add all values of an episode whose first frame is step `first`."""
    frames = len(episode.codes)
    batch.steps += frames
    batch.put_steps(b"cur_episode_%d", first, pickle_integers(np.full(frames, index)))
    batch.put_steps(b"local_step_%d", first, pickle_integers(np.arange(frames)))
    batch.put_steps(b"latent_motion_ids_%d", first, pickle_arrays(episode.codes))
    false, true = (pickle.dumps(value, _PROTOCOL) for value in (False, True))
    valid = [true if value else false for value in episode.valid.tolist()]
    batch.put_steps(b"latent_motion_valid_%d", first, valid)
    if episode.images is None:
        batch.put_steps(b"feature_dict_%d", first, _features(episode))
        return
    batch.put(b"inst_%d" % index, pickle.dumps(episode.texts[0], _PROTOCOL))
    if episode.actions is not None:
        batch.put_steps(b"rel_action_%d", first, pickle_tensors(episode.actions))
    for offset, image in enumerate(episode.images):
        jpeg = np.frombuffer(image.read_bytes(), np.uint8)
        batch.put_steps(b"rgb_static_%d", first + offset, pickle_tensors(jpeg[None]))
        batch.commit_if_full()  # not at the end of the episode only: its images may not fit in memory


def _features(episode: EpisodeSteps) -> list[bytes]:
    """The pickled `feature_dict` of each frame; frames with one instruction are pickled together."""
    starts = [0, *(i for i in range(1, len(episode.texts)) if episode.texts[i] != episode.texts[i - 1])]
    pickles: list[bytes] = []
    for start, stop in zip(starts, [*starts[1:], len(episode.texts)], strict=True):
        actions = None if episode.actions is None else episode.actions[start:stop]
        pickles += pickle_features(episode.texts[start], actions, stop - start)
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
        """Add one value."""
        self._add([key], [value])

    def put_steps(self, pattern: bytes, first: int, pickles: list[bytes]) -> None:
        """Add one value per step, from `first` on."""
        self._add([pattern % step for step in range(first, first + len(pickles))], pickles)

    def _add(self, keys: list[bytes], pickles: list[bytes]) -> None:
        self._runs.append((keys, pickles))
        self._bytes += sum(map(len, pickles))

    def commit_if_full(self) -> None:
        """Commit at a point that depends on the values alone: equal values give equal files."""
        if self.steps >= _STEPS_AT_A_TIME or self._bytes >= _BYTES_AT_A_TIME:
            self.commit()

    def commit(self, last: bool = False) -> None:
        """Write everything that waits; `last` syncs the file to disk."""
        import lmdb

        # Keys that are neighbours in the file are written one after the other, which keeps its pages full.
        self._runs.sort(key=lambda run: run[0][0].rstrip(b"0123456789"))
        try:
            self._write(last)
        except lmdb.Error as error:  # not an OSError
            raise OSError(f"the LMDB in {self._folder}: {error}; make room if that disk is full") from error
        self.steps = 0
        self._bytes = 0
        self._runs = []

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
        """The largest size that the file can grow to: each value may need pages of its own, and is copied once."""
        file = self._folder / DATABASE
        size = file.stat().st_size if file.exists() else 0
        pages = sum(2 + len(pickled) // 2048 for _, pickles in self._runs for pickled in pickles)
        return -(-(size + pages * 4096 + _SLACK) // _SLACK) * _SLACK


# --- Values -----------------------------------------------------------------------------------------------------------
# Arrays are pickled as calls of public names that all versions of numpy have, not as this numpy pickles its own. With
# `pickle.dumps` per row an export without images would take 2.3 to 4.2 times as long (measured on 20,000 steps): so one
# pickle is a template with a hole for the bytes of a row, and numpy fills the holes of all rows at once.


def pickle_integers(values: np.ndarray) -> list[bytes]:
    """Pickles of R Python ints that fit 32 bits."""
    rows = np.ascontiguousarray(values, "<i4").reshape(-1, 1)
    return _fill([b"\x80\x03J", b"."], [rows])  # BININT, STOP


def pickle_arrays(rows: np.ndarray) -> list[bytes]:
    """Pickles of the rows of (R, n), each a writable numpy array (n,)."""
    return _fill(_split(pickle.dumps(_RowTemplate(rows), _PROTOCOL), [rows]), [rows])


def pickle_tensors(rows: np.ndarray) -> list[bytes]:
    """Pickles of the rows of (R, n), each a torch tensor (n,); the reader needs torch, this process does not."""
    array = pickle.dumps(_RowTemplate(rows), _PROTOCOL)
    # As pickle writes torch.from_numpy(array): GLOBAL, the array without its PROTO and STOP, TUPLE1, REDUCE, STOP.
    template = b"\x80\x03ctorch\nfrom_numpy\n" + array[2:-1] + b"\x85R."
    return _fill(_split(template, [rows]), [rows])


def pickle_features(text: str, actions: np.ndarray | None, rows: int) -> list[bytes]:
    """Pickles of the parts of an RLDS step that Moto reads (`feature_dict`).

    Args:
        text: the instruction of these rows.
        actions: float32 (R, 7) as in RT-1: position 3, rotation 3, gripper 1; or None.
        rows: R.
    """
    step: dict[str, Any] = {"observation": {"natural_language_instruction": text.encode()}}
    if actions is None:
        return [pickle.dumps(step, _PROTOCOL)] * rows
    parts = [np.ascontiguousarray(actions[:, start:stop]) for _, start, stop in _PARTS_OF_ACTION]
    step["action"] = {name: _RowTemplate(part) for (name, _, _), part in zip(_PARTS_OF_ACTION, parts, strict=True)}
    return _fill(_split(pickle.dumps(step, _PROTOCOL), parts), parts)


class _RowTemplate:
    """A row of (R, n) with a hole for its bytes; pickles as `numpy.ndarray((n,), dtype, bytearray(hole))`."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def __reduce__(self) -> tuple[Any, ...]:
        rows = self._rows
        return np.ndarray, (rows.shape[1:], rows.dtype.newbyteorder("<").str, bytearray(_hole(rows)))


def _hole(rows: np.ndarray) -> bytes:
    """Bytes as long as a row that occur neither in UTF-8 text nor in the opcodes of a template."""
    return b"\xfe" + b"\xff" * (rows.shape[1] * rows.itemsize - 1)


def _split(template: bytes, columns: list[np.ndarray]) -> list[bytes]:
    """The constant bytes before, between and after the holes."""
    constants = []
    for rows in columns:
        before, hole, template = template.partition(_hole(rows))
        assert hole
        constants.append(before)
    return [*constants, template]


def _fill(constants: list[bytes], columns: list[np.ndarray]) -> list[bytes]:
    """One pickle per row: the constant bytes, with the row's bytes of each column between them."""
    rows = len(columns[0])
    if not rows:
        return []
    blocks = [np.frombuffer(constants[0], np.uint8)[None].repeat(rows, 0)]
    for column, constant in zip(columns, constants[1:], strict=True):
        little = np.ascontiguousarray(column, column.dtype.newbyteorder("<"))
        blocks += [little.view(np.uint8), np.frombuffer(constant, np.uint8)[None].repeat(rows, 0)]
    data = np.concatenate(blocks, 1)
    width = data.shape[1]
    flat = data.tobytes()
    return [flat[start:stop] for start, stop in pairwise(range(0, len(flat) + 1, width))]
