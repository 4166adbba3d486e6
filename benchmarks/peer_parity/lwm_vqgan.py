"""The VQGAN encoder that LAPA ships (LWM's, in flax) beside ours, on random weights: equal latents and codes.

    python benchmarks/peer_parity/lwm_vqgan.py path/to/LAPA [--videos folder] [--write]

Needs a checkout of github.com/LatentActionPretraining/LAPA at PEER's commit, and jax, flax, ml_collections and
albumentations beside torch. `--write` renews tests/vision_tokens/golden/lwm_vqgan.safetensors: right when a size here
changes, never to make a test pass. `--videos` also compares frames of real video in their own size, through LAPA's own
preparation of images.

Stand-in: two functions of the library tux, which does not import with a current jax.
"""

from __future__ import annotations

import importlib
import pickle
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_checkout import ROOT, Peer, check, stand_in_tux
from peer_parity.comparison import SEED, Shapes, arguments, random_weights, write_golden

from lara_tokenizer.vision_tokens import LwmVisionTokenizer, VqganSizes
from lara_tokenizer.vision_tokens.lwm_weights import lwm_shapes
from lara_tokenizer.vision_tokens.resize import square

PEER = Peer(
    "LAPA",
    "46aca51d7faebcec02d7d323bbb3820c2df07bc6",
    ("latent_pretraining/data.py", "latent_pretraining/vqgan.py"),
    "ebf434de74f0830ba7fdbb95f2c98e56877fe6e62e5f22a938eed2da663e4172",
)
GOLDEN = ROOT / "tests/vision_tokens/golden/lwm_vqgan.safetensors"
IMAGES = 4
TOLERANCE = 1e-4  # of the largest latent
EQUAL_CODES = 0.999  # jax and torch sum in other orders: a latent between two codes may get either
# Heights and widths to be resized to 256 x 256; golden values are every PIXEL_STEP-th pixel of the result.
RESIZED = ((100, 201), (333, 410))
PIXEL_STEP = 6

SIZES = {
    "small": VqganSizes(
        image_size=32, width=32, multipliers=(1, 2, 3), blocks=1, latent_width=24, codebook_size=96, codebook_dim=12
    ),
    "published": VqganSizes(),
}


