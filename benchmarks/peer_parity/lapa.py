"""LAPA's own latent action quantizer beside ours, on random weights: equal codes, latents and reconstructions.

    python benchmarks/peer_parity/lapa.py path/to/LAPA [--write]

Needs a checkout of github.com/LatentActionPretraining/LAPA at PEER's commit, and beartype and einops beside torch.
`--write` renews tests/convert/golden/lapa.safetensors: right when a size here changes, never to make a test pass.

LAPA's code is compared as published, and with each of its quirks repaired by wrapping its modules.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_checkout import ROOT, Peer, check, stand_in
from peer_parity import comparison
from peer_parity.comparison import PAIRS, SEED, Shapes, arguments, compare, compare_shapes, shapes_of, write_golden

PEER = Peer(
    "LAPA",
    "46aca51d7faebcec02d7d323bbb3820c2df07bc6",
    tuple(f"laq/laq_model/{name}.py" for name in ("attention", "latent_action_quantization", "nsvq")),
    "5408fe8339992d1e4a7d686e521a7ef03aadedeebe90504d0bbed26a19af3bb4",
)
GOLDEN = ROOT / "tests/convert/golden/lapa.safetensors"
GOLDEN_IMAGES = 2  # of the pairs; reconstructions are nearly all of the file

ARGUMENTS = "dim quant_dim codebook_size image_size patch_size spatial_depth temporal_depth dim_head heads code_seq_len"


def _sizes(*values: int) -> dict[str, int]:
    return dict(zip(ARGUMENTS.split(), values, strict=True))


# Layers, widths and grids all differ from the published ones, so that no two dimensions can be confused.
SIZES = {"four": _sizes(24, 6, 16, 32, 4, 2, 1, 8, 4, 4), "two": _sizes(20, 5, 12, 16, 2, 1, 2, 6, 2, 2)}
PUBLISHED = _sizes(1024, 32, 8, 256, 32, 8, 8, 64, 16, 4)
# Our config field -> its value without the quirk.
REPAIRED = {"key_value_input": "normalized", "temporal_layout": "grid", "latent_layout": "per_code"}


def random_weights(shapes: Shapes, seed: int = SEED) -> dict[str, Tensor]:
    """One tensor per name, scaled so that codes differ between pairs."""
    return comparison.random_weights(shapes, seed, _draw)


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if name == "vq.codebooks":
        return 0.5 * values
    if len(shape) > 1 and not name.endswith("null_kv"):
        return 1.5 * values * (values.numel() // shape[0]) ** -0.5
    is_gain = name.endswith(("gamma", "_scale", "first_frame.1.weight", "first_frame.3.weight", ".3.0.weight"))
    return 0.2 * values + is_gain


def random_frames(image_size: int, seed: int = SEED) -> Tensor:
    """uint8 (2, PAIRS, 3, S, S): frames t and t+C; half of the brightness of t+C is that of t."""
    generator = torch.Generator().manual_seed(seed + 1)
    now, change = torch.randint(256, (2, PAIRS, 3, image_size, image_size), generator=generator)
    return torch.stack([now, (now + change) // 2]).to(torch.uint8)


def load_original(checkout: Path) -> type[nn.Module]:
    """LAPA's class, without its package's `__init__`, which imports a trainer and loggers."""
    stand_in("laq_model", checkout / "laq" / "laq_model")
    quantization = importlib.import_module("laq_model.latent_action_quantization")
    nsvq = importlib.import_module("laq_model.nsvq").NSVQ
    # LAPA's constructor asks for the codebook on a GPU.
    quantization.NSVQ = lambda **kwargs: nsvq(**{**kwargs, "device": "cpu"})
    return quantization.LatentActionQuantization


def repair(model: Any, field: str) -> None:
    """Wrap LAPA's modules so that one quirk is gone."""
    if field == "latent_layout":
        width = model.vq.embedding_dim
        model.vq.decode = lambda vectors, batch: model.vq.project_out(vectors.reshape(batch, -1, width))
    elif field == "temporal_layout":
        for layer in model.enc_temporal_transformer.layers:
            layer[0].forward = _with_true_neighbours(layer[0].forward)
    else:
        for stack in (model.enc_spatial_transformer, model.enc_temporal_transformer, model.dec_spatial_transformer):
            for layer in stack.layers:
                # As context the input gets the norm that LAPA applies to queries only.
                layer[1].context_norm = layer[1].norm
                layer[1].forward = _with_normed_context(layer[1].forward)


