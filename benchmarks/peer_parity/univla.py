"""UniVLA's own latent action model beside ours, on random weights: equal codes, z, DINOv2 features and predictions.

    python benchmarks/peer_parity/univla.py path/to/UniVLA --dinov2 path/to/dinov2 [--write]

Needs checkouts of github.com/OpenDriveLab/UniVLA and of github.com/facebookresearch/dinov2 at the commits of PEER and
DINOV2, and einops beside torch and transformers. `--write` renews tests/convert/golden/univla.safetensors; that is
right when a size here changes, and never to make a test pass.

Their class asks torch.hub for DINOv2: it gets one of DINOv2's own code, unmodified, with fewer layers. Positions are
stored for another size than the frames', so that they are interpolated: down as published (37 to 16 a side), and up.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import types
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_parity.checkout import Peer, check
from peer_parity.drawn import SEED, compare, on_cpu, random_frames, random_weights

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
GOLDEN = Path(__file__).resolve().parents[2] / "tests/convert/golden/univla.safetensors"
IMAGE_SIZE = 224

# By their argument names. Their class fixes DINOv2's width of 768, 4 + 4 tokens and the 16 nuisance codes.
SIZES: dict[str, dict[str, int]] = {
    "down": {
        "model_dim": 48,
        "latent_dim": 6,
        "num_latents": 12,
        "enc_blocks": 2,
        "dec_blocks": 3,
        "num_heads": 4,
    },
    "up": {
        "model_dim": 128,
        "latent_dim": 10,
        "num_latents": 20,
        "enc_blocks": 3,
        "dec_blocks": 1,
        "num_heads": 2,
    },
}
# Of DINOv2: the side of the frames that its positions are stored for, and its layers.
VISION = {"down": {"img_size": 518, "depth": 1}, "up": {"img_size": 112, "depth": 2}}
# Whether the file has the settings of Lightning, which alone say how many heads there are.
STATES_HEADS = {"down": True, "up": False}
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
    """Every so many patches and numbers: what of features (B, P, V) is kept as golden values."""
    return features[:, 3::16, 5::16].contiguous()


def load_original(checkout: Path, dinov2: Path) -> Any:
    """Their class as build(sizes, vision) -> module, without what only its other class and its trainer import."""
    sys.path[:0] = [str(checkout), str(dinov2)]
    torch.Tensor.cuda = on_cpu  # type: ignore[method-assign, assignment]
    from transformers import T5EncoderModel, T5Tokenizer  # noqa: F401 (asks whether there is a torchvision: before it)

    stand_ins = {
        "torchvision": {"transforms": types.SimpleNamespace(Normalize=Normalize)},
        "rotary_embedding_torch": {"RotaryEmbedding": None},  # imported, and never used
    }
    for name, content in stand_ins.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    warnings.filterwarnings("ignore", message="xFormers is not available")
    vits = importlib.import_module("dinov2.models.vision_transformer")
    lam = importlib.import_module("latent_action_model.genie.modules.lam")
    for name in stand_ins:
        del sys.modules[name]

    def build(sizes: dict[str, int], vision: dict[str, int]) -> nn.Module:
        torch.hub.load = lambda repository, name: build_dinov2(vits, **vision)  # type: ignore[assignment]
        return lam.ControllableDINOLatentActionModel(in_dim=3, patch_size=14, **sizes)

    return build


def build_dinov2(vits: Any, img_size: int, depth: int, width: int = 768) -> nn.Module:
    """A `dinov2_vitb14_reg` of torch.hub, with another depth and size of positions."""
    block = partial(vits.Block, attn_class=vits.MemEffAttention)
    return vits.DinoVisionTransformer(
        img_size=img_size,
        patch_size=14,
        embed_dim=width,
        depth=depth,
        num_heads=width // 64,
        init_values=1.0,
        block_fn=block,
        block_chunks=0,
        num_register_tokens=4,
        interpolate_antialias=True,
        interpolate_offset=0.0,
    )


class Normalize:
    """As torchvision's: (x - mean) / std for each colour."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    def __call__(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


