"""The values of Moto's LMDB: pickles, made for many rows at once.

Moto unpickles every value with a plain `pickle.loads`, under Python 3.8 and numpy 1.24. So arrays are written as calls
of public names that all versions have, not as this numpy pickles its own, and with protocol 3. Pickling row by row
would take a minute a million rows: here one pickle is a template, and the bytes that differ are put in place by numpy.
"""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import numpy as np

_PROTOCOL = 3
_PARTS_OF_ACTION = (("world_vector", 0, 3), ("rotation_delta", 3, 6), ("gripper_closedness_action", 6, 7))
ACTION_WIDTH = 7


def integers(values: np.ndarray) -> list[bytes]:
    """Pickles of R Python ints that fit 32 bits."""
    rows = np.ascontiguousarray(values, "<i4").reshape(-1, 1)
    return _filled([b"\x80\x03J", b"."], [rows])  # BININT, STOP


def flags(values: np.ndarray) -> list[bytes]:
    """Pickles of R Python bools."""
    false, true = (pickle.dumps(value, _PROTOCOL) for value in (False, True))
    return [true if value else false for value in values.tolist()]


def arrays(rows: np.ndarray) -> list[bytes]:
    """Pickles of the rows of (R, n), each a writable numpy array (n,)."""
    return _filled(_split(_Array(rows), [rows]), [rows])


def tensors(rows: np.ndarray) -> list[bytes]:
    """Pickles of the rows of (R, n), each a torch tensor (n,); torch is needed where they are read, not here."""
    array = pickle.dumps(_Array(rows), _PROTOCOL)
    # As pickle writes torch.from_numpy(array): GLOBAL, the array without its PROTO and STOP, TUPLE1, REDUCE, STOP.
    whole = b"\x80\x03ctorch\nfrom_numpy\n" + array[2:-1] + b"\x85R."
    return _filled(_split_bytes(whole, [rows]), [rows])


def features(text: str, actions: np.ndarray | None, rows: int) -> list[bytes]:
    """Pickles of `feature_dict` of RLDS steps, as far as Moto reads them.

    Args:
        text: the instruction of these rows.
        actions: float32 (R, 7) as RT-1 has them: position 3, rotation 3, gripper 1; None where there are none.
        rows: R.
    """
    step: dict[str, Any] = {"observation": {"natural_language_instruction": text.encode()}}
    if actions is None:
        return [pickle.dumps(step, _PROTOCOL)] * rows
    parts = [np.ascontiguousarray(actions[:, start:stop]) for _, start, stop in _PARTS_OF_ACTION]
    step["action"] = {name: _Array(part) for (name, _, _), part in zip(_PARTS_OF_ACTION, parts, strict=True)}
    return _filled(_split(step, parts), parts)


class _Array:
    """Stands for a row of (R, n) in a template: pickles as `numpy.ndarray((n,), dtype, bytearray(hole))`."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def __reduce__(self) -> tuple[Any, ...]:
        rows = self._rows
        return np.ndarray, (rows.shape[1:], rows.dtype.newbyteorder("<").str, bytearray(_hole(rows)))


def _hole(rows: np.ndarray) -> bytes:
    """Bytes as long as a row, which neither UTF-8 text nor the opcodes of a template hold."""
    return b"\xfe" + b"\xff" * (rows.shape[1] * rows.itemsize - 1)


def _split(template: object, columns: list[np.ndarray]) -> list[bytes]:
    return _split_bytes(pickle.dumps(template, _PROTOCOL), columns)


def _split_bytes(pickled: bytes, columns: list[np.ndarray]) -> list[bytes]:
    """What stands before, between and after the holes."""
    pieces = []
    for rows in columns:
        before, hole, pickled = pickled.partition(_hole(rows))
        assert hole
        pieces.append(before)
    return [*pieces, pickled]


def _filled(pieces: list[bytes], columns: list[np.ndarray]) -> list[bytes]:
    """One pickle a row: the pieces, with the row's bytes of each column between them."""
    rows = len(columns[0])
    if not rows:
        return []
    blocks = [np.frombuffer(pieces[0], np.uint8)[None].repeat(rows, 0)]
    for column, piece in zip(columns, pieces[1:], strict=True):
        little = np.ascontiguousarray(column, column.dtype.newbyteorder("<"))
        blocks += [little.view(np.uint8), np.frombuffer(piece, np.uint8)[None].repeat(rows, 0)]
    data = np.concatenate(blocks, 1)
    width = data.shape[1]
    flat = data.tobytes()
    return [flat[start:stop] for start, stop in pairwise(range(0, len(flat) + 1, width))]
