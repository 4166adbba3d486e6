"""What of Moto's dependencies an environment may lack, as little as it needs here; Moto's own files stay as they are.

torchvision does not import beside every build of torch, and lpips wants the weights of VGG. Where they are installed
they are used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

COMMIT = "4471f76"


def enter(checkout: Path) -> None:
    """Make Moto's packages importable; say which Moto it is, and what stands in for what."""
    git = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    top = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=False
    )
    is_own = git.returncode == 0 and Path(top.stdout.strip()) == checkout.resolve()
    told = git.stdout.strip() if is_own else f"a checkout without git (written against {COMMIT})"
    print(f"TencentARC/Moto: {told}")
    for name in ("common/data/datasets.py", "common/models/model_utils.py"):
        print(f"  {name} sha256 {hashlib.sha256((checkout / name).read_bytes()).hexdigest()[:16]}")
    sys.path.insert(0, str(checkout))
    stood_in = [name for name, stand_in in (("torchvision", _torchvision), ("lpips", _lpips)) if _lacks(name, stand_in)]
    print(f"  stood in for from outside: {', '.join(stood_in) or 'nothing'}")


def run(command: list[object]) -> None:
    """Run the script again in Moto's environment, where this package is found without being installed."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    subprocess.run(list(map(str, command)), check=True, env=environment)


def _lacks(name: str, stand_in: Any) -> bool:
    if importlib.util.find_spec(name) is not None:
        return False
    stand_in()
    return True


def _module(name: str, **attributes: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = importlib.util.spec_from_loader(name, None)
    module.__dict__.update(attributes)
    sys.modules[name] = module
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, module)
    return module


def _torchvision() -> None:
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
            self.size, self.mode, self.antialias = tuple(size), interpolation, antialias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = x.reshape(-1, *x.shape[-3:]).float()
            resized = F.interpolate(flat, self.size, mode=self.mode, antialias=self.antialias)
            if x.dtype == torch.uint8:
                resized = resized.round().clamp(0, 255).to(torch.uint8)
            return resized.reshape(*x.shape[:-2], *self.size)

    _module("torchvision", __version__="0.0")
    _module("torchvision.io", decode_jpeg=decode_jpeg)
    _module("torchvision.transforms")
    mode = types.SimpleNamespace(BICUBIC="bicubic")
    _module(
        "torchvision.transforms.v2", Resize=Resize, InterpolationMode=mode, RandomResizedCrop=None, ColorJitter=None
    )


def _lpips() -> None:
    import torch

    class LPIPS(torch.nn.Module):  # the loss is not asked for here
        def __init__(self, net: str) -> None:
            super().__init__()

    _module("lpips", LPIPS=LPIPS)
