"""A safe reader of LWM's weights file `vqgan`, a pickle of nested dicts of arrays.

A pickle can call any function by name while it is read. Here the few names that arrays and dicts need are mapped to
functions of this file, and every other name is an error. Arrays are built from shape, type and bytes, not by numpy's
own readers, so that no array of arbitrary objects can be read. Neither jax nor flax is needed.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_TYPES = {"f2": np.float16, "f4": np.float32, "f8": np.float64}
_MOST_PARTS = 10_000  # LWM has some 300 arrays
_MOST_MEMO = 10_000_000
_DEEPEST = 16  # nested dicts; LWM has 6, and a dict that contains itself would never end


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a pickle of nested dicts by their joined keys: {"encoder/Conv_0/bias": ...}.

    Raises:
        ValueError: for a missing file, and for anything but a pickle of dicts and arrays of floats.
    """
    try:
        with path.open("rb") as file:
            _check_memo(file)
            file.seek(0)
            content = _OnlyArrays(file).load()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file. Name LWM's file vqgan, or another pickle of its weights.") from None
    except _Refused as error:
        raise ValueError(f"{path} {error}. It may do harm and is not read: take LWM's own file vqgan.") from None
    except Exception as error:  # a broken pickle raises nearly anything
        raise ValueError(f"{path} is no whole pickle of weights ({type(error).__name__}: {error})") from error
    return dict(_leaves(content, path))


def _check_memo(file: BinaryIO) -> None:
    """Raise _Refused for an index by which the unpickler would allocate a list of billions."""
    try:
        for operation, argument, _ in pickletools.genops(file):
            if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > _MOST_MEMO:
                raise _Refused(f"stores its object number {argument:,}")
    except ValueError as error:  # what it cannot follow is not left to the unpickler
        raise pickle.UnpicklingError(str(error)) from error


class _Refused(Exception):
    """Content of a pickle that is refused."""


class _OnlyArrays(pickle.Unpickler):
    """An unpickler that resolves only the names in `_TAKEN`."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _TAKEN:
            raise _Refused(f"names {module}.{name}, and only plain arrays and dicts are taken")
        return _TAKEN[module, name]

    def persistent_load(self, pid: object) -> Any:
        raise _Refused("points to something outside of it, and only plain arrays and dicts are taken")


class _Marker:
    """Placeholder for a class that is named and not used."""


class _Type:
    """A numpy dtype, pickled as a short name and then the byte order."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or name not in _TYPES:
            raise _Refused(f"holds an array of type {name!r}, and only floats are taken")
        self.dtype = np.dtype(_TYPES[name])

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">"):
            raise _Refused(f"holds an array of byte order {state[1]!r}")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """A numpy array, pickled as an empty array and then its shape, type and bytes."""

    values: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, data = state
        self.values = _array(data, kind, shape, "F" if by_columns else "C")


def _array(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    if not (isinstance(data, (bytes, bytearray)) and isinstance(kind, _Type)):
        raise _Refused("holds an array that is not plain bytes")
    return np.frombuffer(data, kind.dtype).reshape(shape, order=order)


def _empty_array(*_: object) -> _Array:
    return _Array()


def _of_buffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.values = _array(data, kind, shape, order)
    return array


def _jax_array(make: Any, arguments: Any, state: Any, of_jax: object) -> _Array:
    """Rebuild a jax array, which is pickled like the numpy array in parts."""
    if make is not _empty_array:
        raise _Refused("holds a jax array of another kind")
    array = _Array()
    array.__setstate__(state)
    return array


def _dict(content: Any = ()) -> dict[Any, Any]:
    return dict(content)


# Keys: the names that different versions of numpy, jax and flax write.
_TAKEN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Marker,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.numeric", "_frombuffer"): _of_buffer,
    ("numpy._core.numeric", "_frombuffer"): _of_buffer,
    ("jax._src.array", "_reconstruct_array"): _jax_array,
    ("jax._src.device_array", "reconstruct_device_array"): _jax_array,
    ("flax.core.frozen_dict", "FrozenDict"): _dict,
    ("collections", "OrderedDict"): _dict,
}


def _leaves(content: Any, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Joined keys and arrays. Raises ValueError for other content, and for more than `_MOST_PARTS` dicts and arrays."""
    pending, seen = [("", content)], 0
    while pending:
        prefix, value = pending.pop()
        seen += 1
        if seen > _MOST_PARTS:  # dicts that are stored once may contain each other any number of times
            raise ValueError(f"{path} holds more than {_MOST_PARTS:,} dicts and arrays: take LWM's own file vqgan")
        if isinstance(value, _Array) and value.values is not None:
            yield prefix, value.values
        elif isinstance(value, dict) and prefix.count("/") < _DEEPEST:
            pending += [(f"{prefix}/{key}" if prefix else str(key), each) for key, each in reversed(value.items())]
        else:
            raise ValueError(f"{path} holds {type(value).__name__} at {prefix or 'its top'!r}: takes dicts of arrays")
