"""`export_onnx`: the encoder of a checkpoint as an ONNX file, with the preparation of its frames beside it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lara_tokenizer._files import new_folder
from lara_tokenizer.checkpoint import Checkpoint, load_checkpoint
from lara_tokenizer.deploy import frames as frames_file
from lara_tokenizer.deploy.checks import check_export
from lara_tokenizer.deploy.graph import EncoderGraph
from lara_tokenizer.errors import first_line

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

FILE, PREPARATION, README = "encoder.onnx", "preparation.json", "README.md"
_PAIRS = 3  # of the example that is traced: any number but 1, which a graph would take for a constant
_CHECKED = 16  # pairs that are compared with torch after the export
_MOST_DIFFERENT = 0.01  # share of their codes: a code on the border of two may go either way


@dataclass(frozen=True, slots=True)
class OnnxSummary:
    """Result of `export_onnx`.

    Attributes:
        out: the folder.
        files: names of what is in it.
        megabytes: size of the ONNX file.
        checked_codes, different_codes: of pairs that torch and onnxruntime both encoded; 0 for a continuous bottleneck.
        largest_latent_difference: of the same pairs.
    """

    out: str
    files: tuple[str, ...]
    megabytes: float
    checked_codes: int
    different_codes: int
    largest_latent_difference: float

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def export_onnx(checkpoint: str | os.PathLike[str], out: str | Path) -> OnnxSummary:
    """Write a checkpoint's encoder as ONNX: frames to codes and z, for robots without torch.

    The folder holds `encoder.onnx`, `frames.py` (numpy: the resize), `preparation.json` and a README with a loop for a
    camera. The file is run by onnxruntime and compared with torch before the folder gets its name.

    Args:
        checkpoint: "lara-lam" (bundled), a folder or a Hub id.
        out: a new folder.

    Raises:
        ImportError: the extra `onnx` is not installed.
        ValueError: no such checkpoint, `out` has files, or a model that ONNX cannot express.

    >>> export_onnx("lara-lam", "lara-lam-onnx").different_codes  # doctest: +SKIP
    0
    """
    check_export(out)
    model, processor = load_checkpoint(checkpoint)
    details = _preparation(Checkpoint.open(checkpoint), processor)
    graph = EncoderGraph(model, processor).eval()
    with new_folder(out) as folder:
        _write_graph(graph, details, folder / FILE)
        compared = _compare(graph, folder / FILE, details)
        (folder / PREPARATION).write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(frames_file.__file__, folder / "frames.py")
        (folder / README).write_text(_readme(details, graph.outputs), encoding="utf-8")
        files = tuple(sorted(file.name for file in folder.iterdir()))
        megabytes = sum(file.stat().st_size for file in folder.glob(f"{FILE}*")) / 1e6
    return OnnxSummary(str(out), files, round(megabytes, 1), *compared)


def _preparation(checkpoint: Checkpoint, processor: LatentActionProcessor) -> dict[str, Any]:
    """Sizes, strides and hashes of the model, and how its frames are resized: for JSON."""
    return {
        "model": checkpoint.id,
        "weights_sha256": checkpoint.weights_sha256,
        "num_latents": checkpoint.num_latents,
        "codebook_dim": checkpoint.codebook_dim,
        "codebook_size": checkpoint.codebook_size,
        "strides": list(checkpoint.strides),
        "frames": {
            "height": processor.size["height"],
            "width": processor.size["width"],
            "resample": processor.resample,
            "crop": processor.crop,
            "antialias": processor.antialias,
        },
    }


def _write_graph(graph: EncoderGraph, details: dict[str, Any], file: Path) -> None:
    pairs = torch.export.Dim("pairs")
    with torch.no_grad(), _quiet():
        try:
            program = torch.onnx.export(
                graph,
                _example(_PAIRS, details),
                dynamo=True,
                input_names=["frames", "future_frames"],
                output_names=graph.outputs,
                dynamic_shapes=({0: pairs}, {0: pairs}),
                verbose=False,
            )
        except Exception as error:  # the exporter's errors share no base class
            raise ValueError(
                f"{type(graph.model).__name__} cannot be exported as ONNX by this torch {torch.__version__} "
                f"({first_line(error)})."
            ) from error
    assert program is not None
    # One file where the format allows it: above 2 GB the weights go into a second one.
    program.save(file)


def _compare(graph: EncoderGraph, file: Path, details: dict[str, Any]) -> tuple[int, int, float]:
    """Codes compared, codes that differ, and the largest difference of z. Raises ValueError for another model."""
    from onnxruntime import InferenceSession

    pair = _example(_CHECKED, details)
    with torch.no_grad():
        expected = dict(zip(graph.outputs, (each.numpy() for each in graph(*pair)), strict=True))
    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    given = dict(zip(("frames", "future_frames"), (each.numpy() for each in pair), strict=True))
    found = dict(zip(graph.outputs, session.run(graph.outputs, given), strict=True))
    total = different = 0
    if "codes" in found:
        total, different = expected["codes"].size, int((found["codes"] != expected["codes"]).sum())
    distance = float(np.abs(found["latents"] - expected["latents"]).max())
    if different > _MOST_DIFFERENT * total or not distance < 0.05 * max(1.0, float(np.abs(expected["latents"]).max())):
        raise ValueError(
            f"onnxruntime computes other latent actions than torch ({different} of {total} codes, z by "
            f"{distance:.2g}): nothing is written. Update onnxruntime, or use torch."
        )
    return total, different, distance


def _example(pairs: int, details: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of smooth random pictures, the later ones shifted and partly new: uint8 (B, H, W, 3) each."""
    draw = torch.Generator().manual_seed(0)
    size = (details["frames"]["height"], details["frames"]["width"])

    def pictures() -> torch.Tensor:
        coarse = torch.rand(pairs, 3, 9, 9, generator=draw)
        return torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1).mul(255).byte()

    now, new = pictures(), pictures()
    future = now.roll((1, 2), (2, 3))
    future[..., : size[0] // 3, : size[1] // 3] = new[..., : size[0] // 3, : size[1] // 3]
    return now.permute(0, 2, 3, 1).contiguous(), future.permute(0, 2, 3, 1).contiguous()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about packages that this one does not use from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _readme(details: dict[str, Any], outputs: list[str]) -> str:
    count, dim, size = details["num_latents"], details["codebook_dim"], details["codebook_size"]
    shapes = {
        "latents": f"float32 (B, {count}, {dim}): z, before quantization",
        "codes": f"int64 (B, {count}), 0 to {(size or 1) - 1}",
        "code_margin": "float32 (B,): confidence of the codes",
    }
    return f"""# {details["model"]}, encoder

Two frames to a latent action, with onnxruntime and numpy: `pip install onnxruntime numpy`.

| | |
| --- | --- |
| inputs | `frames`, `future_frames`: uint8 RGB (B, {details["frames"]["height"]}, {details["frames"]["width"]}, 3), \
by `prepare` of [frames.py](frames.py) from frames of any size |
| outputs | {"; ".join(f"`{name}`: {shapes[name]}" for name in outputs)} |
| stride | the model was trained on frames {", ".join(details["strides"])} apart |

Normalization, and compensation of camera motion where the model has it, are in the graph: give pixels as they come from
the camera, in RGB. `preparation.json` tells the sizes, and the hash of the weights.

```python
from collections import deque

from frames import prepare
from onnxruntime import InferenceSession

session = InferenceSession("{FILE}")
waiting = deque()  # frames that wait for the one a stride later
for frame, seconds in camera:  # uint8 RGB (H, W, 3)
    picture = prepare(frame)
    if waiting and seconds - waiting[0][0] >= 0.5:
        then, before = waiting.popleft()
        {", ".join(outputs)}{"," if len(outputs) == 1 else ""} = session.run({outputs!r}, {{"frames": before, \
"future_frames": picture}})
    waiting.append((seconds, picture))
```
"""