def _with_true_neighbours(forward: Any) -> Any:
    def call(x: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
        batch, frames, rows, columns = shape
        by_patch = x.reshape(batch, rows * columns, frames, -1)
        by_frame = by_patch.transpose(1, 2).reshape(batch * frames, rows * columns, -1)
        moved = forward(by_frame, shape=shape)
        return moved.reshape(batch, frames, rows * columns, -1).transpose(1, 2).reshape(x.shape)

    return call


def _with_normed_context(forward: Any) -> Any:
    return lambda x, mask=None, context=None, attn_bias=None: forward(x, mask=mask, context=x, attn_bias=attn_bias)


@torch.no_grad()
def original_outputs(model: Any, frames: Tensor) -> dict[str, Tensor]:
    """Codes by both of LAPA's ways, z, and the reconstruction."""
    video = (frames.float() / 255).permute(1, 2, 0, 3, 4)
    encoded: list[Tensor] = []  # of both frames: LAPA does not return z
    encode = model.vq.encode
    model.vq.encode = lambda tokens, batch: encoded.append(encode(tokens, batch)) or encoded[-1]
    codes = model.inference(video, return_only_codebook_ids=True)
    model.vq.encode = encode
    z = (encoded[1] - encoded[0]).reshape(len(video), -1, model.vq.embedding_dim)
    # LAPA's labelling script asks for codes through the noisy quantizer of training.
    for noise in range(3):
        torch.manual_seed(noise)
        assert torch.equal(model(video, return_only_codebook_ids=True), codes), "noise changes LAPA's codes"
    return {"codes": codes, "latents": z, "reconstruction": model.inference(video)}


@torch.no_grad()
def our_outputs(weights: dict[str, Tensor], frames: Tensor, **fields: str) -> dict[str, Tensor]:
    """The same through `convert_checkpoint`, from a file as LAPA's trainer writes it."""
    from lara_tokenizer.convert import convert_checkpoint
    from lara_tokenizer.model import LatentActionProcessor, load_model

    with tempfile.TemporaryDirectory() as scratch:
        torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, f"{scratch}/laq_openx.pt")
        convert_checkpoint(f"{scratch}/laq_openx.pt", out=f"{scratch}/laq")
        model = load_model(f"{scratch}/laq", **fields).eval()
        pixels = LatentActionProcessor.from_pretrained(f"{scratch}/laq")(frames[0], frames[1])
    out = model.encode(**pixels)
    assert out.codes is not None
    reconstruction = model.decode(pixels["pixel_values"], codes=out.codes)
    return {"codes": out.codes, "latents": out.latents, "reconstruction": reconstruction}


def main() -> None:
    from lara_tokenizer.convert.lapa import lapa_shapes
    from lara_tokenizer.model import LaqConfig

    options = arguments(__doc__, "LAPA", GOLDEN)
    origin = check(options.checkout, PEER)
    original = load_original(options.checkout)
    with torch.device("meta"):
        published = original(**PUBLISHED)
    compare_shapes("published size", published, lapa_shapes(LaqConfig()))
    golden: dict[str, Tensor] = {}
    for name, sizes in SIZES.items():
        weights = random_weights(shapes_of(original(**sizes)))
        frames = random_frames(sizes["image_size"])
        for field in (None, *REPAIRED):
            model = original(**sizes).eval()
            # LAPA's own method loads whatever fits.
            nn.Module.load_state_dict(model, weights, strict=True)
            if field is not None:
                repair(model, field)
            expected = original_outputs(model, frames)
            fields = {} if field is None else {field: REPAIRED[field]}
            compare(expected, our_outputs(weights, frames, **fields), f"{name}, {field or 'as published'}")
            expected["reconstruction"] = expected["reconstruction"][:GOLDEN_IMAGES]
            golden |= {f"{name}.{field or 'published'}.{key}": value for key, value in expected.items()}
    if options.write:
        write_golden(GOLDEN, golden, __file__, SIZES, origin)


if __name__ == "__main__":
    main()
