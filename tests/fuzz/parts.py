"""Damage that knows the format: boxes, elements, chunks, pages and records are dropped, repeated, exchanged, resized.

Each format is one function from bytes to `Part`s. Damage that keeps the structure reaches code behind the parser, which
random bytes hardly ever do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from fuzz.byte_mutations import NUMBERS, edit_number, flip_bits


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a file, with its header: bytes `start` to `stop`, of which `body` is the first after the header."""

    start: int
    stop: int
    body: int
    name: bytes = b""
    size: tuple[int, str] | None = None
    """Position and `struct` format of its size, where it has one."""


def mp4_boxes(data: bytes) -> Iterator[Part]:
    """Boxes of mp4 and mov, with those within boxes."""
    holders = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex", b"udta", b"dinf"}
    yield from _boxes(data, 0, len(data), holders)


def _boxes(data: bytes, start: int, stop: int, holders: set[bytes]) -> Iterator[Part]:
    while start + 8 <= stop:
        size, name = struct.unpack_from(">I4s", data, start)
        end = start + size
        if size < 8 or end > stop:
            return
        yield Part(start, end, start + 8, name, (start, ">I"))
        if name in holders:
            yield from _boxes(data, start + 8, end, holders)
        start = end


def riff_chunks(data: bytes) -> Iterator[Part]:
    """Chunks of AVI, with those within lists."""

    def chunks(start: int, stop: int) -> Iterator[Part]:
        while start + 8 <= stop:
            name, size = struct.unpack_from("<4sI", data, start)
            end = start + 8 + size + size % 2
            if end > stop + 1:
                return
            yield Part(start, min(end, stop), start + 8, name, (start + 4, "<I"))
            if name in (b"RIFF", b"LIST"):
                yield from chunks(start + 12, min(end, stop))
            start = end

    yield from chunks(0, len(data))


