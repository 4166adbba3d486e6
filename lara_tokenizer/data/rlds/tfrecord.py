"""TFRecord files: where the records lie, and the bytes of one.

    uint64 length | masked crc32c of the length | data | masked crc32c of the data

One after another, little-endian. A record is found only through the length of the one before it.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from lara_tokenizer.errors import EpisodeReadError

_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class RecordIndex:
    """int64 (n,) offsets in bytes, of the headers, and lengths of the data.

    `problem` says what keeps the records after the last one from being found. That last one is then the broken one:
    reading it raises.
    """

    offsets: np.ndarray
    lengths: np.ndarray
    problem: str | None = None


def index(path: Path) -> RecordIndex:
    """Walk over the headers; no data is read. Raises ValueError for a compressed file, OSError for none at all.

    >>> index(Path("demo-train.tfrecord-00000-of-00001")).offsets  # doctest: +SKIP
    array([     0, 139010, 278006])
    """
    found: list[tuple[int, int]] = []
    problem = None
    with open(path, "rb", buffering=0) as file:
        size, offset = os.fstat(file.fileno()).st_size, 0
        while offset < size and problem is None:
            file.seek(offset)
            header = file.read(_HEADER.size)
            if offset == 0 and header.startswith(_GZIP):
                raise ValueError(f"{path}: a compressed TFRecord file. Uncompressed ones are read: gunzip it")
            length, problem = _length(header, offset)
            found.append((offset, length))
            offset += _HEADER.size + length + _FOOTER.size
    if problem is None and offset > size:
        problem = f"the file ends within the record at byte {found[-1][0]}"
    table = np.array(found, np.int64).reshape(-1, 2)
    return RecordIndex(table[:, 0], table[:, 1], problem)


def read(path: Path, offset: int, length: int) -> bytes:
    """The data of the record whose header lies at byte `offset`, with both checksums compared.

    Raises EpisodeReadError, naming the file and the byte.
    """
    source = f"{path.name} at byte {offset}"
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            header, data, footer = file.read(_HEADER.size), file.read(length), file.read(_FOOTER.size)
    except OSError as error:
        raise EpisodeReadError(source, f"cannot be read ({error.strerror})") from error
    stored, problem = _length(header, offset)
    if problem is not None:
        raise EpisodeReadError(source, problem)
    if stored != length:
        raise EpisodeReadError(source, f"a record of {stored} bytes, {length} when it was listed: did the file change?")
    if len(footer) < _FOOTER.size:
        raise EpisodeReadError(source, "the file ends within this record")
    if _FOOTER.unpack(footer)[0] != masked_crc(data):
        raise EpisodeReadError(source, "the record's checksum is wrong: its data are damaged")
    return data


def masked_crc(data: bytes) -> int:
    """The checksum that TFRecord stores: crc32c, rotated and shifted so that checksums can be data too.

    >>> hex(masked_crc(b"123456789"))
    '0xc78ab0e5'
    """
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _length(header: bytes, offset: int) -> tuple[int, str | None]:
    """The length that a header states, and what is wrong with the header."""
    if len(header) < _HEADER.size:
        return 0, f"the file ends within the record at byte {offset}"
    length, crc = _HEADER.unpack(header)
    if crc != masked_crc(header[:8]):
        return 0, f"the header of the record at byte {offset} is damaged"
    return length, None
