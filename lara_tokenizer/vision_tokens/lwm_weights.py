"""Conversion of LWM's weights: names and shapes of the pickle to those of our module."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lara_tokenizer.vision_tokens.lwm_pickle import read_arrays
from lara_tokenizer.vision_tokens.lwm_vqgan import LwmVqgan, VqganSizes

# Replacements in a name of ours, applied in order. Flax numbers the parts of a module by type, in order of creation.
_NAMES = (
    (r"^(?!codebook|to_codebook)", "encoder/"),
    (r"levels\.(\d+)\.", r"DownsamplingBlock_\1/"),
    (r"middle\.", "MidBlock_0/blocks."),
    (r"blocks\.(\d+)\.", r"ResnetBlock_\1/"),
    (r"shrink\.", "Downsample_0/Conv_0/"),
    (r"norm_1\.weight", "GroupNorm_0/scale"),
    (r"norm_1\.", "GroupNorm_0/"),
    (r"norm_2\.weight", "GroupNorm_1/scale"),
    (r"norm_2\.", "GroupNorm_1/"),
    (r"last_norm\.weight", "GroupNorm_0/scale"),
    (r"last_norm\.", "GroupNorm_0/"),
    (r"(conv_1|first)\.", "Conv_0/"),
    (r"(conv_2|last)\.", "Conv_1/"),
    (r"shortcut\.", "Conv_2/"),
    (r"to_codebook\.", "quant_conv/"),
    (r"^codebook$", "quantize/embeddings"),
    (r"weight$", "kernel"),
)
# Only the encoder is read; the rest of the file is the decoder.
_OURS = ("encoder/", "quant_conv/", "quantize/")


def load_lwm(path: Path, sizes: VqganSizes) -> LwmVqgan:
    """Load the encoder from LWM's pickle.

    Raises:
        ValueError: as in `read_arrays`, and for a tensor that is missing, unknown or of another shape.
    """
    arrays = {name: array for name, array in read_arrays(path).items() if name.startswith(_OURS)}
    with torch.device("meta"):
        model = LwmVqgan(sizes)
    state = {}
    for name, expected in model.state_dict().items():
        source = their_name(name)
        if source not in arrays:
            raise ValueError(f"{path} has no tensor {source!r}: it is not LWM's VQGAN. Take its own file vqgan.")
        array, shape = arrays.pop(source), _their_shape(expected)
        if array.shape != shape:
            raise ValueError(
                f"{path}: tensor {source!r} has shape {array.shape}, LWM's VQGAN has {shape}. Take its own file vqgan."
            )
        ordered = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        state[name] = torch.from_numpy(np.array(ordered, np.float32, order="C"))
    if arrays:
        raise ValueError(f"{path} has a tensor {next(iter(arrays))!r} that LWM's VQGAN has not: it is another model.")
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False)


def lwm_shapes(sizes: VqganSizes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the pickle's tensors of the encoder."""
    with torch.device("meta"):
        state = LwmVqgan(sizes).state_dict()
    return {their_name(name): _their_shape(tensor) for name, tensor in state.items()}


def their_name(name: str) -> str:
    """LWM's name of a tensor of ours, without the leading "params".

    >>> their_name("levels.1.blocks.0.conv_2.weight")
    'encoder/DownsamplingBlock_1/ResnetBlock_0/Conv_1/kernel'
    """
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _their_shape(tensor: Tensor) -> tuple[int, ...]:
    """Shape of a tensor in LWM's file, where kernels are (rows, columns, in, out)."""
    shape = tuple(tensor.shape)
    return (*shape[2:], shape[1], shape[0]) if len(shape) == 4 else shape
