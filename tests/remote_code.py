"""A checkpoint loaded as remote code, in a process in which this package cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_SCRIPT = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lara_tokenizer", "lara_policy", "lara_tok"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import numpy as np, torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel

folder, frames = sys.argv[1], np.load(sys.argv[2])
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    out = model.encode(**processor(frames[0], frames[1]))
print(json.dumps({"codes": None if out.codes is None else out.codes.tolist(), "latents": out.latents.tolist(),
                  "num_latents": config.num_latents, "dim": config.codebook_dim, "module": type(model).__module__}))
"""


def encode_with_remote_code(
    folder: Path, frames: np.ndarray, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Codes and latents of pairs, uint8 (2, B, H, W, 3), computed by the code that ships with the weights."""
    np.save(scratch / "frames.npy", frames)
    monkeypatch.setenv("HF_MODULES_CACHE", str(scratch / "modules"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(folder), str(scratch / "frames.npy")],
        capture_output=True,
        text=True,
        cwd=scratch,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["module"].startswith("transformers_modules")
    return result
