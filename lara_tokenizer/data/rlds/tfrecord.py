"""TFRecord files and the tf.train.Example messages in them, read without TensorFlow.

    uint64 length | masked crc32c of the length | data | masked crc32c of the data

A file is a sequence of such records, little-endian, so each record is found through the length of the one before it.
The data of a record is an Example: named lists of bytes, float32 or int64.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from lara_tokenizer.errors import EpisodeReadError

Values = np.ndarray | list[bytes]

_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class RecordIndex:
    """Positions of the records in a file."""

    offsets: np.ndarray  # int64 (n,): byte offset of each record's header
    lengths: np.ndarray  # int64 (n,): bytes of data
    problem: str | None = None
    """Reason why records after the last listed one cannot be found. The last one is damaged then: reading it raises."""


def index_records(path: Path) -> RecordIndex:
    """List the records by their headers. Raises ValueError for a compressed file, and OSError.

    >>> index_records(Path("demo-train.tfrecord-00000-of-00001")).offsets  # doctest: +SKIP
    array([     0, 139010, 278006])
    """
    records: list[tuple[int, int]] = []
    problem = None
    # Unbuffered: only 12 bytes per record are read, and a buffer would read far into the data each time.
    with open(path, "rb", buffering=0) as file:
        size, offset = os.fstat(file.fileno()).st_size, 0
        while offset < size and problem is None:
            file.seek(offset)
            header = file.read(_HEADER.size)
            if offset == 0 and header.startswith(_GZIP):
                raise ValueError(f"{path}: a compressed TFRecord file. Uncompressed ones are read: gunzip it")
            length, problem = _stored_length(header, offset)
            end = offset + _HEADER.size + length + _FOOTER.size
            if problem is None and end > size:
                problem = f"the file ends within the record at byte {offset}"
            # A length that is a lie may exceed 64 bits; the file's size is as long as a record can be.
            records.append((offset, min(length, size)))
            offset = end
    table = np.array(records, np.int64).reshape(-1, 2)
    return RecordIndex(table[:, 0], table[:, 1], problem)


def read_record(path: Path, offset: int, length: int) -> tuple[bytes, int]:
    """The data of the record whose header is at byte `offset`, and its checksum; both checksums are verified.

    Raises EpisodeReadError, naming the file and the byte.
    """
    source = f"{path.name} at byte {offset}"
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            header = file.read(_HEADER.size)
            # Never more than there is: `length` is what the file claims.
            data = file.read(min(length, max(0, os.fstat(file.fileno()).st_size - file.tell())))
            footer = file.read(_FOOTER.size)
    except OSError as error:
        raise EpisodeReadError(source, f"cannot be read ({error.strerror})") from error
    stored, problem = _stored_length(header, offset)
    if problem is not None:
        raise EpisodeReadError(source, problem)
    if len(footer) < _FOOTER.size or len(data) < min(stored, length):
        raise EpisodeReadError(source, "the file ends within this record")
    if stored != length:
        raise EpisodeReadError(source, f"a record of {stored} bytes, {length} when it was listed: did the file change?")
    if (checksum := masked_crc(data)) != _FOOTER.unpack(footer)[0]:
        raise EpisodeReadError(source, "the record's checksum is wrong: its data are damaged")
    return data, checksum


def masked_crc(data: bytes) -> int:
    """TFRecord's checksum: crc32c, rotated and shifted so that data may contain checksums itself.

    >>> hex(masked_crc(b"123456789"))
    '0xc78ab0e5'
    """
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def parse_example(data: bytes) -> dict[str, Values]:
    """The features of an Example: lists of bytes, float32 (n,) or int64 (n,). An empty feature is an empty list.

    Raises ValueError for data that is no Example.

    >>> example = example_class()()
    >>> example.features.feature["action"].float_list.value.extend([0.5, 1])
    >>> parse_example(example.SerializeToString())
    {'action': array([0.5, 1. ], dtype=float32)}
    """
    from google.protobuf.message import DecodeError

    try:
        example = example_class().FromString(data)
    except DecodeError as error:
        raise ValueError(f"no tf.train.Example ({error})") from error
    return {name: _values(feature) for name, feature in example.features.feature.items()}


@cache
def example_class() -> Any:
    """The protobuf message class of tf.train.Example, built from a description instead of generated code."""
    # Imported here, as only those who read RLDS need protobuf.
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")

    def add_message_field(owner: Any, name: str, number: int, message: str) -> Any:
        label, kind = kinds.LABEL_OPTIONAL, kinds.TYPE_MESSAGE
        return owner.field.add(name=name, number=number, label=label, type=kind, type_name=f".tensorflow.{message}")

    lists = {"BytesList": kinds.TYPE_BYTES, "FloatList": kinds.TYPE_FLOAT, "Int64List": kinds.TYPE_INT64}
    for name, kind in lists.items():
        file.message_type.add(name=name).field.add(name="value", number=1, label=kinds.LABEL_REPEATED, type=kind)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, message) in enumerate(zip(("bytes_list", "float_list", "int64_list"), lists, strict=True), 1):
        add_message_field(feature, name, number, message).oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_STRING)
    add_message_field(entry, "value", 2, "Feature")
    add_message_field(features, "feature", 1, "Features.FeatureEntry").label = kinds.LABEL_REPEATED
    add_message_field(file.message_type.add(name="Example"), "features", 1, "Features")
    # A pool of its own: TensorFlow, where it is loaded too, registers the same names in the default one.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def _values(feature: Any) -> Values:
    kind = feature.WhichOneof("kind")
    if kind == "float_list":
        return np.array(feature.float_list.value, np.float32)
    if kind == "int64_list":
        return np.array(feature.int64_list.value, np.int64)
    return list(feature.bytes_list.value) if kind else []


def _stored_length(header: bytes, offset: int) -> tuple[int, str | None]:
    """The length that a header states, and a message if the header is damaged."""
    if len(header) < _HEADER.size:
        return 0, f"the file ends within the record at byte {offset}"
    length, crc = _HEADER.unpack(header)
    if crc != masked_crc(header[:8]):
        return 0, f"the header of the record at byte {offset} is damaged"
    return length, None
