"""AdaWorld's own latent action autoencoder, or DreamDojo's, beside ours, on random weights: equal z and frames.

    python benchmarks/peer_parity/adaworld.py path/to/AdaWorld [--write]
    python benchmarks/peer_parity/adaworld.py path/to/DreamDojo

Needs a checkout of github.com/Little-Podi/AdaWorld or of github.com/NVIDIA/DreamDojo at their commit in COMMITS, and
einops beside torch. `--write` renews tests/convert/golden/adaworld.safetensors; that is right when a size here changes,
and never to make a test pass. Both projects must then still agree with it: run the other one as well.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_parity.drawn import SEED, compare, on_cpu, random_frames, random_weights

COMMITS = {
    "lam": "fe3701e607d025376b54aad28d04121f592ddbb3",  # AdaWorld
    "external/lam_project": "02f119b759d5c7f84a399fdeea3c6e82e7ed6cff",  # DreamDojo
}
GOLDEN = Path(__file__).resolve().parents[2] / "tests/convert/golden/adaworld.safetensors"

# By their argument names; the depth says whose frames they are.
SIZES: dict[str, dict[str, int]] = {
    "adaworld": {
        "model_dim": 48,
        "latent_dim": 6,
        "patch_size": 32,
        "enc_blocks": 2,
        "dec_blocks": 3,
        "num_heads": 3,
    },
    "dreamdojo": {
        "model_dim": 32,
        "latent_dim": 5,
        "patch_size": 40,
        "enc_blocks": 24,
        "dec_blocks": 2,
        "num_heads": 2,
    },
}
FRAMES = {"adaworld": (256, 256), "dreamdojo": (240, 320)}
PUBLISHED_DEPTH = {
    "adaworld": {"enc_blocks": 16, "dec_blocks": 16},
    "dreamdojo": {"enc_blocks": 24, "dec_blocks": 24},
}
_PUBLISHED_SIZES = {"model_dim": 1024, "latent_dim": 32, "patch_size": 16, "num_heads": 16}


def thin(reconstruction: Tensor) -> Tensor:
    """Every so many pixels: what of a frame is kept as golden values."""
    return reconstruction[..., 5::16, 3::16].contiguous()


def load_original(checkout: Path) -> type[nn.Module]:
    """Their class; the module around it, which needs a trainer, is left alone."""
    folder = next(folder for folder in COMMITS if (checkout / folder / "lam/modules/lam.py").is_file())
    sys.path.insert(0, str(checkout / folder))
    torch.Tensor.cuda = on_cpu  # type: ignore[method-assign, assignment]
    return importlib.import_module("lam.modules.lam").LatentActionModel


@torch.no_grad()
def original_outputs(model: Any, frames: Tensor) -> dict[str, Tensor]:
    """z, and the reconstruction with channels first."""
    videos = (frames.float() / 255).permute(1, 0, 3, 4, 2)
    out = model({"videos": videos})
    return {"latents": out["z_mu"].unsqueeze(1), "reconstruction": out["recon"][:, 0].permute(0, 3, 1, 2)}


@torch.no_grad()
def our_outputs(weights: dict[str, Tensor], frames: Tensor) -> dict[str, Tensor]:
    """The same through `convert_checkpoint`, from a file as their trainer writes it."""
    from lara_tokenizer.convert import convert_checkpoint
    from lara_tokenizer.model import LatentActionProcessor, load_model

    with tempfile.TemporaryDirectory() as scratch:
        torch.save({"state_dict": {f"lam.{name}": each for name, each in weights.items()}}, f"{scratch}/lam.ckpt")
        convert_checkpoint(f"{scratch}/lam.ckpt", out=f"{scratch}/lam")
        model = load_model(f"{scratch}/lam").eval()
        pixels = LatentActionProcessor.from_pretrained(f"{scratch}/lam")(frames[0], frames[1])
    out = model.encode(**pixels)
    assert out.latents is not None
    assert out.codes is None
    reconstruction = model.decode(pixels["pixel_values"], quantized_latents=out.quantized_latents)
    return {"latents": out.latents, "reconstruction": reconstruction}


def compare_published_shapes(original: type[nn.Module]) -> None:
    """Names and shapes of their module at the published sizes, which no weights are needed for."""
    from lara_tokenizer.convert.adaworld import adaworld_shapes
    from lara_tokenizer.model import SpaceTimeVaeConfig

    for name, depth in PUBLISHED_DEPTH.items():
        with torch.device("meta"):
            module = original(in_dim=3, **_PUBLISHED_SIZES, **depth)
        theirs = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        equal = theirs == adaworld_shapes(getattr(SpaceTimeVaeConfig, name)())
        numbers = sum(torch.Size(shape).numel() for shape in theirs.values())
        said = "equal" if equal else "DIFFER"
        print(f"{name}, published size: {len(theirs)} tensors of {numbers:,} numbers, names and shapes {said}")
        if not equal:
            raise SystemExit(f"{name}, published size: the converter expects other tensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="where AdaWorld's or DreamDojo's repository lies")
    parser.add_argument("--write", action="store_true", help=f"renew {GOLDEN.name}")
    options = parser.parse_args()
    original = load_original(options.checkout)
    compare_published_shapes(original)
    golden: dict[str, Tensor] = {}
    for name, sizes in SIZES.items():
        model = original(in_dim=3, **sizes).eval()
        weights = random_weights({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()})
        for key, tensor in model.state_dict().items():
            assert not key.endswith("freqs") or torch.equal(tensor, weights[key]), "the constant is not theirs"
        model.load_state_dict(weights, strict=True)
        frames = random_frames(*FRAMES[name])
        theirs = original_outputs(model, frames)
        compare(theirs, our_outputs(weights, frames), name)
        golden |= {
            f"{name}.latents": theirs["latents"].contiguous(),
            f"{name}.reconstruction": thin(theirs["reconstruction"]),
        }
    if options.write:
        GOLDEN.parent.mkdir(exist_ok=True)
        metadata = {"commit": json.dumps(COMMITS), "seed": str(SEED), "script": "benchmarks/peer_parity/adaworld.py"}
        save_file(golden, GOLDEN, metadata={**metadata, "sizes": json.dumps(SIZES)})
        print(f"{GOLDEN}: {GOLDEN.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
