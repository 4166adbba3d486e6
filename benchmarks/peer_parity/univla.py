"""UniVLA's own latent action model beside ours, on random weights: equal codes, z, DINOv2 features and predictions.

    python benchmarks/peer_parity/univla.py path/to/UniVLA --dinov2 path/to/dinov2 [--write]

Needs checkouts of github.com/OpenDriveLab/UniVLA and of github.com/facebookresearch/dinov2 at the commits of PEER and
DINOV2, and einops beside torch and transformers. `--write` renews tests/convert/golden/univla.safetensors: right when
a size here changes, never to make a test pass.

UniVLA's class asks torch.hub for DINOv2 and gets one of DINOv2's own code, unmodified, with fewer layers. Positions are
stored for another size than the frames', so that they are interpolated: down as published (37 to 16 per side), and up.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import types
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_checkout import ROOT, Peer, check, stand_in
from peer_parity.comparison import (
    arguments,
    compare,
    compare_shapes,
    on_cpu,
    random_frames,
    randomize,
    write_golden,
)

PEER = Peer(
    "UniVLA",
    "0ab9e9dd3074ffa14fdd1a00aa2aa84e4f8e1352",
    ("latent_action_model/genie/modules/*.py",),
    "2ff9ca5a6cb45352012154bf7e99e2000fa54b78d1db0c29243ed456e78d32f1",
)
DINOV2 = Peer(
    "DINOv2",
    "b8931f7bf91576930313be2c6d6af376033b35f0",
    ("dinov2/layers/*.py", "dinov2/models/*.py"),
    "3abef21ed1a8d8855e96dd96d458aca3aa6801b285eda1e3fd3cf3dadb60dc31",
)
GOLDEN = ROOT / "tests/convert/golden/univla.safetensors"
IMAGE_SIZE = 224

# UniVLA's class fixes DINOv2's width of 768, 4 + 4 tokens and the 16 nuisance codes.
SIZES = {
    "down": {"model_dim": 48, "latent_dim": 6, "num_latents": 12, "enc_blocks": 2, "dec_blocks": 3, "num_heads": 4},
    "up": {"model_dim": 128, "latent_dim": 10, "num_latents": 20, "enc_blocks": 3, "dec_blocks": 1, "num_heads": 2},
}
# Of DINOv2: the side of the frames that its positions are stored for, and its layers.
VISION = {"down": {"img_size": 518, "depth": 1}, "up": {"img_size": 112, "depth": 2}}
# Whether the file has Lightning's settings: only they record the number of heads.
RECORDS_HEADS = {"down": True, "up": False}
PUBLISHED = {
    "model_dim": 768,
    "latent_dim": 128,
    "num_latents": 16,
    "enc_blocks": 12,
    "dec_blocks": 12,
    "num_heads": 12,
}
PUBLISHED_VISION = {"img_size": 518, "depth": 12}


def thin(features: Tensor) -> Tensor:
    """A sparse grid of patches and components: the golden values of features (B, P, V)."""
    return features[:, 3::16, 5::16]


def load_original(checkout: Path, dinov2: Path) -> Any:
    """UniVLA's class as build(sizes, vision) -> module, without the imports of its other class and its trainer."""
    sys.path[:0] = [str(checkout), str(dinov2)]
    torch.Tensor.cuda = on_cpu  # type: ignore[method-assign, assignment]
    # transformers looks for torchvision when it is imported: before the stand-in is there.
    from transformers import T5EncoderModel, T5Tokenizer  # noqa: F401

    stand_ins = [
        stand_in("torchvision", transforms=types.SimpleNamespace(Normalize=Normalize)),
        stand_in("rotary_embedding_torch", RotaryEmbedding=None),  # imported, and never used
    ]
    warnings.filterwarnings("ignore", message="xFormers is not available")
    vits = importlib.import_module("dinov2.models.vision_transformer")
    lam = importlib.import_module("latent_action_model.genie.modules.lam")
    # Libraries that are imported later must not take a stand-in for the real package.
    for module in stand_ins:
        del sys.modules[module.__name__]

    def build(sizes: dict[str, int], vision: dict[str, int]) -> nn.Module:
        torch.hub.load = lambda repository, name: build_dinov2(vits, **vision)  # type: ignore[assignment]
        return lam.ControllableDINOLatentActionModel(in_dim=3, patch_size=14, **sizes)

    return build


def build_dinov2(vits: Any, img_size: int, depth: int, width: int = 768) -> nn.Module:
    """A `dinov2_vitb14_reg` of torch.hub, with another depth and size of positions."""
    return vits.DinoVisionTransformer(
        img_size=img_size,
        patch_size=14,
        embed_dim=width,
        depth=depth,
        num_heads=width // 64,
        init_values=1.0,
        block_fn=partial(vits.Block, attn_class=vits.MemEffAttention),
        block_chunks=0,
        num_register_tokens=4,
        interpolate_antialias=True,
        interpolate_offset=0.0,
    )


