"""Drawn weights and frames for the comparison of two implementations, and the comparison itself."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SEED = 0
PAIRS = 6
TOLERANCE = 1e-4
CODES = "codes"  # ends the names of outputs that must be equal


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = SEED) -> dict[str, Tensor]:
    """One tensor a name, drawn in the order of the names; so spread that outputs differ from pair to pair."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _draw(name, shapes[name], generator) for name in sorted(shapes)}


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith("rotary_embedding.freqs"):  # a constant
        return 1.0 / 10000 ** (torch.arange(0, 2 * shape[0], 2).float() / (2 * shape[0]))
    values = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 0.2 * values + name.endswith(("weight", "gamma"))
    if name.endswith(".codebook.weight") or not name.endswith("weight"):
        return values
    # Queries and keys that match few of their like: an even look over all patches is the same for all pairs.
    spread = 2.0 if name.endswith(("to_q.weight", "to_k.weight", "qkv.weight")) else 1.0
    return spread * values * (values.numel() // shape[0]) ** -0.5


def random_frames(height: int, width: int, seed: int = SEED) -> Tensor:
    """uint8 (2, PAIRS, 3, height, width): frames t and t+C of 8 x 8 coloured squares, of which half stay."""
    generator = torch.Generator().manual_seed(seed + 1)
    now, other = torch.randint(256, (2, PAIRS, 3, 8, 8), generator=generator)
    stays = torch.rand(PAIRS, 1, 8, 8, generator=generator) < 0.5
    squares = torch.stack([now, torch.where(stays, now, other)]).to(torch.uint8)
    down, across = torch.arange(height) * 8 // height, torch.arange(width) * 8 // width
    return squares[..., down, :][..., across]


def compare(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], title: str) -> None:
    """Print how far apart outputs are; SystemExit where codes differ or numbers are more than TOLERANCE apart."""
    said, wrong = [], []
    for name, expected in theirs.items():
        if name.endswith(CODES):
            equal = torch.equal(expected, ours[name])
            said.append(f"{name} {'equal' if equal else 'DIFFER'} ({len(expected.unique(dim=0))} different pairs)")
        else:
            apart = (expected - ours[name]).abs().max().item()
            equal = apart <= TOLERANCE
            said.append(f"{name} within {apart:.1e} of values up to {expected.abs().max():.1f}")
        wrong += [] if equal else [name]
    print(f"{title:24} {', '.join(said)}")
    if wrong:
        raise SystemExit(f"{title}: {', '.join(wrong)} are not the original's")


def on_cpu(self: Tensor) -> Tensor:
    """Stands for `Tensor.cuda`, which their positions are sent through on every call."""
    return self
