"""Containers that lie about their key frames: the flags of a finished clip, falsified by patching its bytes.

Players meet all of these: an mp4 without a table of sync samples, and many AVI, wmv and fragmented mp4 files, call
every packet a key frame; broken recorders call only the first one so.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from video_files import suffix_of

# Whether a packet is to be called a key frame, from its position in the file and whether it is called one.
Flag = Callable[[int, bool], bool]

LIES: dict[str, Flag] = {
    "all": lambda number, is_key: True,
    "some": lambda number, is_key: is_key or number % 3 == 0,
    "first": lambda number, is_key: number == 0,
}


def flag_keys(path: Path, lie: str = "all") -> Path:
    """Change which packets of a clip its container calls key frames, by one of `LIES`. Returns `path`.

    Raises KeyError for a container that has no such flags.
    """
    data = bytearray(path.read_bytes())
    _PATCHES[suffix_of(path)](data, LIES[lie])
    path.write_bytes(data)
    return path


def _sync_samples(data: bytearray, flag: Flag) -> None:
    """mp4, mov: the box "stss" lists the sync samples, counted from 1; without it all are. "moov" is the last box."""
    chain = [(name, start) for name, start in _boxes(data, 0, len(data)) if name in _PARENTS or name == b"stss"]
    sizes = next(start for name, start in _boxes(data, 0, len(data)) if name == b"stsz")
    count = int.from_bytes(data[sizes + 8 : sizes + 12])
    if not chain or chain[-1][0] != b"stss":
        return  # all are
    start = chain[-1][1]
    stop = start - 8 + int.from_bytes(data[start - 8 : start - 4])
    listed = {number for (number,) in struct.iter_unpack(">I", data[start + 8 : stop])}
    keys = [number for number in range(1, count + 1) if flag(number - 1, number in listed)]
    if len(keys) == count:
        data[start - 4 : start] = b"free"
        return
    table = struct.pack(f">II{len(keys)}I", 0, len(keys), *keys)
    for _, each in chain:
        size = int.from_bytes(data[each - 8 : each - 4]) + len(table) - (stop - start)
        data[each - 8 : each - 4] = size.to_bytes(4)
    data[start:stop] = table


_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def _sync_samples_in_fragments(data: bytearray, flag: Flag) -> None:
    """Fragmented mp4: flags of the first sample of a fragment, and by default of the others."""
    fragments = 0
    others = _sample_flags(flag(1, False))
    for name, start in _boxes(data, 0, len(data)):
        flags = int.from_bytes(data[start + 1 : start + 4])
        if name == b"trex":
            data[start + 20 : start + 24] = others
        elif name == b"tfhd" and flags & 0x20:
            at = start + 8 + 8 * bool(flags & 1) + 4 * bool(flags & 2) + 4 * bool(flags & 8) + 4 * bool(flags & 16)
            data[at : at + 4] = others
        elif name == b"trun":
            at = start + 8 + 4 * (flags & 1)
            if flags & 4:
                data[at : at + 4] = _sample_flags(flag(fragments, fragments > 0 and flag(1, False)))
            fragments += 1


def _sample_flags(is_key: bool) -> bytes:
    """ "Depends on no other", or "depends on others, is no sync sample"."""
    return struct.pack(">I", 0x02000000 if is_key else 0x01010000)


def _boxes(data: bytearray, start: int, stop: int) -> Iterator[tuple[bytes, int]]:
    """Name and start of the contents of each box of an mp4, in file order, those within other boxes too."""
    while start + 8 <= stop:
        size, name = int.from_bytes(data[start : start + 4]), bytes(data[start + 4 : start + 8])
        yield name, start + 8
        if name in (*_PARENTS, b"mvex", b"moof", b"traf"):
            yield from _boxes(data, start + 8, start + size)
        start += max(size, 8)


def _index_chunks(data: bytearray, flag: Flag) -> None:
    """avi: each entry of the index "idx1" (name, flags, offset, size) has a flag AVIIF_KEYFRAME, 0x10."""
    start = data.rfind(b"idx1") + 8
    size = int.from_bytes(data[start - 4 : start], "little")
    for number, entry in enumerate(range(start + 4, start + size, 16)):
        data[entry] = _with_bit(data[entry], 0x10, flag(number, bool(data[entry] & 0x10)))


def _blocks(data: bytearray, flag: Flag) -> None:
    """mkv, webm: each SimpleBlock has a key bit; a Block in a group is a key frame if it refers to no other."""
    number = 0
    for name, at, start in _elements(data, 0, len(data)):
        if name == 0xA3:  # SimpleBlock: track (1 byte), time (2 bytes), flags
            data[start + 3] = _with_bit(data[start + 3], 0x80, flag(number, bool(data[start + 3] & 0x80)))
        number += name in (0xA1, 0xA3)
        if name == 0xFB and flag(number - 1, False):  # ReferenceBlock, which becomes Void
            data[at] = 0xEC


def _elements(data: bytearray, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Name, position and start of the contents of each element of an mkv, those in clusters and groups too."""
    while at < stop:
        name_size = 9 - data[at].bit_length()
        size_size = 9 - data[at + name_size].bit_length()
        start = at + name_size + size_size
        name = int.from_bytes(data[at : at + name_size])
        size = int.from_bytes(data[at + name_size : start]) & ((1 << 7 * size_size) - 1)
        yield name, at, start
        if name in (0x18538067, 0x1F43B675, 0xA0):  # Segment, Cluster, BlockGroup
            yield from _elements(data, start, min(start + size, stop))
        at = start + size


