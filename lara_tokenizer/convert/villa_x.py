"""villa-X's latent action model (github microsoft/villa-X, lam/): known, so that it can be refused with the reason."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NoReturn


def is_villa_x(names: Collection[str]) -> bool:
    """Whether a state dict with these names is villa-X's: it pools learned tokens over a window with its own times."""
    return "encoder.pe_temporal" in names and any(name.startswith("encoder.map_block.") for name in names)


def refuse_villa_x(file: Path) -> NoReturn:
    """Raises ValueError: why there is no converter."""
    raise ValueError(
        f"{file} is villa-X's latent action model: its codes depend on 8-frame windows; frame pairs cannot reproduce "
        "them: not supported. Label with villa-X's own code, or with another model."
    )