class Normalize:
    """torchvision's: (x - mean) / std for each colour."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    def __call__(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


@torch.no_grad()
def original_outputs(model: Any, frames: Tensor) -> dict[str, Tensor]:
    """Codes and z of both kinds of tokens, the features of frame t, and those predicted of frame t+C."""
    out = model({"videos": (frames.float() / 255).transpose(0, 1)})
    return {
        "codes": out["indices"],
        "nuisance_codes": out["indices_uncontrol"],
        "latents": out["emb"],
        "nuisance_latents": out["emb_uncontrol"],
        "features": out["patches"][:, 0],
        "prediction": out["recon"][:, 0],
    }


def checkpoint(weights: dict[str, Tensor], name: str) -> dict[str, Any]:
    """A file as UniVLA's trainer writes it, of the size `name`."""
    file: dict[str, Any] = {"state_dict": {f"lam.{key}": tensor for key, tensor in weights.items()}, "epoch": 0}
    if RECORDS_HEADS[name]:
        file["hyper_parameters"] = {"lam_num_heads": SIZES[name]["num_heads"], "stage": "stage-2"}
    return file


@torch.no_grad()
def our_outputs(folder: str | Path, frames: Tensor) -> dict[str, Tensor]:
    """The same of a converted folder."""
    from lara_tokenizer.model import LatentActionProcessor, SpaceTimeVqModel

    model = SpaceTimeVqModel.from_pretrained(folder).eval()
    pixels = LatentActionProcessor.from_pretrained(folder)(frames[0], frames[1])
    now, future = (model.get_frame_features(each) for each in pixels.values())
    out = model.encode(frame_features=now, future_frame_features=future)
    nuisance = model.encode_nuisance(now, future)
    return {
        "codes": out.codes,
        "nuisance_codes": nuisance.codes,
        "latents": out.latents,
        "nuisance_latents": nuisance.latents,
        "features": now,
        "prediction": model.predict_features(now, codes=out.codes, nuisance_codes=nuisance.codes),
    }


@torch.no_grad()
def compare_dinov2(img_size: int) -> None:
    """DINOv2 alone, in a narrow size: the patch tokens of its own code and of transformers'."""
    from lara_tokenizer.convert.univla import dinov2_config, dinov2_encoder

    vits = importlib.import_module("dinov2.models.vision_transformer")
    model = build_dinov2(vits, img_size, depth=3, width=128).eval()
    weights = randomize(model)
    encoder = dinov2_encoder(weights, dinov2_config(weights, Path("dinov2"), ""))
    frames = random_frames(IMAGE_SIZE, IMAGE_SIZE)[0].float() / 255
    expected = {"features": model.forward_features(frames)["x_norm_patchtokens"]}
    tokens = encoder(pixel_values=frames).last_hidden_state
    compare(expected, {"features": tokens[:, 1 + 4 :]}, f"DINOv2, {img_size} px to {IMAGE_SIZE}")


def main() -> None:
    from lara_tokenizer.convert import convert_checkpoint
    from lara_tokenizer.convert.univla import univla_shapes
    from lara_tokenizer.model import SpaceTimeVqConfig

    dinov2 = ("--dinov2", {"type": Path, "required": True, "help": "path of DINOv2's repository"})
    options = arguments(__doc__, "UniVLA", GOLDEN, dinov2)
    origin, origin_of_dinov2 = check(options.checkout, PEER), check(options.dinov2, DINOV2)
    build = load_original(options.checkout, options.dinov2)
    with torch.device("meta"):
        published = build(PUBLISHED, PUBLISHED_VISION)
    compare_shapes("published size", published, univla_shapes(SpaceTimeVqConfig()))
    for img_size in (518, IMAGE_SIZE, 112):
        compare_dinov2(img_size)
    golden: dict[str, Tensor] = {}
    frames = random_frames(IMAGE_SIZE, IMAGE_SIZE)
    for name, sizes in SIZES.items():
        model = build(sizes, VISION[name]).eval()
        weights = randomize(model)
        expected = original_outputs(model, frames)
        with tempfile.TemporaryDirectory() as scratch:
            torch.save(checkpoint(weights, name), f"{scratch}/lam-stage-2.ckpt")
            convert_checkpoint(f"{scratch}/lam-stage-2.ckpt", out=f"{scratch}/lam")
            compare(expected, our_outputs(f"{scratch}/lam", frames), name)
        for key, value in expected.items():
            # Whole features would be megabytes in the repository.
            golden[f"{name}.{key}"] = thin(value) if key in ("features", "prediction") else value
    if options.write:
        origin |= {f"dinov2_{name}": value for name, value in origin_of_dinov2.items()}
        write_golden(GOLDEN, golden, __file__, SIZES, origin)


if __name__ == "__main__":
    main()