@torch.no_grad()
def original_outputs(model: Any, frames: Tensor) -> dict[str, Tensor]:
    """Codes and z of both kinds of tokens, the features of frame t, and those predicted of frame t+C."""
    videos = (frames.float() / 255).transpose(0, 1)
    out = model({"videos": videos})
    return {
        "codes": out["indices"],
        "nuisance_codes": out["indices_uncontrol"],
        "latents": out["emb"],
        "nuisance_latents": out["emb_uncontrol"],
        "features": out["patches"][:, 0],
        "prediction": out["recon"][:, 0],
    }


def checkpoint(weights: dict[str, Tensor], name: str) -> dict[str, Any]:
    """A file as their trainer writes it, of the size `name`."""
    file: dict[str, Any] = {"state_dict": {f"lam.{key}": tensor for key, tensor in weights.items()}, "epoch": 0}
    if STATES_HEADS[name]:
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


def compare_published_shapes(build: Any) -> None:
    """Names and shapes of their module at the published size, which no weights are needed for."""
    from lara_tokenizer.convert.univla import univla_shapes
    from lara_tokenizer.model import SpaceTimeVqConfig

    with torch.device("meta"):
        module = build(PUBLISHED, PUBLISHED_VISION)
    theirs = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    equal = theirs == univla_shapes(SpaceTimeVqConfig())
    numbers = sum(torch.Size(shape).numel() for shape in theirs.values())
    said = "equal" if equal else "DIFFER"
    print(f"published size: {len(theirs)} tensors of {numbers:,} numbers, names and shapes {said}")
    if not equal:
        raise SystemExit("published size: the converter expects other tensors")


@torch.no_grad()
def compare_dinov2(img_size: int) -> None:
    """DINOv2 alone, in a narrow size: the patch tokens of its own code and of transformers'."""
    from lara_tokenizer.convert.univla import dinov2_config, dinov2_encoder

    vits = importlib.import_module("dinov2.models.vision_transformer")
    model = build_dinov2(vits, img_size, depth=3, width=128).eval()
    weights = random_weights({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()})
    model.load_state_dict(weights)
    encoder = dinov2_encoder(weights, dinov2_config(weights, Path("dinov2"), ""))
    frames = random_frames(IMAGE_SIZE, IMAGE_SIZE)[0].float() / 255
    theirs = {"features": model.forward_features(frames)["x_norm_patchtokens"]}
    tokens = encoder(pixel_values=frames).last_hidden_state
    compare(theirs, {"features": tokens[:, 1 + 4 :]}, f"DINOv2, {img_size} px to {IMAGE_SIZE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="where UniVLA's repository lies")
    parser.add_argument("--dinov2", type=Path, required=True, help="where DINOv2's repository lies")
    parser.add_argument("--write", action="store_true", help=f"renew {GOLDEN.name}")
    options = parser.parse_args()
    found, found_dinov2 = check(options.checkout, PEER), check(options.dinov2, DINOV2)
    build = load_original(options.checkout, options.dinov2)
    compare_published_shapes(build)
    for img_size in (518, IMAGE_SIZE, 112):
        compare_dinov2(img_size)

    from lara_tokenizer.convert import convert_checkpoint

    golden: dict[str, Tensor] = {}
    frames = random_frames(IMAGE_SIZE, IMAGE_SIZE)
    for name, sizes in SIZES.items():
        model = build(sizes, VISION[name]).eval()
        weights = random_weights({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()})
        model.load_state_dict(weights, strict=True)
        theirs = original_outputs(model, frames)
        with tempfile.TemporaryDirectory() as scratch:
            torch.save(checkpoint(weights, name), f"{scratch}/lam-stage-2.ckpt")
            convert_checkpoint(f"{scratch}/lam-stage-2.ckpt", out=f"{scratch}/lam")
            compare(theirs, our_outputs(f"{scratch}/lam", frames), name)
        kept = {key: thin(value) if key in ("features", "prediction") else value for key, value in theirs.items()}
        golden |= {f"{name}.{key}": value.contiguous() for key, value in kept.items()}
    if options.write:
        GOLDEN.parent.mkdir(exist_ok=True)
        metadata = {**found, **{f"dinov2_{name}": value for name, value in found_dinov2.items()}, "seed": str(SEED)}
        metadata |= {"script": "benchmarks/peer_parity/univla.py", "sizes": json.dumps(SIZES)}
        save_file(golden, GOLDEN, metadata=metadata)
        print(f"{GOLDEN}: {GOLDEN.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
