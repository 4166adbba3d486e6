"""Names of layers: 1-based numbers, and "L" and "L-2" counted from the last."""

from __future__ import annotations

import re

_LAYER = re.compile(r"L(?:-(\d+))?|(\d+)")


def is_layer(layer: int | str) -> bool:
    """Whether it is such a name, and not, say, a module's path."""
    return _LAYER.fullmatch(str(layer)) is not None


def resolve_layer(layer: int | str, num_layers: int) -> int:
    """The 1-based number of a block.

    Raises:
        ValueError: Neither a number nor "L" or "L-k", or outside 1..num_layers.

    >>> resolve_layer("L-2", 16), resolve_layer("L", 16), resolve_layer(3, 16)
    (14, 16, 3)
    """
    counted = _LAYER.fullmatch(str(layer))
    if counted is None:
        raise ValueError(f"layer {layer!r}: takes a number from 1 to {num_layers}, 'L' or 'L-2'.")
    number = int(counted[2]) if counted[2] else num_layers - int(counted[1] or 0)
    if not 1 <= number <= num_layers:
        raise ValueError(
            f"layer {layer!r}: the policy has {num_layers} blocks, so from 1 (or 'L-{num_layers - 1}') to 'L'."
        )
    return number