def random_arrays(shapes: Shapes, seed: int = SEED) -> dict[str, np.ndarray]:
    """One array per name; entries of the codebook are spread like latents."""
    return {name: tensor.numpy() for name, tensor in random_weights(shapes, seed, _draw).items()}


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if name.endswith("embeddings"):
        return values
    if name.endswith("kernel"):
        return values * (values.numel() // shape[-1]) ** -0.5
    return 0.2 * values + name.endswith("scale")


def random_frames(side: int, seed: int = SEED) -> np.ndarray:
    """uint8 (IMAGES, side, side, 3): coloured squares under noise."""
    generator = torch.Generator().manual_seed(seed + 1)
    squares = torch.randint(256, (IMAGES, 8, 8, 3), generator=generator)
    noise = torch.randint(-20, 21, (IMAGES, side, side, 3), generator=generator)
    square_index = torch.arange(side) * 8 // side
    return (squares[:, square_index][:, :, square_index] + noise).clamp(0, 255).to(torch.uint8).numpy()


def random_noise(height: int, width: int, seed: int = SEED) -> np.ndarray:
    """uint8 (1, height, width, 3) of noise."""
    generator = torch.Generator().manual_seed(seed + 2)
    return torch.randint(256, (1, height, width, 3), generator=generator).to(torch.uint8).numpy()


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Names with slashes as dicts within dicts, as flax keeps them."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parts, last = name.split("/")
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = array
    return tree


def load_original(checkout: Path) -> Any:
    """LAPA's module vqgan."""
    stand_in_tux()
    sys.path.insert(0, str(checkout))
    return importlib.import_module("latent_pretraining.vqgan")


def build_original(vqgan: Any, sizes: VqganSizes) -> Any:
    """LAPA's model; settings that are not in `sizes` keep LAPA's defaults."""
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
    """Names and shapes of the tensors that encoding uses, without drawing any."""
    import jax
    from flax.traverse_util import flatten_dict

    pixels = np.zeros((1, side, side, 3), np.float32)
    made = jax.eval_shape(lambda: model.init(jax.random.PRNGKey(0), pixels, method=model.encode))
    return {name: tuple(array.shape) for name, array in flatten_dict(made["params"], sep="/").items()}


class Original:
    """LAPA's model with weights, applied to one image at a time."""

    def __init__(self, model: Any, arrays: Mapping[str, np.ndarray]) -> None:
        import jax

        params = {"params": nested(arrays)}
        self._encode = jax.jit(lambda pixels: model.apply(params, pixels, method=model.encode)[1])
        before = lambda module, pixels: module.quant_conv(module.encoder(pixels))  # noqa: E731
        self._latents = jax.jit(lambda pixels: model.apply(params, pixels, method=before))

    def __call__(self, frames: np.ndarray) -> dict[str, Tensor]:
        """Codes (n, h * w) and latents (n, D, h, w) of frames of the right size, scaled as by LAPA's loader."""
        pixels = (frames / 127.5 - 1.0).astype(np.float32)
        codes = np.concatenate([np.asarray(self._encode(image[None])) for image in pixels])
        latents = np.concatenate([np.asarray(self._latents(image[None])) for image in pixels])
        return {
            "codes": torch.from_numpy(codes.reshape(len(frames), -1).astype(np.int64)),
            "latents": torch.from_numpy(latents).permute(0, 3, 1, 2).contiguous(),
        }


def our_tokenizer(arrays: Mapping[str, np.ndarray], sizes: VqganSizes) -> LwmVisionTokenizer:
    """Our tokenizer from a pickle as flax writes it: frozen dicts of jax arrays."""
    import jax.numpy as jnp
    from flax.core import freeze

    frozen = freeze(nested({name: jnp.asarray(array) for name, array in arrays.items()}))
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "vqgan"
        file.write_bytes(pickle.dumps(frozen))
        return LwmVisionTokenizer.from_pickle(file, sizes=sizes, device="cpu")


def compare(title: str, original: Mapping[str, Tensor], ours: LwmVisionTokenizer, frames: np.ndarray) -> None:
    """Print the differences; SystemExit where they exceed the tolerances. `frames` may have any size."""
    codes = torch.from_numpy(ours(frames))
    latents = torch.cat([ours.latents(frame[None]) for frame in frames])
    apart = ((latents - original["latents"]).abs().max() / original["latents"].abs().max()).item()
    equal = (codes == original["codes"]).double().mean().item()
    print(
        f"{title:44} {len(frames)} images, latents within {apart:.1e} of the largest, "
        f"{equal:.4%} of {codes.numel()} codes equal ({original['codes'].unique().numel()} different ones)",
        flush=True,
    )
    if apart > TOLERANCE or equal < EQUAL_CODES:
        raise SystemExit(f"{title}: not the original's")


def compare_resized() -> dict[str, Tensor]:
    """Resize noise by LAPA's preparation and by ours, which must be equal bit for bit; returns golden values."""
    from latent_pretraining.data import get_preprocessor

    golden = {}
    for height, width in RESIZED:
        image = random_noise(height, width)
        original = torch.from_numpy(get_preprocessor(image_aug=False)(image=image[0])["image"])
        equal = torch.equal(square(torch.from_numpy(image), 256)[0], original)
        print(f"noise of {width} x {height}, resized: {'equal' if equal else 'DIFFERS'}")
        if not equal:
            raise SystemExit("images are not resized as by LAPA")
        golden[f"resized.{height}"] = original[::PIXEL_STEP, ::PIXEL_STEP]
    return golden


def compare_videos(original: Original, ours: LwmVisionTokenizer, videos: Path) -> None:
    """Compare frames of real video in their own size; LAPA's own preparation resizes them to 256 x 256."""
    from latent_pretraining.data import get_preprocessor

    from lara_tokenizer.data import load_episodes

    prepare = get_preprocessor(image_aug=False)
    for episode in load_episodes(videos):
        count = len(episode.timestamps(""))
        frames = episode.frames("", [count // 4, count // 2])
        resized = np.stack([prepare(image=frame)["image"] for frame in frames])
        height, width = frames.shape[1:3]
        compare(f"{episode.id} ({width} x {height})", original(resized), ours, frames)


def main() -> None:
    options = arguments(__doc__, "LAPA", GOLDEN, ("--videos", {"type": Path, "help": "a folder of real video"}))
    origin = check(options.checkout, PEER)
    vqgan = load_original(options.checkout)
    for name, sizes in SIZES.items():
        model = build_original(vqgan, sizes)
        shapes = original_shapes(model, sizes.image_size)
        if shapes != lwm_shapes(sizes):
            raise SystemExit(f"{name}: other names or shapes, {set(shapes.items()) ^ set(lwm_shapes(sizes).items())}")
        arrays = random_arrays(shapes)
        frames = random_frames(sizes.image_size)
        original, ours = Original(model, arrays), our_tokenizer(arrays, sizes)
        expected = original(frames)
        compare(f"{name}, {len(shapes)} tensors with equal names", expected, ours, frames)
        if name == "small":  # golden values of the published size would be too large for the repository
            golden = {**expected, **compare_resized()}
    if options.write:
        write_golden(GOLDEN, golden, __file__, asdict(SIZES["small"]), origin)
    if options.videos is not None:
        compare_videos(original, ours, options.videos)


if __name__ == "__main__":
    main()
