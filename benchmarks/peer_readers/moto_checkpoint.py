"""Checkpoints of ours in Moto's layout, loaded by Moto's own `load_model`: equal codes.

    python benchmarks/peer_readers/moto_checkpoint.py --checkout path/to/Moto --peer-python path/to/env/bin/python

Two checkpoints: lara-lam-sim, and a random one in Moto's own layout that was converted to ours and back. Our
codes are computed here; Moto runs in its environment (transformers 4.38 to 4.46, torch, omegaconf, hydra-core,
pyrootutils, einops, timm), on the same pixels. Its ViT-MAE shuffles patches in every call: our `keep_patch_order`
passes it an order from outside; without that, the share of equal codes is printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_checkout import ROOT
from peer_readers._moto import run

PAIRS = 256
BATCH = 32
SIZES = {"image": 32, "patch": 8, "vision_patch": 16, "vision_width": 20, "width": 24}
SIZES |= {"queries": 3, "codes": 18, "code_dim": 6, "decoder_width": 32}


def make(scratch: Path, arguments: argparse.Namespace) -> None:
    """Both checkpoints, pixels for each, and our codes of them."""
    from lara_tokenizer.convert import convert_checkpoint, export_to_moto

    simulated = ROOT / "hub_configs" / "lara-lam-sim"
    export_to_moto(simulated, out=scratch / "simulated")
    _record(simulated, scratch / "simulated", _clip_pairs(arguments.clips) if arguments.clips else _moving_pairs())
    random_moto(scratch / "random", scratch / "vision")
    convert_checkpoint(scratch / "random", vision_encoder=scratch / "vision", out=scratch / "ours")
    export_to_moto(scratch / "ours", out=scratch / "converted")
    _record(scratch / "ours", scratch / "converted", _moving_pairs())


def _record(source: Any, folder: Path, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Save the processor's pixels of uint8 (P, H, W, 3) pairs and our codes of them."""
    from lara_tokenizer import LatentActionModel, LatentActionProcessor

    model = LatentActionModel.from_pretrained(source, dtype="float32").eval()
    processor = LatentActionProcessor.from_pretrained(source)
    inputs = [processor(list(now), future_images=list(future), return_tensors="pt") for now, future in pairs]
    now, future = (torch.cat([each[name] for each in inputs]) for name in ("pixel_values", "future_pixel_values"))
    with torch.no_grad():
        batches = zip(now.split(BATCH), future.split(BATCH), strict=True)
        codes = torch.cat([model.encode(*batch).codes for batch in batches])
    torch.save({"now": now, "future": future, "codes": codes}, folder / "expected.pt")


def _moving_pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Coarse images, and the same moved by some pixels: uint8 (PAIRS, 64, 64, 3) each."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (PAIRS, 16, 16, 3), np.uint8)
    now = coarse.repeat(4, 1).repeat(4, 2)
    shifts = rng.integers(-9, 10, (PAIRS, 2))  # many motions, so that many codes occur
    future = np.stack([np.roll(image, tuple(shift), (0, 1)) for image, shift in zip(now, shifts, strict=True)])
    return [(now, future)]


def _clip_pairs(clips: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """PAIRS pairs, 5 frames apart, of all videos: uint8 (1, H, W, 3) each."""
    from lara_tokenizer.data import load_episodes

    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for episode in load_episodes(clips):
        frames = episode.frames(episode.cameras[0], range(min(episode.num_frames(episode.cameras[0]), 120)))
        pairs += [(frames[i, None], frames[i + 5, None]) for i in range(len(frames) - 5)]
    order = np.random.default_rng(0).permutation(len(pairs))[:PAIRS]
    return [pairs[index] for index in order]


def random_moto(folder: Path, vision: Path) -> None:
    """A checkpoint with random weights as Moto writes it, made by the helpers of tests/convert."""
    from transformers import ViTMAEConfig, ViTMAEModel

    # By path: the tests are no package.
    spec = importlib.util.spec_from_file_location("convert_conftest", ROOT / "tests/convert/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    helpers = importlib.util.module_from_spec(spec)
    sys.modules["convert_conftest"] = helpers
    spec.loader.exec_module(helpers)
    sizes = helpers.Sizes(**SIZES)
    helpers.write_moto(folder, helpers.tensors_of(sizes), helpers.hydra_tree(sizes))
    vision_sizes = {"hidden_size": sizes.vision_width, "image_size": sizes.image, "patch_size": sizes.vision_patch}
    config = ViTMAEConfig(num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, **vision_sizes)
    torch.manual_seed(0)
    model = ViTMAEModel(config)
    # As they are initialized, weights are so small that all frames have nearly the same features.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(vision)


def read(scratch: Path) -> None:
    """Load both checkpoints in Moto's environment and compare its codes with ours."""
    import transformers
    from common.models.model_utils import load_model

    from lara_tokenizer.export.moto_wrapper import keep_patch_order

    print(f"  transformers {transformers.__version__}, torch {torch.__version__}")
    for name in ("simulated", "converted"):
        expected = torch.load(scratch / name / "expected.pt")
        tokenizer = load_model(str(scratch / name)).eval()
        # Moto's own order first: `keep_patch_order` changes the model.
        shuffled = [_codes(tokenizer, expected) for _ in range(2)]
        codes = _codes(keep_patch_order(tokenizer), expected)
        ours = expected["codes"]
        print(
            f"{name}: {len(ours)} pairs of {tuple(expected['now'].shape[1:])}, {ours.shape[1]} codes each, "
            f"{len(ours.unique())} different ones\n"
            f"{name}: with Moto's shuffled patches {_share(shuffled[0], ours):.2%} of codes equal ours, and "
            f"{_share(*shuffled):.2%} those of a second call"
        )
        if not torch.equal(codes, ours):
            raise SystemExit(f"{name}: {(codes != ours).sum().item()} of {ours.numel()} codes differ")
        print(f"{name}: with patches in order all {ours.numel()} codes of Moto equal ours")


def _share(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one == other).float().mean().item()


def _codes(tokenizer: Any, expected: dict[str, torch.Tensor]) -> torch.Tensor:
    batches = zip(expected["now"].split(BATCH), expected["future"].split(BATCH), strict=True)
    with torch.no_grad():
        codes = [
            tokenizer(cond_pixel_values=now, target_pixel_values=future, return_motion_token_ids_only=True)
            for now, future in batches
        ]
    return torch.cat(codes)


if __name__ == "__main__":
    run(__file__, make, read, ("--clips", {"type": Path, "help": "A folder of videos. Default: images that move."}))
