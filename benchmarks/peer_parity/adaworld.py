"""AdaWorld's own latent action autoencoder, or DreamDojo's, beside ours, on random weights: equal z and frames.

    python benchmarks/peer_parity/adaworld.py path/to/AdaWorld [--write]
    python benchmarks/peer_parity/adaworld.py path/to/DreamDojo

Needs a checkout of github.com/Little-Podi/AdaWorld or of github.com/NVIDIA/DreamDojo at their commit in PEERS, and
einops beside torch. `--write` renews tests/convert/golden/adaworld.safetensors; that is right when a size here changes,
and never to make a test pass. Both projects must then still agree with it: run the other one as well.

The model is compared on frames of its own size. What the resize before it changes is measured after that: theirs keeps
the fractions and the overshoots of its filter, ours gives uint8, which is what a table's frames are.
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
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_parity.checkout import Peer, check
from peer_parity.drawn import PAIRS, SEED, compare, on_cpu, random_frames, random_weights

# By the folder of their module.
PEERS = {
    "lam": Peer(
        "AdaWorld",
        "fe3701e607d025376b54aad28d04121f592ddbb3",
        ("lam/lam/modules/*.py",),
        "68b0007608292c87db002993216093d16b749d5e241ff18d5798cf7e1f94ffba",
    ),
    "external/lam_project": Peer(
        "DreamDojo",
        "02f119b759d5c7f84a399fdeea3c6e82e7ed6cff",
        ("external/lam_project/lam/modules/*.py",),
        "ba469d78d70a4365fde696f0fb97aff7167d8318d4b15cddfdb66035f283f648",
    ),
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
CLIP = (240, 320)  # height and width of the frames that are resized
FRAMES = {"adaworld": (256, 256), "dreamdojo": (240, 320)}
PUBLISHED_DEPTH = {
    "adaworld": {"enc_blocks": 16, "dec_blocks": 16},
    "dreamdojo": {"enc_blocks": 24, "dec_blocks": 24},
}
_PUBLISHED_SIZES = {"model_dim": 1024, "latent_dim": 32, "patch_size": 16, "num_heads": 16}


def thin(reconstruction: Tensor) -> Tensor:
    """Every so many pixels: what of a frame is kept as golden values."""
    return reconstruction[..., 5::16, 3::16].contiguous()


def load_original(checkout: Path) -> tuple[type[nn.Module], dict[str, str]]:
    """Their class, and what was found of the checkout; the module around it, which needs a trainer, is left alone."""
    folder = next((folder for folder in PEERS if (checkout / folder / "lam/modules/lam.py").is_file()), None)
    if folder is None:
        raise SystemExit(f"{checkout} has none of {', '.join(PEERS)}: it is neither AdaWorld nor DreamDojo")
    found = check(checkout, PEERS[folder])
    sys.path.insert(0, str(checkout / folder))
    torch.Tensor.cuda = on_cpu  # type: ignore[method-assign, assignment]
    return importlib.import_module("lam.modules.lam").LatentActionModel, {"project": PEERS[folder].name, **found}


@torch.no_grad()
def original_outputs(model: Any, frames: Tensor) -> dict[str, Tensor]:
    """z, and the reconstruction with channels first."""
    videos = (frames.float() / 255).permute(1, 0, 3, 4, 2)
    out = model({"videos": videos})
    return {"latents": out["z_mu"].unsqueeze(1), "reconstruction": out["recon"][:, 0].permute(0, 3, 1, 2)}


@torch.no_grad()
def our_outputs(weights: dict[str, Tensor], frames: Tensor) -> dict[str, Tensor]:
    """The same by our model and processor."""
    model, processor = converted(weights)
    pixels = processor(frames[0], frames[1])
    out = model.encode(**pixels)
    assert out.latents is not None
    assert out.codes is None
    reconstruction = model.decode(pixels["pixel_values"], quantized_latents=out.quantized_latents)
    return {"latents": out.latents, "reconstruction": reconstruction}


def converted(weights: dict[str, Tensor]) -> tuple[Any, Any]:
    """Our model and processor through `convert_checkpoint`, from a file as their trainer writes it."""
    from lara_tokenizer.convert import convert_checkpoint
    from lara_tokenizer.model import LatentActionProcessor, load_model

    with tempfile.TemporaryDirectory() as scratch:
        torch.save({"state_dict": {f"lam.{name}": each for name, each in weights.items()}}, f"{scratch}/lam.ckpt")
        convert_checkpoint(f"{scratch}/lam.ckpt", out=f"{scratch}/lam")
        return load_model(f"{scratch}/lam").eval(), LatentActionProcessor.from_pretrained(f"{scratch}/lam")


@torch.no_grad()
def measure_resize(weights: dict[str, Tensor]) -> None:
    """How far their frames and ours are apart where AdaWorld's bicubic filter works, and z of them by our model."""
    model, processor = converted(weights)
    noise = torch.randint(256, (2, PAIRS, 3, *CLIP), generator=torch.Generator().manual_seed(SEED)).to(torch.uint8)
    clip = drawn_clip()
    for title, now, future in (("noise", *noise), ("a clip", clip[:-2], clip[2:])):
        ours = [processor(each)["pixel_values"] for each in (now, future)]
        theirs = [resized_as_theirs(each) for each in (now, future)]
        pixels = max((one - other).abs().max().item() for one, other in zip(ours, theirs, strict=True))
        latents = [model.encode(*each).latents.flatten(1) for each in (ours, theirs)]
        share = (latents[0] - latents[1]).abs().mean() / latents[1].std(0).mean()
        print(
            f"{title} of {CLIP[1]} x {CLIP[0]} px through both resizes: pixels up to {pixels:.3f} of 1 apart, z on "
            f"average by {share:.1%} of its deviation over pairs"
        )


def drawn_clip() -> Tensor:
    """uint8 (12, 3, H, W): a grainy picture that stays, and a square that moves over it, faster and faster."""
    generator = torch.Generator().manual_seed(SEED)
    grain = torch.randint(-30, 31, (3, *CLIP), generator=generator)
    picture = (random_frames(*CLIP)[0, 0] + grain).clamp(0, 255).to(torch.uint8)
    frames = picture.repeat(12, 1, 1, 1)
    for number, frame in enumerate(frames):
        left = 60 + number * (number + 1) // 2
        frame[:, 100:140, left : left + 40] = 230
    return frames


def resized_as_theirs(frames: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) as AdaWorld's lam/dataset.py prepares it: the square in the middle, bicubic, in floats."""
    height, width = frames.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frames[..., top : top + side, left : left + side].float() / 255
    return F.interpolate(square, FRAMES["adaworld"], mode="bicubic")


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
    original, found = load_original(options.checkout)
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
        if name == "adaworld":
            measure_resize(weights)
    if options.write:
        GOLDEN.parent.mkdir(exist_ok=True)
        metadata = {**found, "seed": str(SEED), "script": "benchmarks/peer_parity/adaworld.py"}
        save_file(golden, GOLDEN, metadata={**metadata, "sizes": json.dumps(SIZES)})
        print(f"{GOLDEN}: {GOLDEN.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
