"""AdaWorld's own latent action autoencoder, or DreamDojo's, beside ours, on random weights: equal z and frames.

    python benchmarks/peer_parity/adaworld.py path/to/AdaWorld [--write]
    python benchmarks/peer_parity/adaworld.py path/to/DreamDojo

Needs a checkout of github.com/Little-Podi/AdaWorld or of github.com/NVIDIA/DreamDojo at their commit in PEERS, and
einops beside torch. `--write` renews tests/convert/golden/adaworld.safetensors: right when a size here changes, never
to make a test pass. Both projects must then still agree with it: run the other one as well.

The model is compared on frames of its own size. The effect of the resize before it is measured after that: AdaWorld
keeps the fractions and the overshoots of its filter, ours gives uint8, as the frames of a table are.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_checkout import ROOT, Peer, check
from peer_parity import comparison

# By the folder of the module.
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
GOLDEN = ROOT / "tests/convert/golden/adaworld.safetensors"

# The converter recognizes the project, and with it the size of frames, by the number of encoder blocks.
SIZES = {
    "adaworld": {"model_dim": 48, "latent_dim": 6, "patch_size": 32, "enc_blocks": 2, "dec_blocks": 3, "num_heads": 3},
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
PUBLISHED_DEPTH = {"adaworld": 16, "dreamdojo": 24}
PUBLISHED_SIZES = {"model_dim": 1024, "latent_dim": 32, "patch_size": 16, "num_heads": 16}


def thin(reconstruction: Tensor) -> Tensor:
    """A sparse grid of pixels: the golden values of a frame."""
    return reconstruction[..., 5::16, 3::16]


def load_original(checkout: Path) -> tuple[type[nn.Module], dict[str, str]]:
    """The original's class and the checkout's metadata; the trainer around the class is not imported."""
    folder = next((folder for folder in PEERS if (checkout / folder / "lam/modules/lam.py").is_file()), None)
    if folder is None:
        raise SystemExit(f"{checkout} has none of {', '.join(PEERS)}: it is neither AdaWorld nor DreamDojo")
    origin = check(checkout, PEERS[folder])
    sys.path.insert(0, str(checkout / folder))
    # Both call `.cuda()` on positions wherever the model is.
    torch.Tensor.cuda = comparison.on_cpu  # type: ignore[method-assign, assignment]
    return importlib.import_module("lam.modules.lam").LatentActionModel, {"project": PEERS[folder].name, **origin}


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
    """Our model and processor through `convert_checkpoint`, from a file as the original's trainer writes it."""
    from lara_tokenizer.convert import convert_checkpoint
    from lara_tokenizer.model import LatentActionProcessor, load_model

    with tempfile.TemporaryDirectory() as scratch:
        torch.save({"state_dict": {f"lam.{name}": each for name, each in weights.items()}}, f"{scratch}/lam.ckpt")
        convert_checkpoint(f"{scratch}/lam.ckpt", out=f"{scratch}/lam")
        return load_model(f"{scratch}/lam").eval(), LatentActionProcessor.from_pretrained(f"{scratch}/lam")


@torch.no_grad()
def measure_resize(weights: dict[str, Tensor]) -> None:
    """Print the difference of frames after AdaWorld's bicubic filter and ours, and of our model's z of them."""
    model, processor = converted(weights)
    noise = torch.randint(
        256, (2, comparison.PAIRS, 3, *CLIP), generator=torch.Generator().manual_seed(comparison.SEED)
    ).to(torch.uint8)
    clip = random_clip()
    for title, now, future in (("noise", *noise), ("a clip", clip[:-2], clip[2:])):
        ours = [processor(each)["pixel_values"] for each in (now, future)]
        original = [resized_by_adaworld(each) for each in (now, future)]
        pixels = max((one - other).abs().max().item() for one, other in zip(ours, original, strict=True))
        latents = [model.encode(*each).latents.flatten(1) for each in (ours, original)]
        share = (latents[0] - latents[1]).abs().mean() / latents[1].std(0).mean()
        print(
            f"{title} of {CLIP[1]} x {CLIP[0]} px through both resizes: pixels up to {pixels:.3f} of 1 apart, z on "
            f"average by {share:.1%} of its deviation over pairs"
        )


def random_clip() -> Tensor:
    """uint8 (12, 3, H, W): a grainy background, and a square that moves over it with growing speed."""
    generator = torch.Generator().manual_seed(comparison.SEED)
    grain = torch.randint(-30, 31, (3, *CLIP), generator=generator)
    background = (comparison.random_frames(*CLIP)[0, 0] + grain).clamp(0, 255).to(torch.uint8)
    frames = background.repeat(12, 1, 1, 1)
    for index, frame in enumerate(frames):
        left = 60 + index * (index + 1) // 2
        frame[:, 100:140, left : left + 40] = 230
    return frames


def resized_by_adaworld(frames: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) as AdaWorld's lam/dataset.py prepares it: centre crop to a square, bicubic, in floats."""
    height, width = frames.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frames[..., top : top + side, left : left + side].float() / 255
    return F.interpolate(square, FRAMES["adaworld"], mode="bicubic")


def main() -> None:
    from lara_tokenizer.convert.adaworld import adaworld_shapes
    from lara_tokenizer.model import SpaceTimeVaeConfig

    options = comparison.arguments(__doc__, "AdaWorld's or DreamDojo", GOLDEN)
    original, origin = load_original(options.checkout)
    for name, depth in PUBLISHED_DEPTH.items():
        with torch.device("meta"):  # names and shapes need no memory
            published = original(in_dim=3, enc_blocks=depth, dec_blocks=depth, **PUBLISHED_SIZES)
        comparison.compare_shapes(
            f"{name}, published size", published, adaworld_shapes(getattr(SpaceTimeVaeConfig, name)())
        )
    golden: dict[str, Tensor] = {}
    for name, sizes in SIZES.items():
        model = original(in_dim=3, **sizes).eval()
        constants = {key: tensor.clone() for key, tensor in model.state_dict().items() if key.endswith("freqs")}
        weights = comparison.randomize(model)
        assert all(torch.equal(tensor, weights[key]) for key, tensor in constants.items()), "not the original's"
        frames = comparison.random_frames(*FRAMES[name])
        expected = original_outputs(model, frames)
        comparison.compare(expected, our_outputs(weights, frames), name)
        golden |= {f"{name}.latents": expected["latents"], f"{name}.reconstruction": thin(expected["reconstruction"])}
        if name == "adaworld":
            measure_resize(weights)
    if options.write:
        comparison.write_golden(GOLDEN, golden, __file__, SIZES, origin)


if __name__ == "__main__":
    main()
