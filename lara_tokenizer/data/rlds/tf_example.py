"""tf.train.Example: named lists of bytes, float32 or int64. Read with `protobuf`, without TensorFlow."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

Values = np.ndarray | list[bytes]
_Field = descriptor_pb2.FieldDescriptorProto


@cache
def example_class() -> Any:
    """The message class of tf.train.Example.

    Its descriptors live in a pool of their own: TensorFlow, where it is loaded too, has the same names.
    """
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    for name, kind in (
        ("BytesList", _Field.TYPE_BYTES),
        ("FloatList", _Field.TYPE_FLOAT),
        ("Int64List", _Field.TYPE_INT64),
    ):
        _add(file, name).field.add(name="value", number=1, label=_Field.LABEL_REPEATED, type=kind)
    feature = _add(file, "Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), 1):
        _message_field(feature, name, number, "".join(part.title() for part in name.split("_"))).oneof_index = 0
    features = _add(file, "Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
    _message_field(entry, "value", 2, "Feature")
    _message_field(features, "feature", 1, "Features.FeatureEntry").label = _Field.LABEL_REPEATED
    _message_field(_add(file, "Example"), "features", 1, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def parse(data: bytes) -> dict[str, Values]:
    """The features of one example: lists of bytes, float32 (n,) or int64 (n,). An empty feature is an empty list.

    Raises ValueError for what is no Example.

    >>> example = example_class()()
    >>> example.features.feature["action"].float_list.value.extend([0.5, 1])
    >>> parse(example.SerializeToString())
    {'action': array([0.5, 1. ], dtype=float32)}
    """
    try:
        example = example_class().FromString(data)
    except DecodeError as error:
        raise ValueError(f"no tf.train.Example ({error})") from error
    return {name: _values(feature) for name, feature in example.features.feature.items()}


def _values(feature: Any) -> Values:
    kind = feature.WhichOneof("kind")
    if kind == "float_list":
        return np.array(feature.float_list.value, np.float32)
    if kind == "int64_list":
        return np.array(feature.int64_list.value, np.int64)
    return list(feature.bytes_list.value) if kind else []


def _add(file: descriptor_pb2.FileDescriptorProto, name: str) -> descriptor_pb2.DescriptorProto:
    return file.message_type.add(name=name)


def _message_field(owner: descriptor_pb2.DescriptorProto, name: str, number: int, of: str) -> Any:
    return owner.field.add(
        name=name, number=number, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_MESSAGE, type_name=f".tensorflow.{of}"
    )
