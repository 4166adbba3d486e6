"""Damage to a file of any format: flipped bits, lost and foreign bytes, moved chunks, false numbers."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random

Mutation = Callable[[Random, bytes], bytes]

# Numbers at which sizes, counts and offsets overflow, and those that look harmless.
NUMBERS = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**48,
    2**63 - 1,
    2**64 - 1,
)


def flip_bits(rng: Random, data: bytes) -> bytes:
    """1 to 32 single bits flipped, as a failing disk or memory does."""
    damaged = bytearray(data)
    for _ in range(2 ** rng.randrange(6)):
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def zero_run(rng: Random, data: bytes) -> bytes:
    """A run of zeros, as a download with holes or a file system after a power cut leaves it."""
    first, stop = _run(rng, len(data))
    return data[:first] + bytes(stop - first) + data[stop:]


def truncate(rng: Random, data: bytes) -> bytes:
    """The file's beginning, or rarely nothing."""
    return data[: rng.randrange(len(data)) if rng.random() < 0.95 else 0]


def insert_noise(rng: Random, data: bytes) -> bytes:
    """Foreign bytes in between."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(2 ** rng.randrange(11)) + data[at:]


def delete_run(rng: Random, data: bytes) -> bytes:
    """A run of bytes left out; what follows moves up."""
    first, stop = _run(rng, len(data))
    return data[:first] + data[stop:]


def swap_chunks(rng: Random, data: bytes) -> bytes:
    """Two neighbouring runs exchanged."""
    one, two, three = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:one] + data[two:three] + data[one:two] + data[three:]


def repeat_run(rng: Random, data: bytes) -> bytes:
    """A run of bytes twice."""
    first, stop = _run(rng, len(data))
    return data[:stop] + data[first:]


def edit_number(rng: Random, data: bytes) -> bytes:
    """A number of 1 to 8 bytes overwritten: perhaps a length, a count, an offset or a time."""
    width, code = rng.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q")))
    if len(data) < width:
        return data + b"\xff"
    at = rng.randrange(len(data) - width + 1)
    order = rng.choice("<>")
    (number,) = struct.unpack_from(order + code, data, at)
    edited = rng.choice((*NUMBERS, number + 1, number - 1, number * 2)) % 2 ** (8 * width)
    return data[:at] + struct.pack(order + code, edited) + data[at + width :]


BYTE_MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, zero_run, truncate, insert_noise, delete_run, swap_chunks, repeat_run, edit_number,
)  # fmt: skip


def splice(rng: Random, data: bytes, donors: Sequence[bytes]) -> bytes:
    """The beginning of one file and the end of another; or both files one after the other."""
    other = rng.choice(donors) if donors else data
    if rng.random() < 0.3:
        return data + other
    share = rng.random()
    return data[: int(share * len(data))] + other[int(share * len(other)) :]


def _run(rng: Random, length: int) -> tuple[int, int]:
    """Ends of a run of bytes: mostly short, seldom a large part of the file."""
    first = rng.randrange(length)
    return first, min(length, first + 1 + int(length ** rng.random()))
