"""Checkpoints that one version of transformers saves and another loads; see transformers4.sh.

write FOLDER          save one checkpoint of each vision model, with a clip and what it encodes to
check FOLDER          load them through our classes and compare
check-remote FOLDER   load them through AutoModel and AutoImageProcessor, where our package is not importable
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LAM = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_m_former_layers": 2,
    "num_decoder_layers": 1,
}
# CLIP and SigLIP are left out: transformers 5 saves their tensors inside another model under names that 4 does not
# know (4 reports every one of them as missing).
VISION_MODELS = ("vit_mae", "vit", "dinov2", "dinov2_with_registers")

log = logging.getLogger("saved_checkpoints")


def main(command: str, folder: Path) -> None:
    """Run one command of the module's docstring; AssertionError where something differs."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if command == "write":
        write(folder)
        return
    is_here = importlib.util.find_spec("lara_tokenizer") is not None
    assert is_here == (command == "check"), f"lara_tokenizer is {'' if is_here else 'not '}importable"
    for checkpoint in sorted(folder.iterdir()):
        check(checkpoint, *(load_ours(checkpoint) if is_here else load_remote(checkpoint)))


def write(folder: Path) -> None:
    from lara_tokenizer.model import LatentActionConfig, LatentActionModel, LatentActionProcessor, resolve_checkpoint

    clip = np.random.default_rng(0).integers(0, 256, (9, 48, 64, 3), dtype=np.uint8)
    processor = LatentActionProcessor(size={"height": 32, "width": 32})
    for model_type in VISION_MODELS:
        torch.manual_seed(0)
        config = LatentActionConfig(vision_config={"model_type": model_type, **VISION}, **LAM)
        model = LatentActionModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            model.bottleneck.start_codebook(torch.randn(64, 8, 32))
        save(folder / model_type, model, processor, clip)
    if Path(resolve_checkpoint("lara-lam")).is_dir():
        bundled = LatentActionModel.from_pretrained("lara-lam")
        save(folder / "lara-lam", bundled, LatentActionProcessor.from_pretrained("lara-lam"), clip)


def save(folder: Path, model: Any, processor: Any, clip: np.ndarray) -> None:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    save_file({"clip": clip, **encode(model, processor, clip)}, folder / "expected.safetensors")
    log.info("transformers %s saved %s", transformers.__version__, folder.name)


@torch.no_grad()
def encode(model: Any, processor: Any, clip: np.ndarray) -> dict[str, np.ndarray]:
    out = model.encode(**processor(clip[:-1], clip[1:]))
    return {"codes": out.codes.numpy(), "latents": out.latents.numpy()}


def load_ours(folder: Path) -> tuple[Any, Any, Any]:
    from lara_tokenizer.model import LatentActionModel, LatentActionProcessor

    model, report = LatentActionModel.from_pretrained(folder, output_loading_info=True)
    return model, report, LatentActionProcessor.from_pretrained(folder)


def load_remote(folder: Path) -> tuple[Any, Any, Any]:
    remote = {"trust_remote_code": True}
    model, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True, **remote)
    return model, report, transformers.AutoImageProcessor.from_pretrained(folder, **remote)


def check(folder: Path, model: Any, report: Any, processor: Any) -> None:
    assert not report["missing_keys"], f"{folder.name} lost {report['missing_keys']}"
    assert not report["unexpected_keys"], f"{folder.name} does not know {report['unexpected_keys']}"
    expected = load_file(folder / "expected.safetensors")
    got = encode(model.eval(), processor, expected["clip"])
    assert np.array_equal(got["codes"], expected["codes"]), f"{folder.name}: codes differ"
    np.testing.assert_allclose(got["latents"], expected["latents"], atol=1e-5, rtol=0)
    codes = len(np.unique(got["codes"]))
    log.info("transformers %s loaded %s: all codes equal (%d in use)", transformers.__version__, folder.name, codes)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
