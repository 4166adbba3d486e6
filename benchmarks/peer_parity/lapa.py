"""LAPA's own latent action quantizer beside ours, on random weights: equal codes, latents and reconstructions.

    python benchmarks/peer_parity/lapa.py path/to/LAPA [--write]

Needs a checkout of github.com/LatentActionPretraining/LAPA at PEER's commit, and beartype and einops beside torch.
`--write` renews tests/convert/golden/lapa.safetensors; that is right when a size here changes, and never to make a test
pass.

Both quirks of their code and its repair are compared: for the repaired one their modules are wrapped from outside.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_parity.checkout import Peer, check
from peer_parity.drawn import PAIRS, SEED, compare

PEER = Peer(
    "LAPA",
    "46aca51d7faebcec02d7d323bbb3820c2df07bc6",
    tuple(f"laq/laq_model/{name}.py" for name in ("attention", "latent_action_quantization", "nsvq")),
    "5408fe8339992d1e4a7d686e521a7ef03aadedeebe90504d0bbed26a19af3bb4",
)
GOLDEN = Path(__file__).resolve().parents[2] / "tests/convert/golden/lapa.safetensors"
GOLDEN_PICTURES = 2  # of the pairs; they are nearly all of the file

# By their argument names. `layer` counts, widths and grids all differ from the published ones.
SIZES: dict[str, dict[str, int]] = {
    "four": {
        "dim": 24,
        "quant_dim": 6,
        "codebook_size": 16,
        "image_size": 32,
        "patch_size": 4,
        "spatial_depth": 2,
        "temporal_depth": 1,
        "dim_head": 8,
        "heads": 4,
        "code_seq_len": 4,
    },
    "two": {
        "dim": 20,
        "quant_dim": 5,
        "codebook_size": 12,
        "image_size": 16,
        "patch_size": 2,
        "spatial_depth": 1,
        "temporal_depth": 2,
        "dim_head": 6,
        "heads": 2,
        "code_seq_len": 2,
    },
}
PUBLISHED = {
    "dim": 1024,
    "quant_dim": 32,
    "codebook_size": 8,
    "image_size": 256,
    "patch_size": 32,
    "spatial_depth": 8,
    "temporal_depth": 8,
    "dim_head": 64,
    "heads": 16,
    "code_seq_len": 4,
}
# Our field -> the value without the quirk.
REPAIRED = {"key_value_input": "normalized", "temporal_layout": "grid", "latent_layout": "per_code"}


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = SEED) -> dict[str, Tensor]:
    """One tensor a name, drawn in the order of the names; so spread that codes differ from pair to pair."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _draw(name, shapes[name], generator) for name in sorted(shapes)}


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if name == "vq.codebooks":
        return 0.5 * values
    if len(shape) > 1 and not name.endswith("null_kv"):
        return 1.5 * values * (values.numel() // shape[0]) ** -0.5
    is_gain = name.endswith(("gamma", "_scale", "first_frame.1.weight", "first_frame.3.weight", ".3.0.weight"))
    return 0.2 * values + is_gain


def random_frames(image_size: int, seed: int = SEED) -> Tensor:
    """uint8 (2, PAIRS, 3, S, S): frames t, and frames t+C that share half of their pixels' brightness with them."""
    generator = torch.Generator().manual_seed(seed + 1)
    now, change = torch.randint(256, (2, PAIRS, 3, image_size, image_size), generator=generator)
    return torch.stack([now, (now + change) // 2]).to(torch.uint8)


def load_original(checkout: Path) -> type[nn.Module]:
    """Their class, without the package's own imports: those bring a trainer and its loggers."""
    package = types.ModuleType("laq_model")
    package.__path__ = [str(checkout / "laq" / "laq_model")]
    sys.modules["laq_model"] = package
    quantization = importlib.import_module("laq_model.latent_action_quantization")
    nsvq = importlib.import_module("laq_model.nsvq").NSVQ
    # Their constructor asks for the codebook on a GPU.
    quantization.NSVQ = lambda **kwargs: nsvq(**{**kwargs, "device": "cpu"})
    return quantization.LatentActionQuantization


def repair(model: Any, field: str) -> None:
    """Wrap their modules so that one quirk is gone."""
    if field == "latent_layout":
        width = model.vq.embedding_dim
        model.vq.decode = lambda vectors, batch: model.vq.project_out(vectors.reshape(batch, -1, width))
    elif field == "temporal_layout":
        for layer in model.enc_temporal_transformer.layers:
            layer[0].forward = _true_neighbours(layer[0].forward)
    else:
        for stack in (model.enc_spatial_transformer, model.enc_temporal_transformer, model.dec_spatial_transformer):
            for layer in stack.layers:
                layer[1].context_norm = layer[1].norm
                layer[1].forward = _reads_itself(layer[1].forward)


def _true_neighbours(forward: Any) -> Any:
    def call(x: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
        batch, frames, rows, columns = shape
        places = (
            x.reshape(batch, rows * columns, frames, -1).transpose(1, 2).reshape(batch * frames, rows * columns, -1)
        )
        moved = forward(places, shape=shape)
        return moved.reshape(batch, frames, rows * columns, -1).transpose(1, 2).reshape(x.shape)

    return call


def _reads_itself(forward: Any) -> Any:
    return lambda x, mask=None, context=None, attn_bias=None: forward(x, mask=mask, context=x, attn_bias=attn_bias)


@torch.no_grad()
def original_outputs(model: Any, frames: Tensor) -> dict[str, Tensor]:
    """Codes by both of their ways, z, and the reconstruction."""
    video = (frames.float() / 255).permute(1, 2, 0, 3, 4)
    kept: list[Tensor] = []
    encode = model.vq.encode
    model.vq.encode = lambda tokens, batch: kept.append(encode(tokens, batch)) or kept[-1]
    codes = model.inference(video, return_only_codebook_ids=True)
    model.vq.encode = encode
    z = (kept[1] - kept[0]).reshape(len(video), -1, model.vq.embedding_dim)
    for noise in range(3):  # as their labelling script asks for them: through the noisy quantizer of training
        torch.manual_seed(noise)
        assert torch.equal(model(video, return_only_codebook_ids=True), codes), "noise changes their codes"
    return {"codes": codes, "latents": z, "reconstruction": model.inference(video)}


@torch.no_grad()
def our_outputs(weights: dict[str, Tensor], frames: Tensor, **fields: str) -> dict[str, Tensor]:
    """The same through `convert_checkpoint`, from a file as their trainer writes it."""
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


def compare_published_shapes(original: type[nn.Module]) -> None:
    """Names and shapes of their module at the published size, which no weights are needed for."""
    from lara_tokenizer.convert.lapa import lapa_shapes
    from lara_tokenizer.model import LaqConfig

    with torch.device("meta"):
        theirs = {name: tuple(tensor.shape) for name, tensor in original(**PUBLISHED).state_dict().items()}
    equal = theirs == lapa_shapes(LaqConfig())
    print(f"published size: {len(theirs)} tensors, names and shapes {'equal' if equal else 'DIFFER'}")
    if not equal:
        raise SystemExit("published size: the converter expects other tensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="where LAPA's repository lies")
    parser.add_argument("--write", action="store_true", help=f"renew {GOLDEN.name}")
    options = parser.parse_args()
    found = check(options.checkout, PEER)
    original = load_original(options.checkout)
    compare_published_shapes(original)
    golden: dict[str, Tensor] = {}
    for name, sizes in SIZES.items():
        shapes = {key: tuple(tensor.shape) for key, tensor in original(**sizes).state_dict().items()}
        weights, frames = random_weights(shapes), random_frames(sizes["image_size"])
        for field in (None, *REPAIRED):
            model = original(**sizes).eval()
            nn.Module.load_state_dict(model, weights, strict=True)
            if field is not None:
                repair(model, field)
            theirs = original_outputs(model, frames)
            fields = {} if field is None else {field: REPAIRED[field]}
            compare(theirs, our_outputs(weights, frames, **fields), f"{name}, {field or 'as published'}")
            theirs["reconstruction"] = theirs["reconstruction"][:GOLDEN_PICTURES]
            golden |= {f"{name}.{field or 'published'}.{key}": value.contiguous() for key, value in theirs.items()}
    if options.write:
        GOLDEN.parent.mkdir(exist_ok=True)
        metadata = {**found, "seed": str(SEED), "script": "benchmarks/peer_parity/lapa.py"}
        save_file(golden, GOLDEN, metadata={**metadata, "sizes": json.dumps(SIZES)})
        print(f"{GOLDEN}: {GOLDEN.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
