"""Common parts of the scripts that run Moto: its own environment, its checkout, and stand-ins for two packages.

torchvision does not import beside every build of torch, and lpips needs the weights of VGG. Where they are installed
they are used. Moto's own files stay as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peer_checkout import ROOT, head_commit, stand_in

COMMIT = "4471f76"


def run(
    script: str,
    make: Callable[[Path, argparse.Namespace], None],
    read: Callable[[Path], None],
    *options: tuple[str, dict[str, Any]],
) -> None:
    """The main function of a script: `make` its files here, and `read` them in Moto's environment.

    Args:
        script: its file.
        make: called with an empty folder and the arguments.
        read: called with the same folder, where Moto's packages are importable.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__.partition("\n")[0])
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--peer-python", default=sys.executable)
    for name, settings in options:
        parser.add_argument(name, **settings)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        enter(arguments.checkout)
        read(arguments.read)
        return
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch), arguments)
        command = [arguments.peer_python, script, "--checkout", arguments.checkout.resolve(), "--read", scratch]
        # This package is found there without being installed.
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        subprocess.run(list(map(str, command)), check=True, env=environment)


def enter(checkout: Path) -> None:
    """Make Moto's packages importable; print its commit and which packages are replaced."""
    commit = head_commit(checkout) or f"a checkout without git (written against {COMMIT})"
    print(f"TencentARC/Moto: {commit}")
    for name in ("common/data/datasets.py", "common/models/model_utils.py"):
        print(f"  {name} sha256 {hashlib.sha256((checkout / name).read_bytes()).hexdigest()[:16]}")
    sys.path.insert(0, str(checkout))
    replacements = {"torchvision": _stand_in_torchvision, "lpips": _stand_in_lpips}
    missing = [name for name in replacements if importlib.util.find_spec(name) is None]
    for name in missing:
        replacements[name]()
    print(f"  stood in for from outside: {', '.join(missing) or 'nothing'}")


def _stand_in_torchvision() -> None:
    import numpy as np
    import torch
    import torch.nn.functional as F
    from PIL import Image

    def decode_jpeg(data: torch.Tensor) -> torch.Tensor:
        image = Image.open(io.BytesIO(data.numpy().tobytes())).convert("RGB")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    class Resize(torch.nn.Module):
        def __init__(self, size: Any, interpolation: str = "bicubic", antialias: bool = True) -> None:
            super().__init__()
            self.size = tuple(size)
            self.mode = interpolation
            self.antialias = antialias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = x.reshape(-1, *x.shape[-3:]).float()
            resized = F.interpolate(flat, self.size, mode=self.mode, antialias=self.antialias)
            if x.dtype == torch.uint8:
                resized = resized.round().clamp(0, 255).to(torch.uint8)
            return resized.reshape(*x.shape[:-2], *self.size)

    stand_in("torchvision", __version__="0.0")
    stand_in("torchvision.io", decode_jpeg=decode_jpeg)
    stand_in("torchvision.transforms")
    modes = types.SimpleNamespace(BICUBIC="bicubic")
    unused = {"RandomResizedCrop": None, "ColorJitter": None}
    stand_in("torchvision.transforms.v2", Resize=Resize, InterpolationMode=modes, **unused)


def _stand_in_lpips() -> None:
    import torch

    class LPIPS(torch.nn.Module):  # the loss is not computed here
        def __init__(self, net: str) -> None:
            super().__init__()

    stand_in("lpips", LPIPS=LPIPS)
