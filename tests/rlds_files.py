"""RLDS files as TFDS writes them: records, tf.train.Example, and the entries of features.json."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
from PIL import Image

from lara_tokenizer.data.rlds.tfrecord import example_class

TFDS = "tensorflow_datasets.core.features."


def crc(data: bytes) -> bytes:
    value = google_crc32c.value(data)
    return struct.pack("<I", (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return length + crc(length) + record + crc(record)


def example(values: dict[str, Any]) -> bytes:
    """Bytes lists, float arrays and integer arrays as a tf.train.Example."""
    message = example_class()()
    for key, value in values.items():
        feature = message.features.feature[key]
        if isinstance(value, list):
            feature.bytes_list.value.extend(value)
        elif np.issubdtype(value.dtype, np.floating):
            feature.float_list.value.extend(value.ravel().tolist())
        else:
            feature.int64_list.value.extend(value.ravel().astype(np.int64).tolist())
    return message.SerializeToString()


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def tensor(shape: Sequence[int], dtype: str = "float32", encoding: str = "none") -> dict:
    content = {"shape": {"dimensions": [str(n) for n in shape]} if shape else {}, "dtype": dtype, "encoding": encoding}
    return {"pythonClassName": f"{TFDS}tensor_feature.Tensor", "tensor": content}


def image(channels: int = 3, dtype: str = "uint8", encoding: str = "png") -> dict:
    content = {"shape": {"dimensions": ["-1", "-1", str(channels)]}, "dtype": dtype, "encodingFormat": encoding}
    return {"pythonClassName": f"{TFDS}image_feature.Image", "image": content}


def text() -> dict:
    return {"pythonClassName": f"{TFDS}text_feature.Text", "text": {}}


def mapping(features: dict[str, dict]) -> dict:
    return {"pythonClassName": f"{TFDS}features_dict.FeaturesDict", "featuresDict": {"features": features}}


def sequence(feature: dict, name: str = "dataset_feature.Dataset") -> dict:
    return {"pythonClassName": f"{TFDS}{name}", "sequence": {"feature": feature, "length": "-1"}}
