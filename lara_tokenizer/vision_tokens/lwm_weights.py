"""The pickle's names and shapes to those of our module."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lara_tokenizer.vision_tokens.lwm_pickle import read_arrays
from lara_tokenizer.vision_tokens.lwm_vqgan import LwmVqgan, VqganSizes

# Of a name of ours, one after the other. flax numbers the parts of a module by kind, in the order of their making.
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
# Only what makes codes is read; the rest makes pictures of them again.
_OURS = ("encoder/", "quant_conv/", "quantize/")


def load_lwm(path: Path, sizes: VqganSizes) -> LwmVqgan:
    """The encoder with the weights of LWM's pickle.

    Raises:
        ValueError: see `read_arrays`; a tensor is missing, not known, or of another shape.
    """
    arrays = {name: array for name, array in read_arrays(path).items() if name.startswith(_OURS)}
    with torch.device("meta"):
        model = LwmVqgan(sizes)
    state = {}
    for name, wanted in model.state_dict().items():
        theirs = their_name(name)
        if theirs not in arrays:
            raise ValueError(f"{path} has no tensor {theirs!r}: it is not LWM's VQGAN. Take its own file vqgan.")
        array, shape = arrays.pop(theirs), _their_shape(wanted)
        if array.shape != shape:
            raise ValueError(
                f"{path}: tensor {theirs!r} has shape {array.shape}, LWM's VQGAN has {shape}. Take its own file vqgan."
            )
        ordered = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        state[name] = torch.from_numpy(np.array(ordered, np.float32, order="C"))
    if arrays:
        raise ValueError(f"{path} has a tensor {next(iter(arrays))!r} that LWM's VQGAN has not: it is another model.")
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False)


def lwm_shapes(sizes: VqganSizes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the pickle's tensors that make codes."""
    with torch.device("meta"):
        state = LwmVqgan(sizes).state_dict()
    return {their_name(name): _their_shape(tensor) for name, tensor in state.items()}


def their_name(name: str) -> str:
    """The pickle's name of a tensor of ours, without the leading "params".

    >>> their_name("levels.1.blocks.0.conv_2.weight")
    'encoder/DownsamplingBlock_1/ResnetBlock_0/Conv_1/kernel'
    """
    for ours, theirs in _NAMES:
        name = re.sub(ours, theirs, name)
    return name


def _their_shape(tensor: Tensor) -> tuple[int, ...]:
    """Kernels are (rows, columns, in, out) there."""
    shape = tuple(tensor.shape)
    return (*shape[2:], shape[1], shape[0]) if len(shape) == 4 else shape
