"""The VQGAN encoder that LAPA ships (LWM's, in flax) beside ours, on random weights: equal latents and codes.

    python benchmarks/peer_parity/lwm_vqgan.py path/to/LAPA [--videos folder] [--write]

Needs a checkout of github.com/LatentActionPretraining/LAPA at PEER's commit, and jax, flax, ml_collections and
albumentations beside torch. `--write` renews tests/vision_tokens/golden/lwm_vqgan.safetensors; that is right when a
size here changes, and never to make a test pass. `--videos` compares frames of real video in their own size as well,
through LAPA's own preparation of pictures.

What stands in, from outside: one function of their helper library tux, which does not import with a jax of today.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pickle
import sys
import tempfile
import types
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_parity.checkout import Peer, check

from lara_tokenizer.vision_tokens import LwmVisionTokenizer, VqganSizes
from lara_tokenizer.vision_tokens.lwm_weights import lwm_shapes
from lara_tokenizer.vision_tokens.resize import square

PEER = Peer(
    "LAPA",
    "46aca51d7faebcec02d7d323bbb3820c2df07bc6",
    ("latent_pretraining/data.py", "latent_pretraining/vqgan.py"),
    "ebf434de74f0830ba7fdbb95f2c98e56877fe6e62e5f22a938eed2da663e4172",
)
GOLDEN = Path(__file__).resolve().parents[2] / "tests/vision_tokens/golden/lwm_vqgan.safetensors"
SEED = 0
PICTURES = 4
TOLERANCE = 1e-4  # of the largest latent
EQUAL_CODES = 0.999
# Heights and widths to be brought to 256 x 256; of the result only every few pixels are kept.
RESIZED, KEPT = ((100, 201), (333, 410)), 6

SIZES = {
    "small": VqganSizes(
        image_size=32, width=32, multipliers=(1, 2, 3), blocks=1, latent_width=24, codebook_size=96, codebook_dim=12
    ),
    "published": VqganSizes(),
}


def random_arrays(shapes: Mapping[str, tuple[int, ...]], seed: int = SEED) -> dict[str, np.ndarray]:
    """One array a name, drawn in the order of the names; entries of the codebook lie where latents do."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _draw(name, shapes[name], generator).numpy() for name in sorted(shapes)}


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if name.endswith("embeddings"):
        return values
    if name.endswith("kernel"):
        return values * (values.numel() // shape[-1]) ** -0.5
    return 0.2 * values + name.endswith("scale")


def random_frames(side: int, seed: int = SEED) -> np.ndarray:
    """uint8 (PICTURES, side, side, 3): coloured squares under noise."""
    generator = torch.Generator().manual_seed(seed + 1)
    squares = torch.randint(256, (PICTURES, 8, 8, 3), generator=generator)
    noise = torch.randint(-20, 21, (PICTURES, side, side, 3), generator=generator)
    places = torch.arange(side) * 8 // side
    return (squares[:, places][:, :, places] + noise).clamp(0, 255).to(torch.uint8).numpy()


def random_pictures(height: int, width: int, seed: int = SEED) -> np.ndarray:
    """uint8 (1, height, width, 3), noise."""
    generator = torch.Generator().manual_seed(seed + 2)
    return torch.randint(256, (1, height, width, 3), generator=generator).to(torch.uint8).numpy()


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Names with slashes as dicts within dicts, as flax keeps them."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parts, last = name.split("/")
        where = tree
        for part in parts:
            where = where.setdefault(part, {})
        where[last] = array
    return tree


def load_original(checkout: Path) -> Any:
    """Their module vqgan, with the function of tux that it builds its config by."""
    from ml_collections import ConfigDict

    def function_args_to_config(function: Any) -> ConfigDict:
        parameters = inspect.signature(function).parameters.items()
        return ConfigDict({name: given.default for name, given in parameters if given.default is not given.empty})

    tux: Any = types.ModuleType("tux")
    tux.open_file, tux.function_args_to_config = open, function_args_to_config
    sys.modules["tux"] = tux
    sys.path.insert(0, str(checkout))
    return importlib.import_module("latent_pretraining.vqgan")


def build_original(vqgan: Any, sizes: VqganSizes) -> Any:
    """Their model; what `sizes` does not say stays as they have it."""
    updates = {
        "resolution": sizes.image_size,
        "hidden_channels": sizes.width,
        "channel_mult": sizes.multipliers,
        "num_res_blocks": sizes.blocks,
        "z_channels": sizes.latent_width,
        "num_embeddings": sizes.codebook_size,
        "quantized_embed_dim": sizes.codebook_dim,
    }
    return vqgan.VQGANModel(vqgan.VQGANConfig.get_default_config(updates))


def original_shapes(model: Any, side: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what encoding uses, for which no weights are drawn."""
    import jax
    from flax.traverse_util import flatten_dict

    pixels = np.zeros((1, side, side, 3), np.float32)
    made = jax.eval_shape(lambda: model.init(jax.random.PRNGKey(0), pixels, method=model.encode))
    return {name: tuple(array.shape) for name, array in flatten_dict(made["params"], sep="/").items()}


class Original:
    """Their model with weights, a picture at a time."""

    def __init__(self, model: Any, arrays: Mapping[str, np.ndarray]) -> None:
        import jax

        params = {"params": nested(arrays)}
        self._encode = jax.jit(lambda pixels: model.apply(params, pixels, method=model.encode)[1])
        before = lambda module, pixels: module.quant_conv(module.encoder(pixels))  # noqa: E731
        self._latents = jax.jit(lambda pixels: model.apply(params, pixels, method=before))

    def __call__(self, frames: np.ndarray) -> dict[str, Tensor]:
        """Codes (n, h * w) and latents (n, D, h, w) of frames of the right size, scaled as their loader does."""
        pixels = (frames / 127.5 - 1.0).astype(np.float32)
        codes = np.concatenate([np.asarray(self._encode(picture[None])) for picture in pixels])
        latents = np.concatenate([np.asarray(self._latents(picture[None])) for picture in pixels])
        return {
            "codes": torch.from_numpy(codes.reshape(len(frames), -1).astype(np.int64)),
            "latents": torch.from_numpy(latents).permute(0, 3, 1, 2).contiguous(),
        }


def our_tokenizer(arrays: Mapping[str, np.ndarray], sizes: VqganSizes) -> LwmVisionTokenizer:
    """Ours from a pickle as flax has written it: dicts frozen, arrays those of jax."""
    import jax.numpy as jnp
    from flax.core import freeze

    frozen = freeze(nested({name: jnp.asarray(array) for name, array in arrays.items()}))
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "vqgan"
        file.write_bytes(pickle.dumps(frozen))
        return LwmVisionTokenizer.from_pickle(file, sizes=sizes, device="cpu")


def compare(title: str, theirs: Mapping[str, Tensor], ours: LwmVisionTokenizer, frames: np.ndarray) -> None:
    """Print the differences; SystemExit where there are any that count. `frames` may be of any size."""
    codes = torch.from_numpy(ours(frames))
    latents = torch.cat([ours.latents(frame[None]) for frame in frames])
    apart = ((latents - theirs["latents"]).abs().max() / theirs["latents"].abs().max()).item()
    equal = (codes == theirs["codes"]).double().mean().item()
    print(
        f"{title:44} {len(frames)} pictures, latents within {apart:.1e} of the largest, "
        f"{equal:.4%} of {codes.numel()} codes equal ({theirs['codes'].unique().numel()} different ones)",
        flush=True,
    )
    if apart > TOLERANCE or equal < EQUAL_CODES:
        raise SystemExit(f"{title}: not the original's")


def compare_resized() -> dict[str, Tensor]:
    """Pictures of noise through their preparation and ours, equal to the last bit; returns some of theirs."""
    from latent_pretraining.data import get_preprocessor

    kept = {}
    for height, width in RESIZED:
        picture = random_pictures(height, width)
        theirs = torch.from_numpy(get_preprocessor(image_aug=False)(image=picture[0])["image"])
        equal = torch.equal(square(torch.from_numpy(picture), 256)[0], theirs)
        print(f"noise of {width} x {height}, resized: {'equal' if equal else 'DIFFERS'}")
        if not equal:
            raise SystemExit("pictures are not resized as theirs")
        kept[f"resized.{height}"] = theirs[::KEPT, ::KEPT].contiguous()
    return kept


def compare_videos(original: Original, ours: LwmVisionTokenizer, videos: Path) -> None:
    """Frames of real video in their own size, which LAPA's own preparation brings to 256 x 256."""
    from latent_pretraining.data import get_preprocessor

    from lara_tokenizer.data import load_episodes

    prepare = get_preprocessor(image_aug=False)
    for episode in load_episodes(videos):
        count = len(episode.timestamps(""))
        frames = episode.frames("", [count // 4, count // 2])
        prepared = np.stack([prepare(image=frame)["image"] for frame in frames])
        height, width = frames.shape[1:3]
        compare(f"{episode.id} ({width} x {height})", original(prepared), ours, frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="where LAPA's repository lies")
    parser.add_argument("--videos", type=Path, help="a folder of real video")
    parser.add_argument("--write", action="store_true", help=f"renew {GOLDEN.name}")
    options = parser.parse_args()
    found = check(options.checkout, PEER)
    vqgan = load_original(options.checkout)
    for name, sizes in SIZES.items():
        model = build_original(vqgan, sizes)
        shapes = original_shapes(model, sizes.image_size)
        if shapes != lwm_shapes(sizes):
            raise SystemExit(f"{name}: other names or shapes, {set(shapes.items()) ^ set(lwm_shapes(sizes).items())}")
        arrays, frames = random_arrays(shapes), random_frames(sizes.image_size)
        original, ours = Original(model, arrays), our_tokenizer(arrays, sizes)
        theirs = original(frames)
        compare(f"{name}, {len(shapes)} tensors with equal names", theirs, ours, frames)
        if name == "small":
            golden = {**theirs, **compare_resized()}
    if options.write:
        write_golden(golden, SIZES["small"], found)
    if options.videos is not None:
        compare_videos(original, ours, options.videos)


def write_golden(golden: Mapping[str, Tensor], sizes: VqganSizes, found: Mapping[str, str]) -> None:
    """What their code computed, and from what."""
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    metadata = {**found, "seed": str(SEED), "script": "benchmarks/peer_parity/lwm_vqgan.py"}
    save_file(dict(golden), GOLDEN, metadata={**metadata, "sizes": json.dumps(asdict(sizes))})
    print(f"{GOLDEN}: {GOLDEN.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
