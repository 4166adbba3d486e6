"""Random weights and frames for the comparison of two implementations, the comparison itself, and golden values."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peer_checkout import ROOT
from safetensors.torch import save_file
from torch import Tensor, nn

SEED = 0
PAIRS = 6
TOLERANCE = 1e-4  # sums of float32 in another order
CODES = "codes"  # suffix of the names of outputs that must be equal

Shapes = Mapping[str, tuple[int, ...]]
DrawTensor = Callable[[str, tuple[int, ...], torch.Generator], Tensor]


def arguments(doc: str, project: str, golden: Path, *options: tuple[str, dict[str, Any]]) -> argparse.Namespace:
    """The command line of a comparison: a checkout, `--write`, and the script's own options."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help=f"path of {project}'s repository")
    for name, settings in options:
        parser.add_argument(name, **settings)
    parser.add_argument("--write", action="store_true", help=f"write {golden.name} anew")
    return parser.parse_args()


def random_weights(shapes: Shapes, seed: int = SEED, draw: DrawTensor | None = None) -> dict[str, Tensor]:
    """One tensor per name, drawn in the order of the names, with a spread that makes outputs differ between pairs."""
    generator = torch.Generator().manual_seed(seed)
    return {name: (draw or _draw)(name, shapes[name], generator) for name in sorted(shapes)}


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith("rotary_embedding.freqs"):  # a constant
        return 1.0 / 10000 ** (torch.arange(0, 2 * shape[0], 2).float() / (2 * shape[0]))
    values = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 0.2 * values + name.endswith(("weight", "gamma"))
    if name.endswith(".codebook.weight") or not name.endswith("weight"):
        return values
    # Larger queries and keys make attention selective: uniform attention over all patches is alike for all pairs.
    spread = 2.0 if name.endswith(("to_q.weight", "to_k.weight", "qkv.weight")) else 1.0
    return spread * values * (values.numel() // shape[0]) ** -0.5


def random_frames(height: int, width: int, seed: int = SEED) -> Tensor:
    """uint8 (2, PAIRS, 3, height, width): frames t and t+C of 8 x 8 coloured squares, half of which stay."""
    generator = torch.Generator().manual_seed(seed + 1)  # not the numbers that the weights got
    now, other = torch.randint(256, (2, PAIRS, 3, 8, 8), generator=generator)
    stays = torch.rand(PAIRS, 1, 8, 8, generator=generator) < 0.5
    squares = torch.stack([now, torch.where(stays, now, other)]).to(torch.uint8)
    down, across = torch.arange(height) * 8 // height, torch.arange(width) * 8 // width
    return squares[..., down, :][..., across]


def compare(original: Mapping[str, Tensor], ours: Mapping[str, Tensor], title: str) -> None:
    """Print the differences of outputs; SystemExit where codes differ or numbers differ by more than TOLERANCE."""
    findings, wrong = [], []
    for name, expected in original.items():
        if name.endswith(CODES):  # how many differ between pairs is printed: equal constants would show nothing
            equal = torch.equal(expected, ours[name])
            findings.append(f"{name} {'equal' if equal else 'DIFFER'} ({len(expected.unique(dim=0))} different pairs)")
        else:
            difference = (expected - ours[name]).abs().max().item()
            equal = difference <= TOLERANCE
            findings.append(f"{name} within {difference:.1e} of values up to {expected.abs().max():.1f}")
        wrong += [] if equal else [name]
    print(f"{title:24} {', '.join(findings)}")
    if wrong:
        raise SystemExit(f"{title}: {', '.join(wrong)} are not the original's")


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def randomize(module: nn.Module) -> dict[str, Tensor]:
    """Load `random_weights` of its own shapes into a module; returns them."""
    weights = random_weights(shapes_of(module))
    module.load_state_dict(weights, strict=True)
    return weights


def compare_shapes(title: str, module: nn.Module, expected: Shapes) -> None:
    """Compare the original's names and shapes with those the converter expects. SystemExit where they differ."""
    original = shapes_of(module)
    equal = original == expected
    count = sum(torch.Size(shape).numel() for shape in original.values())
    verdict = "equal" if equal else "DIFFER"
    print(f"{title}: {len(original)} tensors of {count:,} numbers, names and shapes {verdict}")
    if not equal:
        raise SystemExit(f"{title}: the converter expects other tensors")


def write_golden(file: Path, tensors: Mapping[str, Tensor], script: str, sizes: Any, origin: Mapping[str, str]) -> None:
    """Save what the original computed, with the commit and the sizes it was computed from."""
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {**origin, "seed": str(SEED), "script": str(Path(script).resolve().relative_to(ROOT))}
    # safetensors takes no views of other tensors.
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, file, metadata={**metadata, "sizes": json.dumps(sizes)})
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def on_cpu(self: Tensor) -> Tensor:
    """Replaces `Tensor.cuda`, which some originals call on their positions in every forward pass."""
    return self