def ebml_elements(data: bytes) -> Iterator[Part]:
    """Elements of mkv and webm, with those within segment, clusters, tracks and cues."""
    holders = {b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75", b"\x16\x54\xae\x6b", b"\xae", b"\xa0", b"\x1c\x53\xbb\x6b"}
    holders |= {b"\x11\x4d\x9b\x74", b"\x15\x49\xa9\x66", b"\xe0", b"\xbb", b"\xb7"}

    def vint_length(at: int) -> int:
        return 9 - data[at].bit_length()

    def elements(start: int, stop: int) -> Iterator[Part]:
        while start + 2 <= stop and data[start]:
            name_length = vint_length(start)
            at = start + name_length
            if name_length > 4 or at >= stop or not data[at]:
                return
            length = vint_length(at)
            size = int.from_bytes(data[at : at + length]) & (1 << 7 * length) - 1
            body, is_unknown = at + length, size == (1 << 7 * length) - 1
            end = stop if is_unknown else min(body + size, stop)
            name = data[start:at]
            yield Part(start, end, body, name, (at, {1: ">B", 2: ">H", 4: ">I", 8: ">Q"}.get(length, ">B")))
            if name in holders:
                yield from elements(body, end)
            start = end

    yield from elements(0, len(data))


def ts_packets(data: bytes) -> Iterator[Part]:
    """Packets of an MPEG transport stream: 188 bytes each."""
    for start in range(0, len(data) - 187, 188):
        yield Part(start, start + 188, start + 4)


def tar_members(data: bytes) -> Iterator[Part]:
    """Members of a tar: a header of 512 bytes, then the file."""
    start = 0
    while start + 512 <= len(data):
        digits = data[start + 124 : start + 136].strip(b" \0")
        size = int(digits, 8) if digits and set(digits) <= set(b"01234567") else 0
        end = min(start + 512 + -(-size // 512) * 512, len(data))
        yield Part(start, end, start + 512)
        yield Part(start, start + 512, start)  # the header alone: name, size, checksum, kind, link
        start = end


def tfrecords(data: bytes) -> Iterator[Part]:
    """Records of a tfrecord file: a length, its checksum, the data, its checksum."""
    start = 0
    while start + 16 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        end = start + 16 + length
        if end > len(data):
            return
        yield Part(start, end, start + 12, size=(start, "<Q"))
        start = end


def sqlite_pages(data: bytes) -> Iterator[Part]:
    """The file header and pages of an SQLite database."""
    size = int.from_bytes(data[16:18]) or 4096
    yield Part(0, 100, 0)
    for start in range(0, len(data), size):
        yield Part(start, min(start + size, len(data)), start)


def footer(data: bytes) -> Iterator[Part]:
    """The footer of a parquet file, with its length before the last four bytes; and the rest."""
    if len(data) < 12:
        return
    length = int.from_bytes(data[-8:-4], "little")
    start = max(len(data) - 8 - length, 4)
    for _ in range(3):  # most of what can be wrong is in the footer
        yield Part(start, len(data), start, size=(len(data) - 8, "<I"))
    yield Part(4, start, 4)


def safetensors_header(data: bytes) -> Iterator[Part]:
    """The JSON header of a safetensors file, with its length in the first eight bytes; and the numbers."""
    length = min(int.from_bytes(data[:8], "little"), len(data) - 8)
    for _ in range(3):
        yield Part(0, 8 + length, 8, size=(0, "<Q"))
    yield Part(8 + length, len(data), 8 + length)


def png_chunks(data: bytes) -> Iterator[Part]:
    """Chunks of a PNG: length, name, data, checksum."""
    start = 8
    while start + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, start)
        end = start + 12 + size
        if end > len(data):
            return
        yield Part(start, end, start + 8, data[start + 4 : start + 8], (start, ">I"))
        start = end


FORMATS: dict[str, Callable[[bytes], Iterator[Part]]] = {
    **dict.fromkeys((".mp4", ".mov", ".m4v"), mp4_boxes),
    **dict.fromkeys((".mkv", ".webm"), ebml_elements),
    ".avi": riff_chunks,
    ".ts": ts_packets,
    ".tar": tar_members,
    ".tfrecord": tfrecords,
    ".sqlite": sqlite_pages,
    ".parquet": footer,
    ".safetensors": safetensors_header,
    ".png": png_chunks,
}


def damage_part(rng: Random, data: bytes, parts: list[Part]) -> bytes:
    """The file with one of its parts dropped, repeated, exchanged, renamed, resized or changed inside."""
    part = rng.choice(parts)
    whole, before, after = data[part.start : part.stop], data[: part.start], data[part.stop :]
    match rng.choice(("drop", "repeat", "swap", "rename", "size", "number", "flip", "zero")):
        case "drop":
            return before + after
        case "repeat":
            return before + whole + whole + after
        case "swap":
            return _swapped(rng, data, part, parts)
        case "rename" if part.name:
            at = data.index(part.name, part.start)
            return data[:at] + rng.randbytes(len(part.name)) + data[at + len(part.name) :]
        case "size" if part.size:
            at, code = part.size
            (size,) = struct.unpack_from(code, data, at)
            width = struct.calcsize(code)
            edited = rng.choice((*NUMBERS, size + 1, size - 1, size + 4, size * 2)) % 2 ** (8 * width)
            return data[:at] + struct.pack(code, edited) + data[at + width :]
        case "zero":
            return data[: part.body] + bytes(part.stop - part.body) + after
        case action if part.body < part.stop:
            inside = data[part.body : part.stop]
            changed = flip_bits(rng, inside) if action == "flip" else edit_number(rng, inside)
            return data[: part.body] + changed + after
        case _:
            return before + after


def _swapped(rng: Random, data: bytes, part: Part, parts: list[Part]) -> bytes:
    """`part` exchanged with another that it does not overlap."""
    others = [each for each in parts if each.stop <= part.start or each.start >= part.stop]
    if not others:
        return data[: part.start] + data[part.stop :]
    first, second = sorted((part, rng.choice(others)), key=lambda each: each.start)
    return (
        data[: first.start]
        + data[second.start : second.stop]
        + data[first.stop : second.start]
        + data[first.start : first.stop]
        + data[second.stop :]
    )