def _payloads(data: bytearray, flag: Flag) -> None:
    """wmv: each payload's stream number has a key bit. Only for packets as FFmpeg's muxer writes them."""
    start = data.index(bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")) + 50  # behind the header of the data object
    packet_size, number = 3200, -1
    while data[start : start + 3] == b"\x82\x00\x00":
        flags, at = data[start + 3], start + 5
        padding_size = flags >> 3 & 3
        at += (flags >> 1 & 3) + padding_size + (flags >> 5 & 3) + 6  # sequence, padding, length; time, duration
        count = data[at] & 0x3F if flags & 1 else 1
        at += flags & 1
        for _ in range(count):
            # A frame may go on in the next packet: only its first payload has the offset 0.
            number += data[at + 2 : at + 6] == b"\0\0\0\0"
            data[at] = _with_bit(data[at], 0x80, flag(number, bool(data[at] & 0x80)))
            at += 6  # stream, object, offset
            at += 1 + data[at]  # replicated data
            at += 2 + int.from_bytes(data[at : at + 2], "little") if flags & 1 else 0
        start += packet_size


def _tags(data: bytearray, flag: Flag) -> None:
    """flv: the frame type, in the first byte of each video tag, is 1 for a key frame, 2 for others."""
    at, number = 13, 0
    while at < len(data):
        kind = data[at + 11] >> 4 & 7
        if data[at] == 9 and kind in (1, 2):
            is_header = data[at + 11] & 15 in (0, 7) and number == 0 and data[at + 12] == 0
            data[at + 11] = data[at + 11] & 0x8F | (0x10 if is_header or flag(number, kind == 1) else 0x20)
            number += not is_header
        at += 11 + int.from_bytes(data[at + 1 : at + 4]) + 4


def _random_access(data: bytearray, flag: Flag) -> None:
    """ts: the random_access_indicator of each packet that begins a picture and has an adaptation field."""
    number = 0
    for at in range(0, len(data), 188):
        begins, adapts = data[at + 1] & 0x40, data[at + 3] & 0x20
        if begins and data[at + 1] & 0x1F == 1:  # FFmpeg's muxer gives the first stream the number 256
            if adapts and data[at + 4]:
                data[at + 5] = _with_bit(data[at + 5], 0x40, flag(number, bool(data[at + 5] & 0x40)))
            number += 1


def _with_bit(byte: int, bit: int, is_set: bool) -> int:
    return byte | bit if is_set else byte & ~bit


_PATCHES: dict[str, Callable[[bytearray, Flag], None]] = {
    "mp4": _sync_samples,
    "frag.mp4": _sync_samples_in_fragments,
    "mov": _sync_samples,
    "mkv": _blocks,
    "webm": _blocks,
    "avi": _index_chunks,
    "ts": _random_access,
    "wmv": _payloads,
    "flv": _tags,
}
